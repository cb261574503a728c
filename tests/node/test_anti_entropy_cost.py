"""What a comparison costs: bytes as they would go over the wire, and time until a difference is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from kvstore.core.encoding import encode_state
from kvstore.core.message import REPLY_OF, Reply, Request
from kvstore.core.ring import PARTITIONS, full_key, partition_of
from kvstore.core.sibling import EMPTY_STATE, Version, write
from kvstore.core.vector_clock import EMPTY_CONTEXT
from kvstore.node.ports import Kind
from kvstore.rpc.wire import CallClass, encode_answer, encode_request
from kvstore.storage.memory import _Table
from tests.node.world import World, put, until

KIB = 1024
NUMBERS = {kind: number for number, kind in enumerate(REPLY_OF)}
PAYLOAD_ENDS_BYTES = 40  # length, sequence number and MAC of a frame, if every message had its own
BARS = [
    pytest.param(5_000, id="5,000 keys"),
    pytest.param(1_000_000, id="1,000,000 keys", marks=[pytest.mark.slow, pytest.mark.timeout(600)]),
]


class Meter:
    """Counts what a world's calls would be on the wire."""

    def __init__(self, world: World) -> None:
        self.size_bytes = self.messages = 0
        self._deliver: Callable[..., asyncio.Future[Reply]] = world.deliver
        world.deliver = self._count  # type: ignore[method-assign]

    def _count(
        self, sender: str, receiver: str, request: Request, deadline_s: float
    ) -> asyncio.Future[Reply]:
        reply = self._deliver(sender, receiver, request, deadline_s)
        if NUMBERS[type(request)] >= 12:  # what only anti-entropy says
            sent = encode_request(1, NUMBERS[type(request)], 1.0, CallClass.BACKGROUND, request)
            self.size_bytes += len(sent) + PAYLOAD_ENDS_BYTES
            self.messages += 1
            reply.add_done_callback(self._answered)
        return reply

    def _answered(self, reply: asyncio.Future[Reply]) -> None:
        if not reply.cancelled() and reply.exception() is None:
            self.size_bytes += len(encode_answer(1, reply.result())) + PAYLOAD_ENDS_BYTES
            self.messages += 1


def fill(world: World, keys: int) -> None:
    """The same records on every node, past the replicas: only the disks are of interest here."""
    state = encode_state(write(EMPTY_STATE, EMPTY_CONTEXT, Version(b"x" * 20), (77, 1)))
    first, *others = world.storages.values()
    for i in range(keys):
        key = full_key("b", b"user:%08d" % i)
        first.apply([(Kind.DATA, partition_of(key), key, state)])
    for storage in others:
        for where, table in first.disk._tables.items():
            if where[0] is Kind.DATA:
                storage.disk._tables[where] = _Table(table.records)


async def trees_are_built(world: World) -> None:
    for node in world.nodes.values():
        waiting = [node.trees.build(partition) for partition in range(PARTITIONS)]
        for each in waiting:
            assert await each


@pytest.fixture
async def full(world: World, request: pytest.FixtureRequest) -> World:
    fill(world, request.param)
    await trees_are_built(world)
    return world


@pytest.mark.parametrize("full", BARS, indirect=True)
async def test_equal_keys_cost_at_most_64_kib_and_a_different_one_is_healed_in_two_seconds(
    full: World, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    n1, n2 = full.named("n1"), full.named("n2")
    loop = asyncio.get_running_loop()
    meter = Meter(full)

    started_s = loop.time()
    assert await n1.upkeep.anti_entropy.compare(n2.node_id, range(PARTITIONS)) == []
    equal_s, equal_bytes = loop.time() - started_s, meter.size_bytes
    assert meter.messages == 2
    assert equal_bytes <= 64 * KIB

    full.down.update(("n2", "n3"))
    await put(n1, b"user:%08d" % 17, b"changed", w=1)
    key = full_key("b", b"user:%08d" % 17)
    partition = partition_of(key)
    full.down.clear()
    assert n1.replica.read(partition, key) != n2.replica.read(partition, key)
    meter.size_bytes = meter.messages = 0
    started_s = loop.time()
    assert await n1.upkeep.anti_entropy.compare(n2.node_id, range(PARTITIONS)) == []
    healed_s = loop.time() - started_s
    assert n1.replica.read(partition, key) == n2.replica.read(partition, key)
    assert n1.trees.tree(partition, 3).root == n2.trees.tree(partition, 3).root  # type: ignore[union-attr]
    assert healed_s <= 2.0
    assert meter.size_bytes <= 64 * KIB
    if request.node.get_closest_marker("slow") is None:
        return
    with capsys.disabled():
        print(
            f"\nequal: {equal_bytes} bytes in {equal_s * 1000:.1f} ms;"
            f" one differs: {meter.size_bytes} bytes in {meter.messages} messages,"
            f" healed in {healed_s * 1000:.1f} ms"
        )


async def test_the_meter_counts_what_goes_over_the_wire(world: World) -> None:
    """Half of a thousand keys missing must cost more than the states themselves."""
    fill(world, 1000)
    second = world.storages["n2"]
    for partition in range(PARTITIONS):
        for at, (key, _) in enumerate(list(second.scan(Kind.DATA, partition))):
            if at % 2:
                second.apply([(Kind.DATA, partition, key, None)])
    await trees_are_built(world)
    meter = Meter(world)
    n1, n2 = world.named("n1"), world.named("n2")
    await n1.upkeep.anti_entropy.compare(n2.node_id, range(PARTITIONS))
    await until(
        lambda: len(list(second.scan(Kind.DATA, 5))) == len(list(world.storages["n1"].scan(Kind.DATA, 5)))
    )
    sent = n1.upkeep.exchange.counts.sent
    assert 300 < sent < 600
    assert meter.size_bytes > sent * 60
