"""Replicas become equal without a read: what was missed travels, in both directions, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from kvstore.core.encoding import digest
from kvstore.core.limits import DEFAULT_LIMITS, Limits
from kvstore.core.merkle_tree import INNER, LEAVES, ROOT
from kvstore.core.message import Put, Request, Store
from kvstore.core.ring import PARTITIONS, full_key, partition_of
from kvstore.core.upkeep_message import CompareTrees, FetchStates, ListKeys, StoreStates
from kvstore.errors import NotReady, PeerRefused
from kvstore.node import anti_entropy as anti_entropy_module
from kvstore.node import exchange as exchange_module
from kvstore.node.node import Node
from kvstore.node.ports import Kind
from kvstore.storage.memory import MemoryStorage
from tests.node.world import World, context, get, put, until, values

OFTEN = replace(DEFAULT_LIMITS, anti_entropy_interval_s=0.3)
COMPARING = (CompareTrees, ListKeys, FetchStates, StoreStates)


def held(node: Node) -> dict[bytes, bytes]:
    """Everything a node holds, read past its caches: key -> state."""
    storage = node._storage
    return {
        key: state or b"(unreadable)"
        for partition in range(PARTITIONS)
        for key, state in storage.scan(Kind.DATA, partition)
    }


def equal(world: World) -> bool:
    first, *others = (held(node) for node in world.nodes.values())
    return all(first == other for other in others)


def cut_off(name: str) -> object:
    """Whatever a client's write sends to this node is lost; all else goes on."""

    def drop(_sender: str, receiver: str, request: Request) -> Request | None:
        return None if receiver == name and isinstance(request, Store) else request

    return drop


async def compare(world: World, one: str, other: str) -> list[int]:
    node, peer = world.named(one), world.named(other)
    left = list(range(PARTITIONS))
    async with asyncio.timeout(5):
        while left:
            left = await node.upkeep.anti_entropy.compare(peer.node_id, left)
            await asyncio.sleep(0)
    return left


async def missed_by(world: World, name: str, keys: int, **options: object) -> None:
    world.intercept = cut_off(name)  # type: ignore[assignment]
    asked = next(node for node in world.nodes.values() if node.name != name)
    for i in range(keys):
        await put(asked, b"key-%04d" % i, b"value-%d" % i, **options)
    world.intercept = lambda _a, _b, request: request


@pytest.fixture
async def often() -> AsyncIterator[World]:
    """A cluster whose nodes compare three times a second."""
    made = World()
    for name in ("n1", "n2", "n3"):
        await made.start(name, limits=OFTEN)
    await made.formed()
    yield made
    await made.stop()
    assert not made.fatal


async def test_a_node_that_missed_writes_converges_without_any_read(often: World) -> None:
    await missed_by(often, "n3", 50)
    assert len(held(often.named("n3"))) < 50
    await until(lambda: equal(often))
    assert len(held(often.named("n3"))) == 50
    for node in often.nodes.values():
        assert node.coordinator.repairs == 0


async def test_one_comparison_heals_both_directions(world: World) -> None:
    await missed_by(world, "n3", 20, w=2)
    world.intercept = cut_off("n1")  # type: ignore[assignment]
    for i in range(20):
        await put(world.named("n3"), b"other-%04d" % i, b"v", w=2)
    world.intercept = lambda _a, _b, request: request
    n1, n3 = world.named("n1"), world.named("n3")
    assert held(n1).keys() != held(n3).keys()
    await compare(world, "n1", "n3")
    assert held(n1) == held(n3)
    assert (n1.upkeep.exchange.counts.sent, n1.upkeep.exchange.counts.received) == (20, 20)


async def test_states_that_differ_on_both_sides_are_merged_on_both(world: World) -> None:
    await put(world.named("n1"), b"k", b"first", w=3)
    seen = context(await get(world.named("n1"), b"k"))
    world.down.add("n3")
    await put(world.named("n1"), b"k", b"left", context=seen)
    world.down = {"n1", "n2"}
    await put(world.named("n3"), b"k", b"right", context=seen, w=1)
    world.down.clear()
    await compare(world, "n1", "n3")
    assert held(world.named("n1")) == held(world.named("n3"))
    assert sorted(values(await get(world.named("n3"), b"k", r=1))) == [b"left", b"right"]


