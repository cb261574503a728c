"""Stand-ins for homes that are away: writes, reads, and what may not count (Dynamo §4.6)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from kvstore.core.encoding import decode_causal, decode_state, encode_context
from kvstore.core.limits import Limits
from kvstore.core.message import FetchHints, Request, Store, StoreHint
from kvstore.core.ring import full_key, partition_of
from kvstore.errors import KVStoreError, QuorumNotMet, QuorumUnavailable, StaleRead
from kvstore.node.node import Node
from tests.node.world import World, context, get, put, until, values

KEY = b"k"
FULL = full_key("b", KEY)
PARTITION = partition_of(FULL)


def held(node: Node) -> bytes:
    return node.replica.read(PARTITION, FULL)


def kept(node: Node) -> bytes:
    return node.hinting.kept.held(PARTITION, FULL)[0]


def kept_for(node: Node) -> list[str]:
    return [node.name_of(target) for target in node.hinting.kept.held(PARTITION, FULL)[1]]


def names(nodes: list[Node]) -> list[str]:
    return [node.name for node in nodes]


def lose_sight(of: list[Node], by: list[Node]) -> None:
    """`by` have found out already that these are away."""
    for node in by:
        for other in of:
            node.reach.failed(other.node_id, hard=True)


def values_of(state: bytes) -> list[bytes]:
    return [version.value for version in decode_state(state).siblings.values()] if state else []


def stores_lost_at(name: str) -> Callable[[str, str, Request], Request | None]:
    return lambda _from, to, request: None if to == name and isinstance(request, Store) else request


def all_in_reach(nodes: list[Node]) -> bool:
    return all(a.reach(b.node_id) for a in nodes for b in nodes)


def no_handoff(_sender: str, _receiver: str, request: Request) -> Request | None:
    """A delivery is a Store."""
    return None if isinstance(request, Store) else request


# --- writes -----------------------------------------------------------------------------------------------


async def test_a_home_that_is_away_gets_a_stand_in_and_the_write_ends_with_n_copies(five: World) -> None:
    first, second, away = five.homes("b", KEY)
    five.down.add(away.name)
    written = await put(first, KEY, b"v", w=3)
    stand_in = next(node for node in five.others("b", KEY) if kept(node))
    assert kept(stand_in) == held(first) == held(second) != b""
    assert kept_for(stand_in) == [away.name]
    assert (written.receipt.acks, written.receipt.hinted) == (3, (away.node_id,))
    assert (stand_in.node_id, "hinted") in [(node, did) for node, _, did in written.receipt.replicas]


async def test_a_home_known_to_be_away_is_not_asked_and_costs_no_deadline(five: World) -> None:
    first, _, away = five.homes("b", KEY)
    five.mute.add(away.name)
    lose_sight([away], [first])
    five.calls.clear()
    await put(first, KEY, b"v", w=3)
    assert [to for _, to, what in five.calls if isinstance(what, Store)] == [five.homes("b", KEY)[1].name]
    assert len([to for _, to, what in five.calls if isinstance(what, StoreHint)]) == 1


async def test_while_all_homes_answer_no_stand_in_is_asked(five: World) -> None:
    five.calls.clear()
    written = await put(five.homes("b", KEY)[0], KEY, b"v", w=3)
    assert not [what for _, _, what in five.calls if isinstance(what, StoreHint)]
    assert written.receipt.hinted == ()


async def test_a_home_that_hangs_gets_a_stand_in_also_after_the_client_has_its_answer(five: World) -> None:
    first, _, hung = five.homes("b", KEY)
    five.mute.add(hung.name)
    written = await put(first, KEY, b"v")
    assert written.receipt.acks == 2
    await until(lambda: any(kept_for(node) == [hung.name] for node in five.others("b", KEY)))


async def test_with_two_of_three_homes_away_stand_ins_make_w(five: World) -> None:
    first, *away = five.homes("b", KEY)
    five.down.update(names(away))
    written = await put(first, KEY, b"v", w=3)
    assert written.receipt.acks == 3
    assert sorted(written.receipt.hinted) == sorted(node.node_id for node in away)
    assert sorted(kept_for(node)[0] for node in five.others("b", KEY)) == sorted(names(away))


async def test_a_stand_in_that_fails_is_replaced_by_the_next_one(five: World) -> None:
    first, _, away = five.homes("b", KEY)
    five.down.add(away.name)
    refused: list[str] = []

    def refuse_the_first(_sender: str, receiver: str, request: Request) -> Request | None:
        if isinstance(request, StoreHint) and refused in ([], [receiver]):
            refused[:] = [receiver]
            return None
        return request

    five.intercept = refuse_the_first
    written = await put(first, KEY, b"v", w=3)
    assert written.receipt.acks == 3
    assert refused
    assert [node.name for node in five.others("b", KEY) if kept(node)] != refused


async def test_stand_ins_do_not_count_as_homes(five: World) -> None:
    first, *away = five.homes("b", KEY)
    five.down.update(names(away))
    with pytest.raises(QuorumNotMet) as lost:  # finds out that they are away
        await put(first, KEY, b"v", w=2, pw=2)
    assert lost.value.outcome == "unknown"
    before = held(first)
    with pytest.raises(QuorumUnavailable, match="2 of them homes") as refused:
        await put(first, KEY, b"w", w=2, pw=2)
    assert refused.value.outcome == "failed"
    assert held(first) == before


async def test_a_stand_in_that_answers_first_is_still_no_home(five: World) -> None:
    first, away, hung = five.homes("b", KEY)
    five.down.add(away.name)
    five.mute.add(hung.name)
    lose_sight([away], [first])
    with pytest.raises(QuorumNotMet) as lost:
        await put(first, KEY, b"v", w=2, pw=2)
    assert lost.value.hinted >= 1


async def test_without_sloppy_only_homes_count_and_hints_are_kept_all_the_same(five: World) -> None:
    first, second, away = five.homes("b", KEY)
    five.down.add(away.name)
    written = await put(first, KEY, b"v", w=2, sloppy=False)
    assert written.receipt.acks == 2
    await until(lambda: any(kept_for(node) == [away.name] for node in five.others("b", KEY)))
    five.down.add(second.name)
    with pytest.raises(QuorumNotMet):
        await put(first, KEY, b"w", sloppy=False)
    with pytest.raises(QuorumUnavailable) as refused:
        await put(first, KEY, b"x", sloppy=False)
    assert refused.value.outcome == "failed"
    assert (await put(first, KEY, b"y")).receipt.acks >= 2


async def test_a_bucket_may_be_strict(five: World) -> None:
    await five.named("n1").set_bucket("b", {"sloppy": False})
    await until(lambda: all(not node.bucket("b")[0].sloppy for node in five.nodes.values()))
    first, *away = five.homes("b", KEY)
    five.down.update(names(away))
    lose_sight(away, [first])
    with pytest.raises(QuorumUnavailable):
        await put(first, KEY, b"v")
    assert (await put(first, KEY, b"v", sloppy=True)).receipt.acks >= 2


async def test_too_few_nodes_of_any_kind_is_known_before_anything_is_applied(five: World) -> None:
    first, *others = five.homes("b", KEY) + five.others("b", KEY)
    five.down.update(names(others))
    lose_sight(others, [first])
    with pytest.raises(QuorumUnavailable, match="1 of the 3 homes of this key are in reach, 0 can be"):
        await put(first, KEY, b"v")
    assert held(first) == b""


async def test_a_write_that_a_home_refuses_for_what_it_is_takes_no_way_round(five: World) -> None:
    """A time from the far future stays refused: a hint must not carry it past the home's check."""
    await five.named("n1").set_bucket("b", {"conflict": "last-write-wins"})
    await until(lambda: all(node.bucket("b")[1] for node in five.nodes.values()))
    first, *_ = five.homes("b", KEY)
    five.clocks[first.name].ms += 24 * 3600 * 1000
    with pytest.raises(QuorumNotMet):
        await put(first, KEY, b"from tomorrow")
    assert not [what for _, _, what in five.calls if isinstance(what, StoreHint)]


