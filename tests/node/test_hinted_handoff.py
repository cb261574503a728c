"""Hints on their way home: delivered, kept, refused, and never forgotten (Dynamo §4.6)."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from kvstore.core.encoding import decode_state, encode_state
from kvstore.core.hint import Hint, encode_hint, hint_key
from kvstore.core.hybrid_clock import tick
from kvstore.core.limits import DEFAULT_LIMITS, Limits
from kvstore.core.message import FetchHints, HintsHeld, Reply, Request, Store, Stored, StoreHint
from kvstore.core.ring import full_key, partition_of
from kvstore.core.sibling import EMPTY_STATE, Version, write
from kvstore.core.vector_clock import EMPTY_CONTEXT
from kvstore.errors import CorruptRecord, InvalidRequest, Overloaded, StorageFull, TooLarge
from kvstore.node.hint_store import HintStore
from kvstore.node.node import Node
from kvstore.node.ports import Kind
from kvstore.storage.memory import MemoryStorage
from tests.node.world import Clock, World, put, until

KEY = b"k"
FULL = full_key("b", KEY)
P = partition_of(FULL)
SHORT = Limits(peer_deadline_s=0.05)
TARGET, OTHER = "11" * 16, "22" * 16


def state(value: bytes, dot: tuple[int, int] = (1, 1)) -> bytes:
    return encode_state(write(EMPTY_STATE, EMPTY_CONTEXT, Version(value), dot))


def values_of(encoded: bytes) -> list[bytes]:
    return sorted(version.value for version in decode_state(encoded).siblings.values()) if encoded else []


def held(node: Node, key: bytes = FULL, partition: int = P) -> list[bytes]:
    return values_of(node.replica.read(partition, key))


async def asked(node: Node, request: Request) -> Reply:
    answer = node.serve("ff" * 16, request, 1.0)
    if isinstance(answer, asyncio.Future):
        return await answer or Stored()
    return answer


def keep(node: Node, target: Node, value: bytes, key: bytes = FULL, dot: tuple[int, int] = (1, 1)) -> None:
    node.hinting.kept.keep(P, key, target.node_id, state(value, dot))


class Cast:
    """Of five nodes: a home of the key, and one that stands in for it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.home, self.second, self.third = world.homes("b", KEY)
        self.stand_in, self.idle = world.others("b", KEY)
        self.kept = self.stand_in.hinting.kept

    async def round(self) -> None:
        await self.stand_in.hinting.handoff.round()


@pytest.fixture
def cast(five: World) -> Cast:
    """With the loops at rest: these tests turn the wheel themselves."""
    for node in five.nodes.values():
        for task in node.background.tasks:
            if task.get_name() == "handoff":
                task.cancel()
    return Cast(five)


# --- delivery ---------------------------------------------------------------------------------------------


async def test_a_hint_is_brought_home_and_forgotten(cast: Cast) -> None:
    keep(cast.stand_in, cast.home, b"v")
    await cast.round()
    assert held(cast.home) == [b"v"]
    assert (cast.kept.count, cast.kept.bytes, cast.kept.delivered) == (0, 0, 1)
    assert held(cast.second) == []


async def test_the_loop_needs_no_traffic(five: World) -> None:
    """B10: also not for finding out that the target is back."""
    home, stand_in = five.homes("b", KEY)[0], five.others("b", KEY)[0]
    five.down.add(home.name)
    keep(stand_in, home, b"v")
    await until(lambda: not stand_in.reach(home.node_id))
    five.down.clear()
    await until(lambda: held(home) == [b"v"], deadline_s=10)
    await until(lambda: stand_in.hinting.kept.count == 0)


async def test_nothing_is_sent_to_a_target_that_is_away(cast: Cast) -> None:
    keep(cast.stand_in, cast.home, b"v")
    cast.world.down.add(cast.home.name)
    await cast.round()  # finds out
    cast.world.calls.clear()
    await cast.round()
    assert not [what for _, to, what in cast.world.calls if isinstance(what, Store)]
    assert cast.kept.count == 1


