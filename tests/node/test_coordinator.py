"""Gets, puts and deletes across three homes (Dynamo §4.5, §5)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kvstore.core.encoding import decode_causal, decode_context, encode_context
from kvstore.core.limits import Limits
from kvstore.core.message import Get, Put, Read, Request, Store
from kvstore.core.ring import full_key, partition_of
from kvstore.errors import (
    ContextRequired,
    InvalidRequest,
    NotReady,
    PreconditionFailed,
    QuorumNotMet,
    QuorumUnavailable,
    StaleRead,
)
from tests.node.world import World, context, get, put, until, values

KEY = b"k"
PARTITION = partition_of(full_key("b", KEY))


def held(world: World, name: str, key: bytes = KEY) -> bytes:
    full = full_key("b", key)
    return world.named(name).replica.read(partition_of(full), full)


async def test_a_put_through_one_node_is_read_through_another(world: World) -> None:
    written = await put(world.named("n1"), KEY, b"v")
    assert (written.receipt.required, written.receipt.n) == (2, 3)
    assert 2 <= written.receipt.acks <= 3
    for name in ("n1", "n2", "n3"):
        assert values(await get(world.named(name), KEY)) == [b"v"]


async def test_a_missing_key_is_an_answer_and_not_an_error(world: World) -> None:
    got = await get(world.named("n1"), b"nothing")
    assert got.state == b""
    assert got.receipt.acks == 2


async def test_every_home_ends_with_the_same_bytes(world: World) -> None:
    await put(world.named("n2"), KEY, b"v")
    await until(lambda: held(world, "n1") == held(world, "n2") == held(world, "n3") != b"")


async def test_an_equal_replica_answers_without_the_value(world: World) -> None:
    await put(world.named("n1"), KEY, b"v" * 1000, w=3)
    world.calls.clear()
    got = await get(world.named("n1"), KEY)
    assert [what for _, _, what in got.receipt.replicas] == ["same", "same"]
    reads = [request for _, _, request in world.calls if isinstance(request, Read)]
    assert len(reads) == 1
    assert len(reads[0].known) == 16


async def test_concurrent_puts_through_two_nodes_leave_siblings_until_a_merged_context_resolves_them(
    world: World,
) -> None:
    world.intercept = _drop_stores_between("n1", "n2")
    await put(world.named("n1"), KEY, b"one", w=2)
    await put(world.named("n2"), KEY, b"two", w=2)
    world.intercept = _deliver
    got = await get(world.named("n3"), KEY, r=3)
    assert sorted(values(got)) == [b"one", b"two"]
    await put(world.named("n3"), KEY, b"both", context=context(got), w=3)
    for name in ("n1", "n2", "n3"):
        assert values(await get(world.named(name), KEY, r=1)) == [b"both"]


async def test_a_put_without_a_context_overwrites_what_its_coordinator_holds(world: World) -> None:
    await put(world.named("n1"), KEY, b"old", w=3)
    await put(world.named("n1"), KEY, b"new", w=3)
    assert values(await get(world.named("n2"), KEY)) == [b"new"]


async def test_mode_sibling_keeps_both_and_reject_refuses(world: World) -> None:
    await put(world.named("n1"), KEY, b"old", w=3)
    await put(world.named("n1"), KEY, b"new", w=3, mode="sibling")
    assert sorted(values(await get(world.named("n2"), KEY))) == [b"new", b"old"]
    with pytest.raises(ContextRequired):
        await put(world.named("n1"), KEY, b"third", mode="reject")


async def test_a_stale_context_supersedes_only_what_it_has_seen(world: World) -> None:
    """The token of a put is the writer's own context and the new dot, not what the coordinator knows."""
    first = await put(world.named("n1"), KEY, b"a", w=3)
    second = await put(world.named("n1"), KEY, b"b", w=3, mode="sibling")
    assert decode_context(second.context).covers(next(iter(decode_causal(held(world, "n1")).dots))) is False
    await put(world.named("n2"), KEY, b"a2", w=3, context=first.context)
    assert sorted(values(await get(world.named("n3"), KEY))) == [b"a2", b"b"]