async def test_a_delete_travels_and_brings_nothing_back(world: World) -> None:
    for i in range(10):
        await put(world.named("n1"), b"k%d" % i, b"v", w=3)
    world.down.add("n3")
    for i in range(10):
        seen = context(await get(world.named("n1"), b"k%d" % i))
        await put(world.named("n1"), b"k%d" % i, b"", tombstone=True, context=seen)
    world.down.clear()
    await compare(world, "n3", "n2")
    assert held(world.named("n3")) == held(world.named("n2"))
    assert [values(await get(world.named("n3"), b"k%d" % i, r=1)) for i in range(10)] == [[]] * 10


async def test_writes_during_an_exchange_are_neither_lost_nor_left_behind(often: World) -> None:
    await missed_by(often, "n3", 30)
    for i in range(200):
        name = f"n{i % 3 + 1}"
        await put(often.named(name), b"key-%04d" % (i % 40), b"new-%d" % i)
        if i % 10 == 0:
            await asyncio.sleep(0)
    await until(lambda: equal(often))
    for i in range(160, 200):
        assert b"new-%d" % i in values(await get(often.named("n1"), b"key-%04d" % (i % 40)))


async def test_a_write_that_is_on_its_way_costs_no_listing(world: World) -> None:
    """A listing of 10,000 keys takes 20 ms on both sides: a tenth of what a cluster under load did."""
    await missed_by(world, "n3", 1)
    n1, n3 = world.named("n1"), world.named("n3")
    for node in (n1, n3):
        assert all([await node.trees.build(partition) for partition in range(PARTITIONS)])
    world.calls.clear()
    comparing = asyncio.ensure_future(n1.upkeep.anti_entropy.compare(n3.node_id, range(PARTITIONS)))

    def levels() -> list[int]:
        return [request.level for _, _, request in world.calls if isinstance(request, CompareTrees)]

    await until(lambda: LEAVES in levels())
    await asyncio.sleep(0)
    for key, state in held(n1).items():
        n3.replica.store(partition_of(key), key, state)
    assert await comparing == []
    assert levels() == [ROOT, INNER, LEAVES, LEAVES]
    assert not any(isinstance(request, ListKeys) for _, _, request in world.calls)


async def test_the_tree_that_was_kept_up_is_the_tree_that_a_scan_makes(world: World) -> None:
    """Writes before, during and after the build, and merges of what others sent."""
    n1 = world.named("n1")
    for i in range(40):
        await put(n1, b"a%d" % i, b"v", w=3)
    building = [n1.trees.build(partition) for partition in range(PARTITIONS)]
    for i in range(40):
        await put(n1, b"b%d" % (i % 20), b"v%d" % i)
        await put(world.named("n2"), b"a%d" % i, b"w", w=3)
    assert all([await ready for ready in building])
    for i in range(40):
        await put(n1, b"c%d" % i, b"v", w=3)
    kept = [n1.trees.tree(partition, 3) for partition in range(PARTITIONS)]
    for partition in range(PARTITIONS):
        n1.trees.forget(partition)
    again = [n1.trees.build(partition) for partition in range(PARTITIONS)]
    assert all([await ready for ready in again])
    for partition, tree in enumerate(kept):
        fresh = n1.trees.tree(partition, 3)
        assert tree is not None
        assert fresh is not None
        assert tree.root == fresh.root
        assert tree.hashes(2, range(1024)) == fresh.hashes(2, range(1024))


async def test_a_peer_that_dies_in_the_middle_is_compared_again_when_it_is_back(often: World) -> None:
    await missed_by(often, "n3", 60)
    moved = 0

    def die_after_some(sender: str, receiver: str, request: Request) -> Request | None:
        nonlocal moved
        if "n3" in (sender, receiver) and isinstance(request, StoreStates | FetchStates):
            moved += 1
            if moved == 5:
                often.down.add("n3")
        return request

    often.intercept = die_after_some
    await until(lambda: "n3" in often.down)
    often.intercept = lambda _a, _b, request: request
    assert not equal(often)
    often.down.clear()
    await until(lambda: equal(often))