async def test_it_merges_at_the_receiver(cast: Cast) -> None:
    cast.home.replica.store(P, FULL, state(b"mine", (2, 1)))
    keep(cast.stand_in, cast.home, b"theirs", dot=(1, 1))
    await cast.round()
    assert held(cast.home) == [b"mine", b"theirs"]


async def test_it_is_forgotten_only_after_the_target_has_it_on_disk(cast: Cast) -> None:
    keep(cast.stand_in, cast.home, b"v")
    cast.world.storages[cast.home.name].sync_delay_s = 0.2
    delivery = asyncio.ensure_future(cast.round())
    await until(lambda: held(cast.home) == [b"v"])
    assert cast.kept.count == 1
    await delivery
    assert cast.kept.count == 0
    cast.world.storages[cast.home.name].sync_delay_s = 0


async def test_a_write_that_comes_during_the_delivery_stays(cast: Cast) -> None:
    """Only what was sent is deleted."""
    keep(cast.stand_in, cast.home, b"first", dot=(1, 1))

    def meanwhile(_from: str, _to: str, request: Request) -> Request:
        if isinstance(request, Store) and values_of(request.state) == [b"first"]:
            keep(cast.stand_in, cast.home, b"second", dot=(2, 1))
        return request

    cast.world.intercept = meanwhile
    await cast.round()
    assert held(cast.home) == [b"first"]
    assert (cast.kept.count, cast.kept.delivered) == (1, 0)
    await cast.round()
    assert held(cast.home) == [b"first", b"second"]
    assert cast.kept.count == 0


async def test_several_writes_of_a_key_are_one_hint(cast: Cast) -> None:
    for counter in range(1, 6):
        keep(cast.stand_in, cast.home, b"%d" % counter, dot=(counter, 1))
    assert cast.kept.count == 1
    await cast.round()
    assert held(cast.home) == [b"1", b"2", b"3", b"4", b"5"]


async def test_more_than_a_turn_of_hints_for_two_targets(cast: Cast) -> None:
    keys = [full_key("b", b"key-%d" % i) for i in range(700)]
    for key in keys:
        partition = partition_of(key)
        for home in cast.home.view.homes(partition, 3)[:2]:
            if home != cast.stand_in.node_id:
                cast.kept.keep(partition, key, home, state(b"v"))
    count = cast.kept.count
    assert count > 700
    await cast.round()
    assert (cast.kept.count, cast.kept.delivered, cast.kept.bytes) == (0, count, 0)
    for key in keys:
        homes = [h for h in cast.home.view.homes(partition_of(key), 3)[:2] if h != cast.stand_in.node_id]
        assert all(held(cast.world.nodes[home], key, partition_of(key)) == [b"v"] for home in homes)


async def test_no_more_hints_at_once_than_the_limit_says(five: World) -> None:
    limits = replace(SHORT, handoff_in_flight_max=3)
    node = await five.restart(five.others("b", KEY)[0].name, expect=5, limits=limits)
    home = five.homes("b", KEY)[0]
    in_flight = most = 0
    serve = home.serve

    def counted(sender: str, request: Request, deadline_s: float) -> Any:
        nonlocal in_flight, most
        answer = serve(sender, request, deadline_s)
        if isinstance(request, Store):
            in_flight += 1
            most = max(most, in_flight)
            assert isinstance(answer, asyncio.Future)
            answer.add_done_callback(done)
        return answer

    def done(_: object) -> None:
        nonlocal in_flight
        in_flight -= 1

    home.serve = counted  # type: ignore[method-assign]
    for i in range(20):
        node.hinting.kept.keep(P, FULL + b"%d" % i, home.node_id, state(b"v"))
    await until(lambda: node.hinting.kept.count == 0)
    assert 1 <= most <= 3