async def test_the_same_operation_through_another_node_is_one_value(world: World) -> None:
    for name in ("n1", "n2", "n1"):
        await put(world.named(name), KEY, b"v", operation_id=b"op", mode="sibling", w=3)
    assert values(await get(world.named("n3"), KEY, r=3)) == [b"v"]
    assert len(decode_causal(held(world, "n1")).dots) == 1


async def test_twins_of_one_operation_are_shown_once_and_resolved_together(world: World) -> None:
    """The first try reached n1 only; the second came through n2, which knew nothing of it."""
    world.intercept = _drop_stores_between("n1", "n2", "n3")
    with pytest.raises(QuorumNotMet):
        await put(world.named("n1"), KEY, b"v", operation_id=b"op")
    world.intercept = _deliver
    await put(world.named("n2"), KEY, b"v", operation_id=b"op")
    got = await get(world.named("n3"), KEY, r=3)
    assert values(got) == [b"v"]
    await put(world.named("n3"), KEY, b"next", context=context(got), w=3)
    assert values(await get(world.named("n1"), KEY, r=3)) == [b"next"]


async def test_one_operation_id_for_two_values_is_refused(world: World) -> None:
    await put(world.named("n1"), KEY, b"v", operation_id=b"op", w=3)
    with pytest.raises(InvalidRequest, match="used for another write"):
        await put(world.named("n1"), KEY, b"other", operation_id=b"op")
    assert values(await get(world.named("n1"), KEY)) == [b"v"]


async def test_a_delete_hides_the_value_and_keeps_its_context(world: World) -> None:
    await put(world.named("n1"), KEY, b"v", w=3)
    got = await get(world.named("n2"), KEY)
    await put(world.named("n2"), KEY, b"", tombstone=True, context=context(got), w=3)
    after = await get(world.named("n3"), KEY)
    assert values(after) == []
    assert decode_causal(after.state).dots


async def test_a_live_sibling_beside_a_tombstone_is_what_a_read_shows(world: World) -> None:
    first = await put(world.named("n1"), KEY, b"v", w=3)
    await put(world.named("n1"), KEY, b"concurrent", w=3, mode="sibling")
    await put(world.named("n2"), KEY, b"", tombstone=True, context=first.context, w=3)
    assert values(await get(world.named("n3"), KEY)) == [b"concurrent"]


async def test_expired_values_are_not_shown(world: World) -> None:
    await put(world.named("n1"), KEY, b"v", ttl_ms=1000, w=3)
    got = await get(world.named("n2"), KEY)
    now = world.clocks["n2"].ms
    assert values(got, now) == [b"v"]
    assert values(got, now + 1000) == []


# --- replicas that are down, hung or behind -------------------------------------------------------------


async def test_one_dead_home_costs_no_quorum(world: World) -> None:
    world.down.add("n3")
    await put(world.named("n1"), KEY, b"v")
    assert values(await get(world.named("n2"), KEY)) == [b"v"]


async def test_with_two_homes_out_of_reach_a_put_is_refused_before_anything_is_applied(world: World) -> None:
    world.down.update(("n2", "n3"))
    with pytest.raises(QuorumNotMet):  # the first one finds out
        await put(world.named("n1"), b"first", b"v")
    with pytest.raises(QuorumUnavailable) as refused:
        await put(world.named("n1"), KEY, b"v")
    assert refused.value.outcome == "failed"
    assert held(world, "n1") == b""


async def test_a_put_that_reached_too_few_says_unknown_and_is_not_rolled_back(world: World) -> None:
    world.intercept = _drop_stores_between("n1", "n2", "n3")
    with pytest.raises(QuorumNotMet) as lost:
        await put(world.named("n1"), KEY, b"v")
    assert lost.value.outcome == "unknown"
    assert (lost.value.required, lost.value.received, lost.value.asked) == (2, 1, 3)
    world.intercept = _deliver
    assert values(await get(world.named("n2"), KEY, r=3)) == [b"v"]