@pytest.mark.timeout(20)
async def test_a_peer_that_fails_after_it_was_compared_does_not_keep_the_loop_busy(often: World) -> None:
    """It is due early and out of reach: waiting for it must let everything else run."""
    n1, n3 = often.named("n1"), often.named("n3")
    await until(lambda: n3.node_id in n1.upkeep.anti_entropy._failures)
    often.down.add("n3")
    for _ in range(10):
        n1.reach.failed(n3.node_id, hard=True)
    tried = len(often.calls)
    started_s = often.loop.time()
    turns = 0
    while often.loop.time() - started_s < 0.5:
        await asyncio.sleep(0.001)
        turns += 1
    assert turns > 50
    assert len(often.calls) - tried < 100
    often.down.clear()
    await put(n1, b"k", b"v")
    await until(lambda: equal(often))


async def test_a_home_whose_data_were_wiped_is_filled_again(often: World) -> None:
    for i in range(100):
        await put(often.named("n1"), b"key-%04d" % i, b"v%d" % i, w=3)
    n3 = often.named("n3")
    await n3.stop()
    disk = often.storages["n3"].disk
    often.storages["n3"] = storage = MemoryStorage(disk)
    for kind in (Kind.DATA, Kind.COPY):
        for partition in range(PARTITIONS):
            storage.apply([(kind, partition, key, None) for key, _ in storage.scan(kind, partition)])
    again = await often.start("n3", limits=OFTEN)
    assert held(again) == {}
    await until(lambda: equal(often))
    assert len(held(again)) == 100


async def test_equal_replicas_say_nothing_but_their_roots(world: World) -> None:
    for i in range(50):
        await put(world.named("n1"), b"key-%04d" % i, b"v", w=3)
    await compare(world, "n1", "n2")
    world.calls.clear()
    await compare(world, "n1", "n2")
    said = [request for _, _, request in world.calls if isinstance(request, COMPARING)]
    (roots,) = said
    assert isinstance(roots, CompareTrees)
    assert len(roots.hashes) == 8 * PARTITIONS


async def test_a_key_is_compared_between_the_homes_of_its_bucket_only() -> None:
    """Buckets of n=1, n=2 and n=3 side by side: none makes another's trees differ, none spreads."""
    world = World()
    for name in ("n1", "n2", "n3", "n4"):
        await world.start(name, expect=4)
    await world.formed()
    await world.named("n1").set_bucket("one", {"n": 1})
    await world.named("n1").set_bucket("two", {"n": 2})
    await until(lambda: all(len(node.buckets()) == 2 for node in world.nodes.values()))
    for bucket in ("one", "two", "b"):
        for i in range(30):
            await world.named("n1").put(Put(bucket, b"k%d" % i, b"v", w=1 if bucket == "one" else 2))
    homes = {
        full_key(bucket, b"k%d" % i): {node.name for node in world.homes(bucket, b"k%d" % i)}
        for bucket in ("one", "two", "b")
        for i in range(30)
    }
    names = [node.name for node in world.nodes.values()]
    for one in names:
        for other in names:
            if one != other:
                await compare(world, one, other)
    found: dict[bytes, set[str]] = {key: set() for key in homes}
    for node in world.nodes.values():
        for key in held(node):
            found[key].add(node.name)
    assert found == homes
    world.calls.clear()
    for one in names:
        for other in names:
            if one != other:
                await compare(world, one, other)
    assert all(
        isinstance(request, CompareTrees) and request.level == 0
        for _, _, request in world.calls
        if isinstance(request, COMPARING)
    )
    await world.stop()


async def test_a_bucket_that_gets_another_n_moves_to_other_trees(world: World) -> None:
    for i in range(20):
        await world.named("n1").put(Put("grows", b"k%d" % i, b"v", w=2))
    await compare(world, "n1", "n2")
    before = world.named("n1").trees.terms
    await world.named("n1").set_bucket("grows", {"n": 2})
    assert world.named("n1").trees.terms != before
    with pytest.raises(PeerRefused) as refusal:
        await world.named("n1").upkeep.exchange.call(
            world.named("n2").node_id, CompareTrees(before + b"?", 3, (0,), 0, (0,), bytes(8))
        )
    assert refusal.value.code == "NotReady"
    await until(lambda: world.named("n2").trees.terms == world.named("n1").trees.terms)
    await compare(world, "n1", "n2")
    tree = world.named("n1").trees.tree(partition_of(full_key("grows", b"k0")), 2)
    assert tree is not None
    assert tree.root != 0