async def test_a_home_that_nobody_stands_in_for_leaves_a_mark_for_anti_entropy(world: World) -> None:
    """Three nodes, three homes: there is nobody else."""
    world.down.add("n3")
    await put(world.named("n1"), KEY, b"v")
    kept_here = world.named("n1").hinting.kept
    assert kept_here.marks() == [(PARTITION, world.named("n3").node_id)]
    assert kept_here.dropped == 1
    await put(world.named("n1"), KEY, b"v2")
    assert (len(kept_here.marks()), kept_here.dropped) == (1, 2)


# --- no home in reach -------------------------------------------------------------------------------------


async def test_with_no_home_in_reach_others_take_the_write_and_bring_it_home(five: World) -> None:
    homes, (outsider, other) = five.homes("b", KEY), five.others("b", KEY)
    five.down.update(names(homes))
    written = await put(outsider, KEY, b"v")
    assert written.receipt.acks == 2
    assert written.receipt.coordinator == outsider.node_id
    assert len(set(written.receipt.hinted)) == 2
    assert values(await get(outsider, KEY)) == values(await get(other, KEY)) == [b"v"]
    five.down.clear()
    await until(lambda: sum(values_of(held(home)) == [b"v"] for home in homes) >= 2)
    await until(lambda: not kept(outsider) and not kept(other))
    assert values(await get(homes[2], KEY, r=3)) == [b"v"]