async def test_no_more_bytes_per_second_than_the_limit_says(five: World) -> None:
    name = five.others("b", KEY)[0].name
    limits = replace(SHORT, handoff_bytes_per_s=100_000, handoff_in_flight_max=4)
    node = await five.restart(name, expect=5, limits=limits)
    home = five.homes("b", KEY)[0]
    for i in range(20):
        node.hinting.kept.keep(P, FULL + b"%d" % i, home.node_id, state(b"v" * 2000))
    started_s = five.loop.time()
    await until(lambda: node.hinting.kept.count == 0)
    assert five.loop.time() - started_s > 0.3  # 40 kB at 100 kB/s


async def test_one_hint_that_nobody_can_read_holds_up_no_other(cast: Cast) -> None:
    """B15: it has a good checksum and is no state."""
    garbage = encode_hint(Hint(b"\x93 no state at all", 0, 1))
    storage = cast.world.storages[cast.stand_in.name]
    storage.apply([(Kind.HINT, P, hint_key(cast.home.node_id, FULL + b"0"), garbage)])
    node = await cast.world.restart(cast.stand_in.name, expect=5, limits=SHORT)
    keep(node, cast.home, b"v")
    await until(lambda: held(cast.home) == [b"v"] and node.hinting.kept.count == 0)
    assert node.hinting.kept.marks() == [(P, cast.home.node_id)]
    assert (node.hinting.kept.dropped, node.hinting.kept.delivered) == (1, 1)


async def test_a_rotten_hint_is_given_up_with_a_mark(cast: Cast) -> None:
    keep(cast.stand_in, cast.home, b"rotten")
    keep(cast.stand_in, cast.home, b"v", FULL + b"2")
    disk = cast.world.storages[cast.stand_in.name].disk
    disk.flip_bit(Kind.HINT, P, hint_key(cast.home.node_id, FULL), 300)
    await cast.round()
    assert (held(cast.home), held(cast.home, FULL + b"2")) == ([], [b"v"])
    assert (cast.kept.count, cast.kept.bytes) == (0, 0)
    assert cast.kept.marks() == [(P, cast.home.node_id)]


async def test_a_target_that_refuses_is_left_alone_for_a_while(cast: Cast) -> None:
    keep(cast.stand_in, cast.home, b"v")
    disk = cast.world.storages[cast.home.name].disk
    disk.full = True
    await cast.round()
    await cast.round()
    assert len([what for _, _, what in cast.world.calls if isinstance(what, Store)]) == 1
    told = cast.stand_in.pending_hints()["targets"][0]
    assert told["in_reach"] is True
    assert told["next_attempt_s"] > 0
    disk.full = False
    async with asyncio.timeout(5):
        while cast.kept.count:
            await cast.round()
            await asyncio.sleep(0.01)
    assert held(cast.home) == [b"v"]


async def test_a_time_from_the_far_future_is_checked_at_the_target_as_well(cast: Cast) -> None:
    ahead = tick(0, cast.world.clocks[cast.home.name].ms + 24 * 3600 * 1000)
    cast.kept.keep(P, FULL, cast.home.node_id, state(b"from tomorrow"), ahead)
    keep(cast.stand_in, cast.home, b"v", FULL + b"2")
    for _ in range(2):
        await cast.round()
    assert (held(cast.home), held(cast.home, FULL + b"2")) == ([], [b"v"])
    assert cast.home.time.refused >= 1
    cast.world.clocks[cast.home.name].ms += 24 * 3600 * 1000
    await cast.round()
    assert held(cast.home) == [b"from tomorrow"]


# --- who owns it now --------------------------------------------------------------------------------------