async def test_other_properties_of_a_bucket_leave_the_trees_alone(world: World) -> None:
    await compare(world, "n1", "n2")
    built = world.named("n1").trees.built
    await world.named("n1").set_bucket("b", {"w": 3})
    await until(lambda: world.named("n2").bucket("b")[1])
    await compare(world, "n1", "n2")
    assert world.named("n1").trees.built == built


async def test_a_home_drops_what_it_is_sent_and_is_no_home_of() -> None:
    world = World()
    for name in ("n1", "n2", "n3", "n4"):
        await world.start(name, expect=4)
    await world.formed()
    await put(world.named("n1"), b"k", b"v")
    homes = world.homes("b", b"k")
    stranger = next(node for node in world.nodes.values() if node not in homes)
    key = full_key("b", b"k")
    sent = StoreStates(partition_of(key), ((key, held(homes[0])[key]),))
    reply = await homes[0].upkeep.exchange.call(stranger.node_id, sent)
    assert reply == (0,)
    assert held(stranger) == {}
    await world.stop()


async def test_a_large_backlog_goes_in_bounded_pages(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange_module, "LISTED_KEYS_MAX", 7)
    monkeypatch.setattr(exchange_module, "STATES_BYTES_MAX", 2000)
    keys = [b"key-%05d" % i for i in range(20_000)]
    some = [key for key in keys if partition_of(full_key("b", key)) == 5][:60]
    world.intercept = cut_off("n3")  # type: ignore[assignment]
    for key in some:
        await put(world.named("n1"), key, b"x" * 500)
    world.intercept = lambda _a, _b, request: request
    world.calls.clear()
    await compare(world, "n1", "n3")
    assert held(world.named("n1")) == held(world.named("n3"))
    pages = [request for _, _, request in world.calls if isinstance(request, ListKeys)]
    pushes = [request for _, _, request in world.calls if isinstance(request, StoreStates)]
    assert len(pages) >= 60 // 7
    assert all(sum(len(state) for _, state in push.items) < 3000 for push in pushes)