async def test_w_of_three_is_too_much_for_two_stand_ins(five: World) -> None:
    homes, (outsider, other) = five.homes("b", KEY), five.others("b", KEY)
    five.down.update(names(homes))
    with pytest.raises(QuorumUnavailable) as refused:
        await put(outsider, KEY, b"v", w=3)
    assert refused.value.outcome == "failed"
    assert kept(outsider) == kept(other) == b""


async def test_without_sloppy_no_home_in_reach_is_an_error(five: World) -> None:
    five.down.update(names(five.homes("b", KEY)))
    outsider = five.others("b", KEY)[0]
    with pytest.raises(QuorumUnavailable):
        await put(outsider, KEY, b"v", sloppy=False)
    with pytest.raises(QuorumUnavailable):
        await get(outsider, KEY, sloppy=False)


async def test_a_stand_in_supersedes_what_the_writer_has_seen_and_grows_no_context(five: World) -> None:
    five.down.update(names(five.homes("b", KEY)))
    outsider, other = five.others("b", KEY)
    seen = await put(outsider, KEY, b"v0")
    for i in range(1, 6):
        seen = await put(outsider, KEY, b"v%d" % i, context=seen.context)
    assert values(await get(other, KEY)) == [b"v5"]
    causal = decode_causal(kept(outsider)).context
    assert (len(causal.vector), causal.cloud) == (1, frozenset())


async def test_a_write_sent_again_through_a_stand_in_is_one_write(five: World) -> None:
    five.down.update(names(five.homes("b", KEY)))
    outsider = five.others("b", KEY)[0]
    first = await put(outsider, KEY, b"v", operation_id=b"op", mode="sibling")
    again = await put(outsider, KEY, b"v", operation_id=b"op", mode="sibling")
    assert first.etag == again.etag
    assert values(await get(outsider, KEY)) == [b"v"]


async def test_b7_a_stand_in_never_goes_on_under_the_id_of_a_home(five: World) -> None:
    """It is asked for a write again that a home made: that write's dot is not its own."""
    first, second, away = five.homes("b", KEY)
    five.down.add(away.name)
    await put(first, KEY, b"v", operation_id=b"op", w=3)
    stand_in = next(node for node in five.others("b", KEY) if kept(node))
    ((home_id, _),) = decode_causal(held(first)).dots
    five.down.update((first.name, second.name))
    lose_sight([first, second, away], [stand_in])
    await put(stand_in, KEY, b"v", operation_id=b"op", w=1)
    await put(stand_in, KEY, b"w", mode="sibling", w=1)
    assert sorted(values_of(kept(stand_in))) == [b"v", b"w"]
    assert [id_ for id_, _ in decode_causal(kept(stand_in)).dots].count(home_id) == 1


async def test_a_conditional_write_needs_knowledge_and_no_stand_in_has_any(five: World) -> None:
    five.down.update(names(five.homes("b", KEY)))
    with pytest.raises(KVStoreError) as refused:
        await put(five.others("b", KEY)[0], KEY, b"v", if_absent=True)
    assert refused.value.outcome == "failed"
    assert kept(five.others("b", KEY)[0]) == b""


async def test_b7_two_stand_ins_never_write_under_one_id(five: World) -> None:
    five.down.update(names(five.homes("b", KEY)))
    one, two = five.others("b", KEY)
    five.intercept = lambda _a, _b, request: None if isinstance(request, StoreHint) else request
    for node in (one, two):
        with pytest.raises(QuorumNotMet):
            await put(node, KEY, node.name.encode())
    five.intercept = lambda _a, _b, request: request
    assert sorted(values(await get(one, KEY))) == sorted([one.name.encode(), two.name.encode()])