def adopt_without(world: World, gone: Node) -> None:
    """Everybody learns of a layout in which this node has no place any more."""
    layout = gone.view.layout
    assert layout is not None
    position = next(i for i, m in enumerate(layout.members) if m.node_id == gone.node_id)
    walks = tuple(tuple(i - (i > position) for i in walk if i != position) for walk in layout.walks)
    members = tuple(m for m in layout.members if m.node_id != gone.node_id)
    for node in world.nodes.values():
        node.view.adopt(layout._replace(version=2, members=members, walks=walks))


async def test_b11_a_hint_for_a_node_that_no_longer_owns_goes_to_the_owners_of_now(cast: Cast) -> None:
    keep(cast.idle, cast.home, b"v")
    cast.world.down.add(cast.home.name)
    adopt_without(cast.world, cast.home)
    homes = cast.world.homes("b", KEY)
    assert cast.home not in homes
    await cast.idle.hinting.handoff.round()
    assert all(held(home) == [b"v"] for home in homes)
    assert cast.idle.hinting.kept.count == 0
    assert held(cast.home) == []


async def test_b11_not_before_all_of_them_can_take_it(cast: Cast) -> None:
    keep(cast.idle, cast.home, b"v")
    adopt_without(cast.world, cast.home)
    cast.world.down.add(cast.third.name)
    for _ in range(2):
        await cast.idle.hinting.handoff.round()
    assert cast.idle.hinting.kept.count == 1
    cast.world.down.clear()
    await until(lambda: cast.idle.reach(cast.third.node_id))
    await cast.idle.hinting.handoff.round()
    assert held(cast.third) == [b"v"]
    assert cast.idle.hinting.kept.count == 0


async def test_b8_handoff_to_itself_and_then_delete_loses_nothing(cast: Cast) -> None:
    """The stand-in became an owner: what it hands to itself must not be what it deletes."""
    keep(cast.stand_in, cast.home, b"v")
    adopt_without(cast.world, cast.home)
    assert cast.stand_in in cast.world.homes("b", KEY)
    await cast.round()
    assert cast.kept.count == 0
    assert all(held(home) == [b"v"] for home in cast.world.homes("b", KEY))
    node = await cast.world.restart(cast.stand_in.name, crash=True, expect=5, limits=SHORT)
    assert held(node) == [b"v"]


async def test_b8_a_hint_for_this_node_itself_is_a_copy(cast: Cast) -> None:
    hint = StoreHint(P, FULL, state(b"v"), cast.home.node_id)
    assert await asked(cast.home, hint) == Stored()
    assert held(cast.home) == [b"v"]
    assert cast.home.hinting.kept.count == 0


async def test_a_bucket_with_fewer_homes_than_before_frees_its_hints(cast: Cast) -> None:
    keep(cast.stand_in, cast.third, b"v")
    cast.world.down.add(cast.third.name)
    await cast.round()
    await cast.world.named("n1" if cast.third.name != "n1" else "n2").set_bucket("b", {"n": 1})
    await until(lambda: cast.stand_in.bucket("b")[0].n == 1)
    await cast.round()
    assert held(cast.home) == [b"v"]
    assert cast.kept.count == 0


# --- across restarts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("crash", [False, True])
async def test_b10_a_stand_in_remembers_its_hints_over_a_restart(cast: Cast, crash: bool) -> None:
    cast.world.down.add(cast.home.name)
    hint = StoreHint(P, FULL, state(b"v"), cast.home.node_id)
    assert await asked(cast.stand_in, hint) == Stored()
    count, size = cast.kept.count, cast.kept.bytes
    node = await cast.world.restart(cast.stand_in.name, crash=crash, expect=5, limits=SHORT)
    assert (node.hinting.kept.count, node.hinting.kept.bytes) == (count, size) == (1, size)
    cast.world.down.clear()
    await until(lambda: held(cast.home) == [b"v"])