async def test_a_hung_replica_costs_one_deadline_and_then_its_breaker_opens(world: World) -> None:
    await put(world.named("n1"), KEY, b"v", w=3)
    world.mute.add("n2")
    asked_n2 = 0
    for _ in range(12):
        world.calls.clear()
        assert values(await get(world.named("n1"), KEY, timeout_ms=20)) == [b"v"]
        asked_n2 += any(to == "n2" for who, to, what in world.calls if who == "n1" and isinstance(what, Read))
    assert asked_n2 <= 4  # three failures in a row open it; at most one probe since
    assert world.named("n1").reach.state(world.named("n2").node_id).value != "closed"


async def test_a_read_asks_the_next_home_when_one_fails(world: World) -> None:
    await put(world.named("n1"), KEY, b"v", w=3)
    world.down.add("n2")
    for _ in range(4):
        got = await get(world.named("n1"), KEY)
        assert values(got) == [b"v"]
        assert got.receipt.acks == 2


async def test_read_repair_sends_a_replica_what_it_lacks_after_the_answer(world: World) -> None:
    world.down.add("n3")
    await put(world.named("n1"), KEY, b"v")
    world.down.clear()
    got = await get(world.named("n1"), KEY, r=3)
    assert values(got) == [b"v"]
    assert got.receipt.repairs == 1
    await until(lambda: held(world, "n3") == held(world, "n1"))


async def test_a_replica_that_coordinates_repairs_itself(world: World) -> None:
    world.down.add("n3")
    await put(world.named("n1"), KEY, b"v")
    world.down.clear()
    assert values(await get(world.named("n3"), KEY, r=2)) == [b"v"]
    await until(lambda: held(world, "n3") == held(world, "n1"))


async def test_a_monotonic_read_answers_only_after_r_replicas_hold_it(world: World) -> None:
    world.intercept = _drop_stores_between("n1", "n2", "n3")
    with pytest.raises(QuorumNotMet):
        await put(world.named("n1"), KEY, b"v")
    world.intercept = _deliver
    # r=2 is met by n1 and one other; that other holds it before the answer is given.
    got = await get(world.named("n1"), KEY, monotonic=True)
    assert values(got) == [b"v"]
    assert sum(held(world, name) == held(world, "n1") for name in ("n2", "n3")) == 1
    # And if the repair cannot be made durable on R replicas, nothing is shown.
    world.intercept = _drop_stores_between("n1", "n2", "n3")
    with pytest.raises(QuorumNotMet):
        await put(world.named("n1"), b"other", b"v")
    with pytest.raises(QuorumNotMet):
        await get(world.named("n1"), b"other", monotonic=True, timeout_ms=100)


async def test_a_session_gets_what_it_has_seen_or_an_error(world: World) -> None:
    world.intercept = _drop_stores_between("n1", "n2", "n3")
    with pytest.raises(QuorumNotMet):
        await put(world.named("n1"), KEY, b"v")
    world.intercept = _deliver
    seen = encode_context(decode_causal(held(world, "n1")).context)
    got = await get(world.named("n2"), KEY, r=1, session=seen)
    assert values(got) == [b"v"]
    world.down.add("n1")
    with pytest.raises(StaleRead):
        await get(world.named("n3"), b"k2", r=1, session=seen)


# --- conditions, forwarding, settings --------------------------------------------------------------------


async def test_if_match_lets_one_of_two_writers_pass(world: World) -> None:
    first = await put(world.named("n1"), KEY, b"v", w=3)
    await put(world.named("n2"), KEY, b"v2", if_match=first.etag, w=3)
    with pytest.raises(PreconditionFailed, match="current ETag"):
        await put(world.named("n3"), KEY, b"v3", if_match=first.etag)
    assert values(await get(world.named("n1"), KEY)) == [b"v2"]


async def test_if_absent_writes_only_where_nothing_is_shown(world: World) -> None:
    written = await put(world.named("n1"), KEY, b"v", if_absent=True, w=3)
    with pytest.raises(PreconditionFailed):
        await put(world.named("n2"), KEY, b"w", if_absent=True)
    await put(world.named("n2"), KEY, b"", tombstone=True, context=written.context, w=3)
    await put(world.named("n3"), KEY, b"again", if_absent=True, w=3)
    assert values(await get(world.named("n1"), KEY)) == [b"again"]


