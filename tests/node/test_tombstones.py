"""Tombstones go when nothing older than them is left anywhere, and stay as long as there is any doubt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from kvstore.core.encoding import decode_state, digest
from kvstore.core.message import FetchCopy, Request, Store
from kvstore.core.ring import full_key, partition_of
from kvstore.core.tombstone import Answer
from kvstore.core.upkeep_message import (
    DropTombstones,
    Flush,
    ProveTombstones,
    StoreStates,
    TombstonesDropped,
)
from kvstore.errors import StaleRead
from kvstore.node import tombstone_answers
from kvstore.node.grace import Grace
from kvstore.node.node import Node
from kvstore.node.ports import Kind
from tests.node.world import QUIET, World, context, get, put, until, values

KEY = b"k"
FULL = full_key("b", KEY)
PARTITION = partition_of(FULL)
SOON = replace(QUIET, tombstone_interval_s=86_400.0, tombstone_pause_s=0.0, peer_deadline_s=0.1)


@pytest.fixture
async def five() -> AsyncIterator[World]:
    """Five nodes, three homes for each key, and nobody who collects by itself."""
    world = World()
    for name in ("n1", "n2", "n3", "n4", "n5"):
        await world.start(name, expect=5, limits=SOON)
    world.form_at_once()
    yield world
    await world.stop()
    assert not world.fatal


async def deleted(world: World, key: bytes = KEY) -> Node:
    """A key that was written and deleted on all homes. Returns the first one."""
    first = world.homes("b", key)[0]
    await put(first, key, b"old", w=3)
    await put(first, key, b"", tombstone=True, context=context(await get(first, key)), w=3)
    return first


def holders(world: World, key: bytes = KEY) -> list[str]:
    full = full_key("b", key)
    return sorted(n.name for n in world.nodes.values() if n.replica.read(partition_of(full), full))


async def compared(node: Node, peer: Node) -> None:
    """Equal afterwards. The peer builds its tree when it is asked for the first time."""
    async with asyncio.timeout(5.0):
        while await node.upkeep.anti_entropy.compare(peer.node_id, [PARTITION]):
            await asyncio.sleep(0.002)


def forget(node: Node) -> None:
    """The record is gone there, whatever it was."""
    state = node.replica.read(PARTITION, FULL)
    assert node.replica.drop(PARTITION, FULL, digest(state), lambda _: True)


async def test_a_tombstone_that_all_homes_hold_is_collected_everywhere(five: World) -> None:
    first = await deleted(five)
    assert len(holders(five)) == 3
    await first.upkeep.tombstones.collect()
    assert holders(five) == []
    assert first.upkeep.tombstones.collected == 1
    assert values(await get(first, KEY, r=3)) == []


async def test_only_the_first_home_collects(five: World) -> None:
    first = await deleted(five)
    for node in five.nodes.values():
        if node is not first:
            await node.upkeep.tombstones.collect()
    assert len(holders(five)) == 3


async def test_a_value_is_never_dropped(five: World) -> None:
    first = five.homes("b", KEY)[0]
    await put(first, KEY, b"value", w=3)
    await first.upkeep.tombstones.collect()
    assert first.upkeep.tombstones.pending == 0
    item = (PARTITION, FULL, digest(first.replica.read(PARTITION, FULL)))
    assert await first.upkeep.tombstones.answers.drop(DropTombstones((item,))) == TombstonesDropped(b"\0")
    assert len(holders(five)) == 3


async def test_a_value_beside_a_tombstone_keeps_both(five: World) -> None:
    first = await deleted(five)
    await put(first, KEY, b"beside", mode="sibling", w=3)
    await first.upkeep.tombstones.collect()
    assert values(await get(first, KEY)) == [b"beside"]
    assert len(decode_state(first.replica.read(PARTITION, FULL)).siblings) == 2


# --- doubt ----------------------------------------------------------------------------------------------


async def test_a_member_that_cannot_be_asked_is_waited_for(five: World) -> None:
    """Also one that is no home: it may keep a hint."""
    first = await deleted(five)
    five.down.add(five.others("b", KEY)[1].name)
    await first.upkeep.tombstones.collect()
    assert len(holders(five)) == 3
    assert first.upkeep.tombstones.postponed == {"out of reach": 1}
    assert first.upkeep.tombstones.pending == 1
    five.down.clear()
    await until(lambda: all(node == first.node_id or first.reach(node) for node in five.nodes))
    await first.upkeep.tombstones.collect()
    assert holders(five) == []


async def test_every_member_has_to_read_what_every_other_one_has_sent(
    five: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await deleted(five)
    monkeypatch.setattr(tombstone_answers, "FLUSH_S", 0.05)
    deaf = five.others("b", KEY)[0].name
    five.intercept = lambda _, to, request: None if to == deaf and isinstance(request, Flush) else request
    await first.upkeep.tombstones.collect()
    assert len(holders(five)) == 3


async def test_a_home_that_lacks_it_is_waited_for(five: World) -> None:
    first = await deleted(five)
    lacking = five.homes("b", KEY)[2]
    forget(lacking)
    await first.upkeep.tombstones.collect()
    assert first.upkeep.tombstones.postponed == {"not everywhere": 1}
    assert len(holders(five)) == 2
    await compared(first, lacking)
    await first.upkeep.tombstones.collect()
    assert holders(five) == []


async def test_a_hint_of_the_key_is_waited_for(five: World) -> None:
    """Whatever it holds, and whoever keeps it."""
    first, second = five.homes("b", KEY)[:2]
    keeper = five.others("b", KEY)[1]
    await put(first, KEY, b"old", w=3)
    keeper.hinting.kept.keep(PARTITION, FULL, second.node_id, first.replica.read(PARTITION, FULL))
    await put(first, KEY, b"", tombstone=True, context=context(await get(first, KEY)), w=3)
    await first.upkeep.tombstones.collect()
    assert first.upkeep.tombstones.postponed == {"hint": 1}
    assert len(holders(five)) == 3
    await keeper.hinting.handoff.round()
    await first.upkeep.tombstones.collect()
    assert holders(five) == []


async def test_a_copy_that_nobody_keeps_is_waited_for(five: World) -> None:
    first = await deleted(five)
    keeper = five.others("b", KEY)[1]
    keeper.hinting.kept.missed(PARTITION, first.node_id)
    await first.upkeep.tombstones.collect()
    assert first.upkeep.tombstones.postponed == {"hint": 1}
    keeper.hinting.kept.unmark(PARTITION, first.node_id)
    await first.upkeep.tombstones.collect()
    assert holders(five) == []


async def test_what_a_member_took_from_a_home_that_was_asked_later_is_found_when_all_are_asked_again(
    five: World,
) -> None:
    """A hint with the old value comes to a member that has answered for the first time already."""
    first, second = five.homes("b", KEY)[:2]
    keeper = five.others("b", KEY)[1]
    await put(first, KEY, b"old", w=3)
    old = first.replica.read(PARTITION, FULL)
    await put(first, KEY, b"", tombstone=True, context=context(await get(first, KEY)), w=3)
    asked: list[str] = []

    def hint_comes_late(_: str, to: str, request: Request) -> Request:
        if isinstance(request, ProveTombstones) and to == keeper.name:
            asked.append(to)
            if len(asked) == 2:
                keeper.hinting.kept.keep(PARTITION, FULL, second.node_id, old)
        return request

    five.intercept = hint_comes_late
    await first.upkeep.tombstones.collect()
    assert asked == [keeper.name] * 2
    assert len(holders(five)) == 3


async def test_what_a_former_home_still_holds_is_brought_up_to_date_and_goes_with_the_others(
    five: World,
) -> None:
    """As after a bucket got a smaller n: with a larger one again it would come back."""
    first, former = five.homes("b", KEY)[0], five.others("b", KEY)[0]
    await put(first, KEY, b"old", w=3)
    former.replica.store(PARTITION, FULL, first.replica.read(PARTITION, FULL))
    await put(first, KEY, b"", tombstone=True, context=context(await get(first, KEY)), w=3)
    await first.upkeep.tombstones.collect()
    assert first.upkeep.tombstones.postponed == {"not everywhere": 1}
    assert former.replica.read(PARTITION, FULL) == first.replica.read(PARTITION, FULL)
    await first.upkeep.tombstones.collect()
    assert holders(five) == []


async def test_a_write_between_proof_and_drop_stays(five: World) -> None:
    first = await deleted(five)
    seen = context(await get(first, KEY))
    writer = five.homes("b", KEY)[1]
    written: list[asyncio.Task[Any]] = []

    def write_first(_: str, to: str, request: Request) -> Request:
        if isinstance(request, DropTombstones) and not written:
            written.append(
                asyncio.get_running_loop().create_task(put(writer, KEY, b"new", context=seen, w=3))
            )
        return request

    five.intercept = write_first
    await first.upkeep.tombstones.collect()
    await written[0]
    assert values(await get(first, KEY, r=3)) == [b"new"]
    await until(lambda: len(holders(five)) == 3)


async def test_what_has_become_unreadable_since_the_proof_is_not_taken_from_those_who_can_heal_it(
    five: World,
) -> None:
    """Found in a simulated run, seed 159: nobody else had the key any more, so it stayed unreadable."""
    first = await deleted(five)
    rounds: list[Request] = []

    def rot(_: str, to: str, request: Request) -> Request:
        if isinstance(request, ProveTombstones) and to == five.homes("b", KEY)[1].name:
            rounds.append(request)
            if len(rounds) == 2:
                five.storages[first.name].disk.flip_bit(Kind.DATA, PARTITION, FULL)
        return request

    five.intercept = rot
    await first.upkeep.tombstones.collect()
    assert len(rounds) == 2
    assert all(home.replica.read(PARTITION, FULL) for home in five.homes("b", KEY)[1:])
    await first.upkeep.tombstones.collect()
    await until(lambda: first.upkeep.keys.healed == 1)
    assert len(holders(five)) == 3


# --- afterwards -----------------------------------------------------------------------------------------


async def test_a_home_that_did_not_drop_gives_it_back_and_the_next_pass_takes_it(five: World) -> None:
    first = await deleted(five)
    second, third = five.homes("b", KEY)[1:]
    five.intercept = lambda _, to, r: None if isinstance(r, DropTombstones) and to == third.name else r
    collecting = first.upkeep.tombstones
    call = first.upkeep.exchange.call
    first.upkeep.exchange.call = lambda peer, r, *_: call(peer, r, 0.2)  # type: ignore[method-assign]
    await collecting.collect()
    assert holders(five) == sorted([first.name, third.name])
    five.intercept = lambda _a, _b, request: request
    await collecting.collect()
    assert collecting.postponed == {"not everywhere": 1}
    await compared(first, second)
    await collecting.collect()
    assert holders(five) == []
    assert values(await get(first, KEY, r=3)) == []


async def test_the_tombstone_that_comes_back_does_not_kill_what_was_written_since(five: World) -> None:
    """B6, "doomstone": the counter of the copy goes on, and nothing of the old state is in memory."""
    first = await deleted(five)
    tombstone = first.replica.read(PARTITION, FULL)
    await first.upkeep.tombstones.collect()
    await put(first, KEY, b"new", w=3)
    dots = decode_state(first.replica.read(PARTITION, FULL))
    assert not any(map(decode_state(tombstone).context.covers, dots.siblings))
    for home in five.homes("b", KEY):
        home.replica.store(PARTITION, FULL, tombstone)
    assert values(await get(first, KEY, r=3)) == [b"new"]


async def test_trees_are_those_of_what_is_held(five: World) -> None:
    """After the drop, and after a write that follows it."""
    first = await deleted(five)
    assert await first.trees.build(PARTITION)
    await first.upkeep.tombstones.collect()
    assert roots(first) == [0]
    await put(first, KEY, b"new", w=3)
    grown = roots(first)
    first.trees.forget(PARTITION)
    assert await first.trees.build(PARTITION)
    assert roots(first) == grown != [0]


def roots(node: Node) -> list[int]:
    tree = node.trees.tree(PARTITION, 3)
    assert tree is not None
    return list(tree.hashes(0, (0,)))


async def test_what_is_unreadable_is_healed_on_the_way(five: World) -> None:
    """A key that nobody reads: found in a simulated run, whose replicas stayed different."""
    first, second = five.homes("b", KEY)[:2]
    await put(first, KEY, b"value", w=3)
    five.storages[second.name].disk.flip_bit(Kind.DATA, PARTITION, FULL)
    await second.upkeep.tombstones.collect()
    await until(lambda: second.upkeep.keys.healed == 1)
    assert second.replica.read(PARTITION, FULL) == first.replica.read(PARTITION, FULL)


async def test_a_session_that_has_seen_the_delete_is_not_stale_for_ever(five: World) -> None:
    first = await deleted(five)
    seen = context(await get(first, KEY))
    await first.upkeep.tombstones.collect()
    for node in (first, five.others("b", KEY)[0]):
        assert values(await get(node, KEY, session=seen)) == []
    await put(five.homes("b", KEY)[2], KEY, b"new", w=3)
    assert values(await get(first, KEY, session=seen)) == [b"new"]


async def test_what_a_session_has_seen_and_no_copy_knows_to_be_collected_is_stale(five: World) -> None:
    """The copy that made it has given its id up, as after a crash: it may have lost the write."""
    first = await deleted(five)
    seen = context(await get(first, KEY))
    await first.upkeep.tombstones.collect()
    first.replica.renew_all()
    with pytest.raises(StaleRead):
        await get(first, KEY, session=seen)


# --- what explain tells ---------------------------------------------------------------------------------


async def test_explain_tells_why_a_tombstone_waits(five: World) -> None:
    first = await deleted(five)
    second, third = five.homes("b", KEY)[1:]
    keeper, other = five.others("b", KEY)
    told = (await keeper.explain("b", KEY))["tombstone"]
    assert told == {"collected_by": first.name, "every_s": 86_400.0, "verdict": "proven", "waits_for": []}
    keeper.hinting.kept.keep(PARTITION, FULL, second.node_id, first.replica.read(PARTITION, FULL))
    other.hinting.kept.missed(PARTITION, second.node_id)
    forget(third)
    told = (await second.explain("b", KEY))["tombstone"]
    assert told["verdict"] == "waits"
    assert {waits["name"]: waits["reason"] for waits in told["waits_for"]} == {
        third.name: "does not hold it yet",
        keeper.name: "keeps a hint of the key",
        other.name: "has to be compared first: it could not keep a hint of this partition",
    }
    five.down.add(other.name)
    five.storages[third.name].disk.fail_reads = True
    told = (await second.explain("b", KEY))["tombstone"]
    five.storages[third.name].disk.fail_reads = False
    assert told["verdict"] == "unknown"
    assert {waits["name"]: waits["reason"] for waits in told["waits_for"]}[other.name].startswith(
        "cannot be asked"
    )


async def test_explain_tells_nothing_of_a_tombstone_where_there_is_none(five: World) -> None:
    first = five.homes("b", KEY)[0]
    assert (await first.explain("b", KEY))["tombstone"] is None
    await put(first, KEY, b"value", w=3)
    assert (await first.explain("b", KEY))["tombstone"] is None


# --- expiry ---------------------------------------------------------------------------------------------


async def test_a_value_that_expired_becomes_a_tombstone_that_hashes_equally_and_goes(five: World) -> None:
    first, second = five.homes("b", KEY)[:2]
    await put(first, KEY, b"value" * 100, ttl_ms=1000, w=3)
    before = digest(first.replica.read(PARTITION, FULL))
    assert await first.trees.build(PARTITION)
    root = roots(first)
    pass_time(five, 60.0)
    await second.upkeep.tombstones.collect()
    assert second.upkeep.tombstones.expired == 0, "another clock may be so late"
    pass_time(five, 1.5)
    await second.upkeep.tombstones.collect()
    assert second.upkeep.tombstones.expired == 1
    held = second.replica.read(PARTITION, FULL)
    assert len(held) < 200
    assert digest(held) == before
    assert [version.tombstone for version in decode_state(held).siblings.values()] == [True]
    answers = first.upkeep.tombstones.answers
    first.upkeep.tombstones.pending = 0
    assert answers.look(PARTITION, FULL, before) is Answer.HELD
    assert first.replica.bury(PARTITION, FULL, five.clocks[first.name].ms, 60_000)
    assert first.replica.read(PARTITION, FULL) == held
    assert roots(first) == root
    await first.upkeep.tombstones.collect()
    assert holders(five) == []


async def test_a_value_that_has_not_expired_everywhere_is_waited_for(five: World) -> None:
    first, second = five.homes("b", KEY)[:2]
    await put(first, KEY, b"value", ttl_ms=1000, w=3)
    pass_time(five, 62.0)
    five.clocks[second.name].ms -= 120_000
    await first.upkeep.tombstones.collect()
    assert first.upkeep.tombstones.postponed == {"not expired": 1}
    assert len(holders(five)) == 3


async def test_a_put_that_is_sent_again_after_its_value_expired_is_still_the_same_write(five: World) -> None:
    first = five.homes("b", KEY)[0]
    await put(first, KEY, b"value", ttl_ms=1000, operation_id=b"once", w=3)
    pass_time(five, 62.0)
    assert first.replica.bury(PARTITION, FULL, five.clocks[first.name].ms, 60_000)
    held = first.replica.read(PARTITION, FULL)
    await put(first, KEY, b"value", ttl_ms=1000, operation_id=b"once", w=3)
    assert first.replica.read(PARTITION, FULL) == held


def pass_time(world: World, seconds: float) -> None:
    for clock in world.clocks.values():
        clock.ms += int(seconds * 1000)


# --- the grace period -----------------------------------------------------------------------------------


Work = Coroutine[Any, Any, Any]


async def a_put(world: World) -> Work:
    return put(world.homes("b", KEY)[0], KEY, b"value", w=1)


async def a_read_repair(world: World) -> Work:
    first, second = world.homes("b", KEY)[:2]
    await put(first, KEY, b"value", w=3)
    forget(second)
    return get(first, KEY, r=3)


async def a_handoff(world: World) -> Work:
    first, second = world.homes("b", KEY)[:2]
    keeper = world.others("b", KEY)[0]
    await put(first, KEY, b"value", w=3)
    keeper.hinting.kept.keep(PARTITION, FULL, second.node_id, first.replica.read(PARTITION, FULL))
    return keeper.hinting.handoff.round()


async def a_comparison(world: World) -> Work:
    first, second = world.homes("b", KEY)[:2]
    await put(first, KEY, b"value", w=3)
    forget(second)
    return compared(first, second)


async def a_repair_of_the_key(world: World) -> Work:
    first, second = world.homes("b", KEY)[:2]
    await put(first, KEY, b"value", w=3)
    forget(second)
    return first.upkeep.keys.repair(PARTITION, FULL)


async def a_session_that_asks_what_was_collected(world: World) -> Work:
    """It holds the states that it has read while it asks for more than states."""
    first, second, third = world.homes("b", KEY)
    await deleted(world)
    seen = context(await get(first, KEY))
    await first.upkeep.tombstones.collect()
    await put(third, KEY, b"new", w=3)
    forget(second)
    return get(first, KEY, r=1, session=seen)


@pytest.mark.parametrize(
    "sent",
    [
        a_put,
        a_read_repair,
        a_handoff,
        a_comparison,
        a_repair_of_the_key,
        a_session_that_asks_what_was_collected,
    ],
)
async def test_who_sends_a_state_answers_when_that_has_ended(
    five: World, sent: Callable[[World], Awaitable[Work]]
) -> None:
    """The message is on its way for a while: the period must not be over before it has arrived."""
    work = await sent(five)
    waits: list[tuple[asyncio.Task[bool], bool]] = []
    second = five.homes("b", KEY)[1].name

    async def wait(sender: Node) -> bool:
        return await sender.grace.passed(30.0)

    deliver = five.deliver

    def slowly(sender: str, to: str, request: Any, deadline_s: float) -> asyncio.Future[Any]:
        if not isinstance(request, Store | StoreStates | FetchCopy) or five.nodes[to].name != second or waits:
            return deliver(sender, to, request, deadline_s)
        task = five.loop.create_task(wait(five.named(sender)))
        reply: asyncio.Future[Any] = five.loop.create_future()

        def arrive() -> None:
            waits.append((task, task.done()))
            deliver(sender, to, request, 1.0).add_done_callback(lambda done: reply.set_result(done.result()))

        five.loop.call_later(0.02, arrive)
        return reply

    five.deliver = slowly  # type: ignore[method-assign, assignment]
    await work
    await until(lambda: bool(waits))
    task, was_over = waits[0]
    assert not was_over
    assert await task


async def test_a_period_that_takes_too_long_is_none() -> None:
    grace = Grace(asyncio.get_running_loop())
    epoch = grace.enter()
    assert not await grace.passed(0.01)
    later = grace.enter()
    grace.leave(epoch)
    assert not await grace.passed(0.01)
    grace.leave(later)
    assert await grace.passed(1.0)