async def test_a_hint_that_is_said_to_be_gone_stays_gone(cast: Cast) -> None:
    """Whoever collects a tombstone on that word must not see the hint again after a crash (B13)."""
    await asked(cast.stand_in, StoreHint(P, FULL, state(b"v"), cast.home.node_id))
    await cast.round()
    assert await asked(cast.stand_in, FetchHints(P, FULL, durable=True)) == HintsHeld(b"")
    node = await cast.world.restart(cast.stand_in.name, crash=True, expect=5, limits=SHORT)
    assert node.hinting.kept.count == 0


async def test_marks_survive_a_restart_and_go_when_they_are_served(cast: Cast) -> None:
    cast.kept.missed(P, cast.home.node_id)
    cast.kept.missed(7, cast.second.node_id)
    await cast.world.storages[cast.stand_in.name].sync()
    cast.world.down.update((cast.home.name, cast.second.name))
    node = await cast.world.restart(cast.stand_in.name, crash=True, expect=5, limits=SHORT)
    marks = sorted([(P, cast.home.node_id), (7, cast.second.node_id)])
    assert node.hinting.kept.marks() == marks
    node.hinting.kept.unmark(7, cast.second.node_id)
    node.hinting.kept.unmark(9, cast.second.node_id)
    node = await cast.world.restart(cast.stand_in.name, expect=5, limits=SHORT)
    assert node.hinting.kept.marks() == [(P, cast.home.node_id)]


# --- room -------------------------------------------------------------------------------------------------


def store_of(limits: Limits, storage: MemoryStorage | None = None) -> HintStore:
    return HintStore(storage or MemoryStorage(), Clock(), limits)


async def test_what_is_counted_is_what_is_stored() -> None:
    storage = MemoryStorage()
    kept = store_of(DEFAULT_LIMITS, storage)
    for i in range(30):
        kept.keep(i % 3, b"b\0%d" % i, (TARGET, OTHER)[i % 2], state(b"v" * i, (1, 1)))
        kept.keep(i % 3, b"b\0%d" % i, (TARGET, OTHER)[i % 2], state(b"more", (2, 1)))
    records = [record for p in range(3) for record in storage.scan(Kind.HINT, p)]
    assert kept.count == len(records) == 30
    assert kept.bytes == sum(len(key) + len(value or b"") for key, value in records)
    again = store_of(DEFAULT_LIMITS, storage)
    await again.start()
    assert again.by_target() == kept.by_target()
    for p, target in ((0, TARGET), (1, OTHER)):
        for record_key, record in list(again.scan(p, target, b"")):
            assert again.delivered_to_owners(p, record_key, record)
    left = [record for p in range(3) for record in storage.scan(Kind.HINT, p)]
    assert (again.count, again.bytes) == (len(left), sum(len(k) + len(v or b"") for k, v in left))


async def test_at_the_cap_a_hint_is_refused_counted_and_marked() -> None:
    kept = store_of(Limits(hint_bytes_max=1500))
    kept.keep(P, FULL, TARGET, state(b"v" * 1000))
    with pytest.raises(Overloaded) as refused:
        kept.keep(P, b"b\0other", OTHER, state(b"v" * 1000))
    assert refused.value.outcome == "failed"
    assert (kept.count, kept.dropped, kept.marks()) == (1, 1, [(P, OTHER)])
    kept.keep(P, FULL, TARGET, state(b"v" * 1000))  # what is there already takes no room
    assert kept.bytes <= 1500


async def test_the_number_of_hints_is_capped_too() -> None:
    kept = store_of(Limits(hints_max=2))
    for i in range(2):
        kept.keep(P, b"b\0%d" % i, TARGET, state(b"v"))
    with pytest.raises(Overloaded):
        kept.keep(P, b"b\0third", TARGET, state(b"v"))
    kept.keep(P, b"b\0" + b"1", TARGET, state(b"again", (2, 1)))
    assert kept.count == 2


async def test_a_hint_that_no_frame_could_carry_is_refused() -> None:
    kept = store_of(Limits(state_bytes_max=1500))
    kept.keep(P, FULL, TARGET, state(b"v" * 1000, (1, 1)))
    with pytest.raises(TooLarge):
        kept.keep(P, FULL, TARGET, state(b"w" * 1000, (2, 1)))
    assert kept.marks() == [(P, TARGET)]


