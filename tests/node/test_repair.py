"""Repair and barrier on request, and the tasks that tell of them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kvstore.core.message import Put, Request, Store
from kvstore.core.ring import PARTITIONS, full_key, partition_of
from kvstore.core.upkeep_message import RepairPartitions, StoreStates
from kvstore.errors import InvalidRequest, KVStoreError, Overloaded
from kvstore.node.ports import Kind
from kvstore.node.tasks import KEPT_MAX, RUNNING_MAX, Task, Tasks
from tests.node.test_anti_entropy import cut_off, held, missed_by
from tests.node.world import World, put, until


async def done(task: Task) -> dict[str, Any]:
    assert await task.ended(10)
    assert task.error is None, task.error
    assert task.state == "done"
    return task.result


async def four(bucket_n: dict[str, int]) -> World:
    world = World()
    for name in ("n1", "n2", "n3", "n4"):
        await world.start(name, expect=4)
    await world.formed()
    for bucket, n in bucket_n.items():
        await world.named("n1").set_bucket(bucket, {"n": n})
    await until(lambda: all(len(node.buckets()) == len(bucket_n) for node in world.nodes.values()))
    return world


async def scattered(world: World, buckets: list[str], keys: int) -> None:
    """Each write reaches the node it was sent to and no other."""
    world.intercept = lambda _a, _b, request: None if isinstance(request, Store) else request
    for bucket in buckets:
        for i in range(keys):
            home = world.homes(bucket, b"k%d" % i)[i % 2]
            await home.put(Put(bucket, b"k%d" % i, b"v%d" % i, w=1))
    world.intercept = lambda _a, _b, request: request


async def test_one_key_is_repaired_from_a_node_that_is_no_home_of_it() -> None:
    world = await four({})
    await scattered(world, ["b"], 1)
    homes = world.homes("b", b"k0")
    stranger = next(node for node in world.nodes.values() if node not in homes)
    result = await done(stranger.upkeep.begin_repair("b", b"k0", None))
    assert result["found"]
    assert (sorted(result["lacking"]), result["healed"]) == (sorted(n.name for n in homes[1:]), 2)
    assert all(full_key("b", b"k0") in held(home) for home in homes)
    assert held(stranger) == {}
    again = await done(stranger.upkeep.begin_repair("b", b"k0", None))
    assert (again["lacking"], again["healed"], again["missing"]) == ([], 0, [])
    await world.stop()


async def test_repairing_a_key_says_which_homes_did_not_answer(world: World) -> None:
    await put(world.named("n1"), b"k", b"v", w=3)
    world.down.add("n2")
    result = await done(world.named("n1").upkeep.begin_repair("b", b"k", None))
    assert result["missing"] == ["n2"]
    assert not (await done(world.named("n1").upkeep.begin_repair("b", b"none", None)))["found"]


async def test_repairing_one_partition_makes_all_its_homes_equal_and_leaves_the_others() -> None:
    world = await four({})
    await scattered(world, ["b"], 60)
    partition = partition_of(full_key("b", b"k7"))
    task = world.named("n4").upkeep.begin_repair("", b"", partition)
    result = await done(task)
    assert (result["repaired"], result["failed"], result["missing"]) == (1, [], [])
    assert result["healed"] >= 2
    homes = world.homes("b", b"k7")
    assert all(full_key("b", b"k7") in held(home) for home in homes)
    holders = [node for node in world.nodes.values() if full_key("b", b"k8") in held(node)]
    assert len(holders) == 1
    await world.stop()


async def test_repairing_all_makes_every_home_of_every_bucket_equal() -> None:
    """What the comparing home learns from the last one, the first ones lack: there is a second round."""
    world = await four({"two": 2, "one": 1})
    await scattered(world, ["b", "two"], 60)
    task = world.named("n1").upkeep.begin_repair("", b"", None)
    result = await done(task)
    assert (task.done, task.total, result["failed"]) == (PARTITIONS, PARTITIONS, [])
    for bucket, n in (("b", 3), ("two", 2)):
        for i in range(60):
            key = full_key(bucket, b"k%d" % i)
            holders = {node.name for node in world.nodes.values() if key in held(node)}
            assert holders == {node.name for node in world.homes(bucket, b"k%d" % i)}
            assert len(holders) == n
    await world.stop()


async def test_an_open_breaker_is_no_reason_to_leave_a_home_out(world: World) -> None:
    """It says that calls failed of late, not that the home is gone."""
    await missed_by(world, "n3", 10)
    n1, n3 = world.named("n1"), world.named("n3")
    for _ in range(10):
        n1.reach.failed(n3.node_id, hard=True)
    result = await done(n1.upkeep.begin_barrier(10.0))
    assert result["missing"] == []
    assert held(n1) == held(n3)


async def test_a_repair_without_some_home_tells_and_another_leads(world: World) -> None:
    await missed_by(world, "n3", 10)
    world.down.add("n1")
    result = await done(world.named("n2").upkeep.begin_repair("", b"", None))
    assert (result["repaired"], result["missing"]) == (PARTITIONS, ["n1"])
    assert held(world.named("n2")) == held(world.named("n3"))


async def test_a_home_that_dies_while_it_leads_is_replaced(world: World) -> None:
    await missed_by(world, "n3", 10)

    def die(sender: str, receiver: str, request: Request) -> Request | None:
        if isinstance(request, RepairPartitions) and receiver == "n1":
            world.down.add("n1")
        return request

    world.intercept = die
    result = await done(world.named("n2").upkeep.begin_repair("", b"", None))
    assert (result["repaired"], result["missing"]) == (PARTITIONS, ["n1"])
    assert held(world.named("n2")) == held(world.named("n3"))


async def test_after_a_barrier_every_acknowledged_write_is_on_all_live_homes(world: World) -> None:
    await missed_by(world, "n3", 20)
    world.intercept = cut_off("n1")  # type: ignore[assignment]
    for i in range(20):
        await put(world.named("n3"), b"other-%d" % i, b"v")
    world.intercept = lambda _a, _b, request: request
    delivered: list[str] = []
    for node in world.nodes.values():

        async def deliver(timeout_s: float, name: str = node.name) -> bool:
            delivered.append(name)
            return len(delivered) > 3  # not at once: the barrier asks again

        node.upkeep.repair.deliver_hints = deliver
    result = await done(world.named("n2").upkeep.begin_barrier(10.0))
    assert result["missing"] == []
    assert set(delivered) == {"n1", "n2", "n3"}
    assert len(delivered) > 3
    states = [held(node) for node in world.nodes.values()]
    assert len(states[0]) == 40
    assert states[0] == states[1] == states[2]


async def test_a_barrier_that_does_not_end_in_time_says_so(world: World) -> None:
    async def never(timeout_s: float) -> bool:
        return False

    world.named("n3").upkeep.repair.deliver_hints = never
    task = world.named("n1").upkeep.begin_barrier(0.3)
    assert await task.ended(10)
    assert task.state == "failed"
    assert "hints for nodes in reach" in task.as_dict()["error"]


async def test_a_barrier_leaves_out_a_home_that_is_down(world: World) -> None:
    await missed_by(world, "n2", 10)
    world.down.add("n3")
    result = await done(world.named("n1").upkeep.begin_barrier(10.0))
    assert result["missing"] == ["n3"]
    assert held(world.named("n1")) == held(world.named("n2"))


async def test_a_full_disk_fails_the_repair_and_not_the_node(world: World) -> None:
    await missed_by(world, "n3", 10)
    world.storages["n3"].disk.full = True
    n3 = world.named("n3")
    reply = await n3.upkeep.exchange.call(
        world.named("n1").node_id, RepairPartitions(tuple(range(PARTITIONS)), 400)
    )
    assert reply.failed  # type: ignore[union-attr]
    world.storages["n3"].disk.full = False
    result = await done(n3.upkeep.begin_repair("", b"", None))
    assert result["failed"] == []
    assert held(n3) == held(world.named("n1"))


async def test_states_that_do_not_parse_are_refused_and_change_nothing(world: World) -> None:
    n1, n2 = world.named("n1"), world.named("n2")
    key = full_key("b", b"k")
    with pytest.raises(KVStoreError):
        await n1.upkeep.exchange.call(n2.node_id, StoreStates(partition_of(key), ((key, b"no state"),)))
    assert n2._storage.get(Kind.DATA, partition_of(key), key) is None


@pytest.mark.parametrize("partition", [-1, PARTITIONS, 10**9])
async def test_partitions_that_there_are_not(world: World, partition: int) -> None:
    with pytest.raises(InvalidRequest, match="from 0 to 255"):
        world.named("n1").upkeep.begin_repair("", b"", partition)


async def test_tasks_are_few_at_once_and_told_of_for_a_while() -> None:
    running: list[asyncio.Task[None]] = []
    tasks = Tasks(lambda name, work: running.append(asyncio.ensure_future(work)))
    gate = asyncio.Event()

    async def wait(task: Task) -> dict[str, Any]:
        await gate.wait()
        task.done = 1
        return {"healed": 3}

    first = tasks.begin("repair", 1, wait)
    assert not await first.ended(0.01)
    for _ in range(RUNNING_MAX - 1):
        tasks.begin("repair", 1, wait)
    with pytest.raises(Overloaded):
        tasks.begin("repair", 1, wait)
    gate.set()
    assert await first.ended(5)
    shown = tasks.shown()[-1]
    assert (shown["state"], shown["done"], shown["healed"]) == ("done", 1, 3)
    await asyncio.gather(*running)
    for _ in range(2 * KEPT_MAX):
        await tasks.begin("repair", 1, wait).ended(5)
    assert len(tasks.shown()) == KEPT_MAX