async def test_the_pair_that_is_urgent_goes_first(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop of this world would begin by itself in hours."""
    monkeypatch.setattr(anti_entropy_module, "SETTLE_S", 0.0)  # else the lost writes time out meanwhile
    await missed_by(world, "n3", 40)
    n1, n3 = world.named("n1"), world.named("n3")
    done: list[tuple[int, str]] = []
    n1.upkeep.anti_entropy.on_compared = lambda partition, peer: done.append((partition, peer))
    partition = partition_of(full_key("b", b"key-0007"))
    n1.upkeep.anti_entropy.urgent(partition, n3.node_id)
    await until(lambda: full_key("b", b"key-0007") in held(n3))
    await until(lambda: done == [(partition, n3.node_id)])
    assert n1.upkeep.anti_entropy.status()["urgent"] == 0
    assert len(held(n3)) < 40


async def test_an_urgent_pair_waits_for_a_peer_that_is_down(world: World) -> None:
    await missed_by(world, "n3", 5)
    n1, n3 = world.named("n1"), world.named("n3")
    world.down.add("n3")
    for partition in range(PARTITIONS):
        n1.upkeep.anti_entropy.urgent(partition, n3.node_id)
    await until(lambda: not n1.reach(n3.node_id))
    world.down.clear()
    await until(lambda: equal(world))


async def test_a_node_that_is_no_home_has_the_home_ask_the_others() -> None:
    """It stood in, had no room for the hint, and knows that the home lacks something."""
    world = World()
    for name in ("n1", "n2", "n3", "n4"):
        await world.start(name, expect=4)
    await world.formed()
    homes = world.homes("b", b"k")
    stranger = next(node for node in world.nodes.values() if node not in homes)
    world.intercept = cut_off(homes[2].name)  # type: ignore[assignment]
    await put(homes[0], b"k", b"v")
    world.intercept = lambda _a, _b, request: request
    assert held(homes[2]) == {}
    partition, done = partition_of(full_key("b", b"k")), list[tuple[int, str]]()
    stranger.upkeep.anti_entropy.on_compared = lambda partition, peer: done.append((partition, peer))
    world.down.add(homes[0].name)  # without it nobody can be sure that the home lacks nothing
    stranger.upkeep.anti_entropy.urgent(partition, homes[2].node_id)
    await until(lambda: held(homes[2]) != {})
    assert done == []
    world.down.clear()
    await until(lambda: done == [(partition, homes[2].node_id)])
    await world.stop()


async def test_the_age_of_the_oldest_comparison_is_told(often: World) -> None:
    node = often.named("n1")
    await until(lambda: node.upkeep.figures().partitions_compared >= 2 * PARTITIONS)
    await until(lambda: node.upkeep.anti_entropy.oldest_s() < 0.4)
    status = node.upkeep.status()
    assert [peer["name"] for peer in status["peers"]] == ["n2", "n3"]
    often.mute.update(("n2", "n3"))
    await until(lambda: node.upkeep.anti_entropy.oldest_s() > 0.6)


async def test_a_busy_receiver_refuses_and_is_asked_again(world: World) -> None:
    """Within the same comparison: to be busy is no reason to begin anew."""
    await missed_by(world, "n3", 10)
    n1, n3 = world.named("n1"), world.named("n3")
    for node in (n1, n3):
        assert all([await node.trees.build(partition) for partition in range(PARTITIONS)])
    n3.upkeep.answers._working = 3
    comparing = asyncio.ensure_future(n1.upkeep.anti_entropy.compare(n3.node_id, range(PARTITIONS)))
    await until(lambda: any(isinstance(request, ListKeys) for _, _, request in world.calls))
    assert held(n1) != held(n3)
    n3.upkeep.answers._working = 0
    assert await comparing == []
    assert held(n1) == held(n3)


@pytest.mark.parametrize("begins", ["n1", "n3"], ids=["sent", "fetched"])
async def test_what_is_healed_is_durable(world: World, begins: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anti_entropy_module, "SETTLE_S", 0.0)  # else the lost writes time out meanwhile
    await missed_by(world, "n3", 10)
    other = "n3" if begins == "n1" else "n1"
    for name in (begins, other):
        await world.named(name).replica.sync()
    await compare(world, begins, other)
    n3 = world.named("n3")
    assert len(held(n3)) == 10
    assert world.storages["n3"].disk.unsynced_batches == 0


async def test_clients_that_wait_slow_the_background_down(world: World) -> None:
    n1 = world.named("n1")
    served = [0, 0.0]
    n1.pace.foreground = lambda: (int(served[0]), served[1])
    for _ in range(3):
        served[0] += 100
        served[1] += 100 * 0.05  # five times what is assumed as usual
        await n1.pace.read(1)
    assert n1.pace.paused_s > 0
    paused_s = n1.pace.paused_s
    served[0] += 100
    served[1] += 100 * 0.001
    await n1.pace.read(1)
    await n1.pace.read(1)
    assert n1.pace.paused_s == paused_s


async def test_reading_keeps_to_its_rate() -> None:
    limits: Limits = replace(DEFAULT_LIMITS, anti_entropy_records_per_s=1000)
    from kvstore.node.pace import Pace

    pace = Pace(limits)
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    for _ in range(10):
        await pace.read(100)
    assert loop.time() - started_s >= 0.45  # a thousand records, of which half a second's worth at once


async def test_a_node_without_a_layout_compares_nothing() -> None:
    world = World()
    node = await world.start("n1", limits=OFTEN)
    assert node.upkeep.anti_entropy.peers() == []
    with pytest.raises(NotReady):
        node.upkeep.begin_repair("", b"", None)
    await world.stop()


async def test_digests_of_equal_replicas_are_equal_after_it_all(often: World) -> None:
    await missed_by(often, "n2", 25)
    await until(lambda: equal(often))
    for node in often.nodes.values():
        got = await get(node, b"key-0001", r=1)
        assert digest(got.state) == digest((await get(often.named("n1"), b"key-0001", r=1)).state)