@pytest.mark.parametrize("crash", [False, True])
async def test_b4_a_stand_in_that_was_restarted_writes_under_a_fresh_id(five: World, crash: bool) -> None:
    """Its memory of the last counter is gone; the hint, and the dots in it, are not."""
    homes = names(five.homes("b", KEY))
    five.down.update(homes)
    name = five.others("b", KEY)[0].name
    before = await put(five.named(name), KEY, b"1")
    dots = decode_causal(kept(five.named(name))).dots
    five.down.remove(homes[0])  # to start takes a majority
    node = await five.restart(name, crash=crash, expect=5, limits=Limits(peer_deadline_s=0.05))
    five.down.add(homes[0])
    after = await put(node, KEY, b"2", context=before.context)
    assert not {dot[0] for dot in decode_causal(kept(node)).dots} & {dot[0] for dot in dots}
    assert values(await get(node, KEY)) == [b"2"]
    assert after.siblings == 1


async def test_b4_after_its_hint_is_delivered_a_stand_in_is_a_new_writer(five: World) -> None:
    """The id would cover dots of writes that somebody else has and this node has forgotten."""
    homes, (outsider, _) = five.homes("b", KEY), five.others("b", KEY)
    five.down.update(names(homes))
    await put(outsider, KEY, b"1")
    (first,) = decode_causal(kept(outsider)).dots
    five.down.clear()
    await until(lambda: not kept(outsider))
    five.down.update(names(homes))
    lose_sight(homes, [outsider])
    await put(outsider, KEY, b"2", mode="sibling")
    (second,) = decode_causal(kept(outsider)).dots
    assert second[0] != first[0]
    five.down.clear()
    await until(lambda: not kept(outsider))
    assert sorted(values(await get(homes[0], KEY, r=3))) == [b"1", b"2"]


async def test_b3_a_stand_in_whose_hint_is_unreadable_is_a_new_writer(five: World) -> None:
    homes, (outsider, other) = five.homes("b", KEY), five.others("b", KEY)
    five.down.update(names(homes))
    await put(outsider, KEY, b"1")
    (first,) = decode_causal(kept(outsider)).dots
    target = outsider.hinting.kept.held(PARTITION, FULL)[1][0]
    from kvstore.core.hint import hint_key
    from kvstore.node.ports import Kind

    five.storages[outsider.name].disk.flip_bit(Kind.HINT, PARTITION, hint_key(target, FULL), 200)
    await put(outsider, KEY, b"2")
    assert first[0] not in {dot[0] for dot in decode_causal(kept(outsider)).dots}
    assert (PARTITION, target) in outsider.hinting.kept.marks()
    assert sorted(values(await get(other, KEY))) == [b"1", b"2"]


# --- reads ------------------------------------------------------------------------------------------------


async def test_what_stand_ins_hold_answers_for_homes_that_are_away(five: World) -> None:
    first, *away = five.homes("b", KEY)
    five.down.update(names(away))
    await put(first, KEY, b"v")
    for _ in range(3):
        got = await get(first, KEY)
        assert values(got) == [b"v"]
        assert got.receipt.acks >= 2
        assert set(got.receipt.hinted) <= {node.node_id for node in away}
        assert got.receipt.hinted


async def test_a_stand_in_knows_what_the_home_that_is_left_does_not(five: World) -> None:
    """Written while that home was away and two others were there; now it is the other way round."""
    first, *others = five.homes("b", KEY)
    five.down.add(first.name)
    five.intercept = stores_lost_at(first.name)
    await put(others[0], KEY, b"v", w=3)
    five.down = set(names(others))
    got = await get(first, KEY)
    assert values(got) == [b"v"]
    await until(lambda: held(first) != b"")  # read repair


@pytest.mark.parametrize(
    "options", [{"pr": 2}, {"sloppy": False}, {"monotonic": True}], ids=["pr", "strict", "monotonic"]
)
async def test_what_stand_ins_hold_never_counts_where_homes_must_answer(
    five: World, options: dict[str, object]
) -> None:
    first, *away = five.homes("b", KEY)
    five.down.update(names(away))
    await put(first, KEY, b"v")
    with pytest.raises(QuorumNotMet):
        await get(first, KEY, **options)