async def test_a_node_that_is_no_home_forwards_once() -> None:
    world = World()
    for name in ("n1", "n2", "n3", "n4"):
        await world.start(name, expect=4)
    await world.formed()
    homes = world.homes("b", KEY)
    outsider = next(node for node in world.nodes.values() if node not in homes)
    await put(outsider, KEY, b"v", w=3)
    got = await get(outsider, KEY)
    assert values(got) == [b"v"]
    assert got.receipt.coordinator in {node.node_id for node in homes}
    with pytest.raises(NotReady):  # a second hop would mean that layouts differ
        await outsider.get(Get("b", KEY, forwarded=True))
    # A home that is gone is passed over: nothing was sent to it.
    world.down.add(homes[0].name)
    for _ in range(3):
        assert values(await get(outsider, KEY)) == [b"v"]
        await outsider.put(Put("b", KEY, b"v", operation_id=b"again"))
    # Refusals of the home come through as what they are.
    with pytest.raises(InvalidRequest):
        await outsider.put(Put("b", KEY, b"other", operation_id=b"again"))
    await world.stop()


async def test_contradictory_counts_are_refused_by_name(world: World) -> None:
    with pytest.raises(InvalidRequest, match=r"r=4 must lie between 1 and n=3"):
        await get(world.named("n1"), KEY, r=4)
    with pytest.raises(InvalidRequest, match=r"n=4 is more than the bucket's n=3"):
        await get(world.named("n1"), KEY, n=4)


async def test_a_cluster_smaller_than_n_says_so() -> None:
    world = World()
    node = await world.start("n1", n=3, expect=1)
    await world.formed()
    with pytest.raises(InvalidRequest, match=r"n=3 needs 3 nodes, the cluster has 1"):
        await put(node, KEY, b"v")
    await world.stop()


async def test_siblings_beyond_the_limit_must_be_resolved_first() -> None:
    world = World()
    node = await world.start("n1", n=1, expect=1, limits=Limits(siblings_max=3))
    await world.formed()
    for value in (b"1", b"2", b"3"):
        await put(node, KEY, value, mode="sibling")
    with pytest.raises(ContextRequired, match="3 siblings, the limit is 3"):
        await put(node, KEY, b"4", mode="sibling")
    got = await get(node, KEY)
    assert len(values(got)) == 3
    await put(node, KEY, b"resolved", context=context(got))
    assert values(await get(node, KEY)) == [b"resolved"]
    await world.stop()


async def test_last_write_wins_shows_one_value_on_every_node(world: World) -> None:
    await world.named("n1").set_bucket("b", {"conflict": "last-write-wins"})
    await until(lambda: all(node.bucket("b")[1] for node in world.nodes.values()))
    world.intercept = _drop_stores_between("n1", "n2")
    await put(world.named("n1"), KEY, b"first")
    world.clocks["n2"].ms += 1000
    await put(world.named("n2"), KEY, b"second")
    world.intercept = _deliver
    got = await get(world.named("n3"), KEY, r=3)
    assert got.last_write_wins
    assert values(got) == [b"second"]


async def test_a_last_write_from_the_far_future_is_refused_and_counted(world: World) -> None:
    await world.named("n1").set_bucket("b", {"conflict": "last-write-wins"})
    await until(lambda: all(node.bucket("b")[1] for node in world.nodes.values()))
    world.clocks["n1"].ms += 24 * 3600 * 1000
    with pytest.raises(QuorumNotMet):
        await put(world.named("n1"), KEY, b"from tomorrow")
    assert world.named("n2").time.refused == 1
    await put(world.named("n2"), KEY, b"of today")


async def test_a_wrong_clock_changes_nothing_for_siblings(world: World) -> None:
    world.clocks["n1"].ms += 24 * 3600 * 1000
    written = await put(world.named("n1"), KEY, b"from tomorrow", w=3)
    await put(world.named("n2"), KEY, b"of today", context=written.context, w=3)
    assert values(await get(world.named("n3"), KEY)) == [b"of today"]


def _deliver(_sender: str, _receiver: str, request: Request) -> Request | None:
    return request


def _drop_stores_between(*names: str) -> Callable[[str, str, Request], Request | None]:
    def intercept(sender: str, receiver: str, request: Request) -> Request | None:
        dropped = isinstance(request, Store) and sender in names and receiver in names
        return None if dropped else request

    return intercept