async def test_on_a_full_disk_a_hint_is_refused_and_the_mark_is_remembered_for_now() -> None:
    storage = MemoryStorage()
    kept = store_of(Limits(hints_max=1), storage)
    kept.keep(P, FULL, TARGET, state(b"v"))
    storage.disk.full = True
    with pytest.raises(StorageFull):
        kept.keep(P, FULL, TARGET, state(b"w", (2, 1)))
    with pytest.raises(Overloaded):
        kept.keep(P, b"b\0other", OTHER, state(b"v"))
    assert kept.marks() == [(P, OTHER)]


async def test_what_does_not_parse_is_refused_and_leaves_what_is_there() -> None:
    kept = store_of(DEFAULT_LIMITS)
    kept.keep(P, FULL, TARGET, state(b"v"))
    with pytest.raises(CorruptRecord):
        kept.keep(P, FULL, TARGET, b"\x93 no state")
    assert values_of(kept.held(P, FULL)[0]) == [b"v"]


@pytest.mark.parametrize(
    "wrong", [{"partition": 256}, {"partition": -1}, {"target": "n1"}, {"target": "g" * 32}, {"target": ""}]
)
async def test_a_hint_for_nobody_is_refused(cast: Cast, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        await asked(cast.stand_in, StoreHint(P, FULL, state(b"v"), cast.home.node_id)._replace(**wrong))
    assert cast.kept.count == 0


async def test_a_full_stand_in_casts_no_vote_and_the_write_goes_on_without_it(five: World) -> None:
    first, _, away = five.homes("b", KEY)
    for node in five.others("b", KEY):
        await five.restart(node.name, expect=5, limits=replace(SHORT, hints_max=1))
    for node in five.others("b", KEY):
        node.hinting.kept.keep(P, b"b\0room taken", away.node_id, state(b"x"))
    five.down.add(away.name)
    written = await put(first, KEY, b"v")
    assert (written.receipt.acks, written.receipt.hinted) == (2, ())
    await until(lambda: first.hinting.kept.marks() == [(P, away.node_id)])
    assert all(node.hinting.kept.marks() == [(P, away.node_id)] for node in five.others("b", KEY))


async def test_a_stand_in_with_little_room_answers_late(five: World) -> None:
    limits = replace(SHORT, hint_bytes_max=2000)
    node = await five.restart(five.others("b", KEY)[0].name, expect=5, limits=limits)
    five.down.add(five.homes("b", KEY)[0].name)
    target = five.homes("b", KEY)[0].node_id
    started_s = five.loop.time()
    await asked(node, StoreHint(P, FULL, state(b"v" * 1700), target))
    delay_s = node.hinting.kept.delay_s()
    assert 0 < delay_s < SHORT.peer_deadline_s / 2
    assert five.loop.time() - started_s >= delay_s * 0.9  # the loop's clock is coarse


# --- telling ----------------------------------------------------------------------------------------------


async def test_what_is_pending_is_told_by_target(cast: Cast) -> None:
    cast.world.down.add(cast.home.name)
    keep(cast.stand_in, cast.home, b"v")
    keep(cast.stand_in, cast.home, b"w", FULL + b"2")
    await cast.round()
    cast.world.clocks[cast.stand_in.name].ms += 3000
    told = cast.stand_in.pending_hints()
    (target,) = told["targets"]
    assert (target["name"], target["count"], target["in_reach"]) == (cast.home.name, 2, False)
    assert (target["oldest_age_s"], target["next_attempt_s"]) == (3.0, None)
    assert told["count"] == 2
    assert told["bytes"] == target["bytes"] == cast.kept.bytes
    assert (told["delivered"], told["dropped"], told["marks"]) == (0, 0, 0)