async def test_b25_that_a_stand_in_holds_nothing_says_nothing(five: World) -> None:
    """The fastest "not found" must not win: two homes have the value, and are away."""
    first, *away = five.homes("b", KEY)
    five.intercept = stores_lost_at(first.name)
    await put(away[0], KEY, b"v")
    five.down.update(names(away))
    for node in (first, *five.others("b", KEY)):
        with pytest.raises(QuorumNotMet):
            await get(node, KEY)
    assert values(await get(first, KEY, r=1)) == []
    assert [what for _, _, what in five.calls if isinstance(what, FetchHints)]


async def test_a_session_is_served_by_a_stand_in_where_homes_are_behind(five: World) -> None:
    """The homes are back before their hints are, and the client has seen its own write (read-your-writes)."""
    homes, (outsider, _) = five.homes("b", KEY), five.others("b", KEY)
    five.down.update(names(homes))
    written = await put(outsider, KEY, b"v")
    five.intercept = no_handoff
    five.down.clear()
    await until(lambda: all(outsider.reach(home.node_id) for home in homes))
    assert values(await get(homes[0], KEY)) == []
    assert values(await get(homes[0], KEY, session=written.context, monotonic=False)) == [b"v"]
    five.down.update(names(five.others("b", KEY)))
    with pytest.raises(StaleRead):
        await get(homes[1], b"another", session=written.context)


async def test_a_session_asks_all_that_are_left_though_one_of_them_is_away() -> None:
    """The first failure among them once ended the search, and the write of the last one was missed."""
    world = World()
    for name in ("n1", "n2", "n3", "n4", "n5"):
        await world.start(name, n=5, expect=5, limits=Limits(peer_deadline_s=0.05))
    await world.formed()
    first, down, *_, last = world.homes("b", KEY)
    world.intercept = lambda _a, _b, request: None if isinstance(request, Store) else request
    with pytest.raises(QuorumNotMet):
        await put(last, KEY, b"v")
    seen = encode_context(decode_causal(held(last)).context)
    world.down.add(down.name)
    assert values(await get(first, KEY, r=1, session=seen)) == [b"v"]
    await world.stop()


async def test_two_stand_ins_with_siblings_show_both_and_a_merge_resolves_them_at_home(five: World) -> None:
    homes, (one, two) = five.homes("b", KEY), five.others("b", KEY)
    five.down.update(names(homes))
    await put(one, KEY, b"1", mode="sibling")
    await put(two, KEY, b"2", mode="sibling")
    got = await get(one, KEY)
    assert sorted(values(got)) == [b"1", b"2"]
    await put(two, KEY, b"both", context=context(got))
    five.down.clear()
    await until(lambda: not kept(one) and not kept(two))
    assert values(await get(homes[0], KEY, r=3)) == [b"both"]


async def test_explain_tells_who_keeps_hints(five: World) -> None:
    first, _, away = five.homes("b", KEY)
    five.down.add(away.name)
    await put(first, KEY, b"v", w=3)
    told = await first.explain("b", KEY)
    (hint,) = told["hints"]
    assert hint["targets"] == [away.name]
    assert hint["name"] in names(five.others("b", KEY))
    assert [sibling["value_bytes"] for sibling in hint["siblings"]] == [1]


async def test_many_writes_while_homes_come_and_go_are_all_there_in_the_end(five: World) -> None:
    keys = [b"key-%d" % i for i in range(12)]
    written: list[tuple[bytes, bytes]] = []

    for round_, down in enumerate(({}, {"n1", "n2"}, {"n3"}, {"n4", "n5"})):
        five.down = set(down)
        up = [node for node in five.nodes.values() if node.name not in down]
        await until(partial(all_in_reach, up))
        for i, key in enumerate(keys):
            value = b"%d-%d" % (round_, i)
            await put(up[i % len(up)], key, value, mode="sibling", w=2)
            written.append((key, value))
    five.down.clear()
    await until(lambda: all(node.hinting.kept.count == 0 for node in five.nodes.values()), deadline_s=10)
    for key in keys:
        shown = values(await get(five.named("n1"), key, r=3))
        assert sorted(shown) == sorted(value for k, value in written if k == key)
