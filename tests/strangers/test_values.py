"""A peer that knows the key and is broken: requests that are well-formed and make no sense, on real nodes.

Whatever is in them, the answer is a reply or a refusal; an exception of any other kind would be logged as
this node's own failure, with a stack, as often as that peer likes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from kvstore.core.message import REPLY_OF, BucketRecord, Put, Read, Reply, Request, StoreBucket
from kvstore.errors import InvalidRequest, KVStoreError
from tests.node.world import World, get, put, until, values
from tests.rpc.support import values_of

PATIENCE_S = 0.02  # for an answer that takes longer nobody waits: it goes on, and its end is looked at


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    for name in ("n1", "n2", "n3"):
        await world.start(name)
    world.form_at_once()
    await until(lambda: all(node._handlers is node._answers for node in world.nodes.values()))
    yield world
    for node in world.nodes.values():
        for task in node.background.tasks:
            task.cancel()
    await asyncio.gather(
        *(task for n in world.nodes.values() for task in n.background.tasks), return_exceptions=True
    )


def requests_of(kind: type[Request], count: int) -> list[Request]:
    """Values of the annotated types, the same in every run."""
    made: list[Request] = []

    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(values_of(kind) | small(kind))
    def collect(value: Request) -> None:
        made.append(value)

    collect()
    return made


def small(kind: type[Request]) -> st.SearchStrategy[Request]:
    """The same with numbers that a partition or a version could be."""
    return values_of(kind).map(
        lambda value: value._replace(
            **{
                name: field % 300
                for name, field in zip(value._fields, value, strict=True)
                if type(field) is int
            }
        )
    )


async def ask(world: World, requests: list[Request]) -> int:
    """How many were refused. Raises what is no KVStoreError."""
    node, sender, refused = world.named("n1"), world.named("n2").node_id, 0
    later: list[asyncio.Future[Any]] = []
    for request in requests:
        try:
            answer: Reply | asyncio.Future[Any] = node.serve(sender, request, 0.05)
        except KVStoreError:
            refused += 1
        else:
            if isinstance(answer, asyncio.Future):
                later.append(answer)
    if later:
        await asyncio.wait(later, timeout=PATIENCE_S)
    for future in later:
        error = future.exception() if future.done() and not future.cancelled() else None
        if error is not None and not isinstance(error, KVStoreError):
            raise error
        refused += error is not None
        future.cancel()
    await asyncio.gather(*later, return_exceptions=True)
    return refused


async def of_every_kind(world: World, count: int) -> None:
    await put(world.named("n1"), b"ann", b"v", w=3)
    for kind in REPLY_OF:
        await ask(world, requests_of(kind, count))
    assert not world.fatal
    record = world.named("n2").replica.read(*place(b"ann"))
    assert record, "what is elsewhere is as it was"


def place(key: bytes) -> tuple[int, bytes]:
    from kvstore.core.ring import full_key, partition_of

    return partition_of(full_key("b", key)), full_key("b", key)


async def test_requests_that_make_no_sense(world: World) -> None:
    await of_every_kind(world, 8)


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_hundreds_of_requests_that_make_no_sense(world: World) -> None:
    await of_every_kind(world, 400)


@pytest.mark.parametrize("partition", [-1, 1 << 16, 1 << 60])
async def test_a_partition_that_there_is_not_is_refused(world: World, partition: int) -> None:
    with pytest.raises(InvalidRequest, match="partition"):
        world.named("n1").serve(world.named("n2").node_id, Read(partition, b"k"), 0.05)


@pytest.mark.parametrize("properties", ["", "[]", "7", "{", '{"n": "many"}', '{"nn": 3}', '{"n": 1, "r": 2}'])
async def test_properties_that_are_none_are_refused_and_what_came_with_them_is_not_half_taken(
    world: World, properties: str
) -> None:
    """A table that is in memory and not on disk would never get there: its records are no news any more."""
    node = world.named("n1")
    good = BucketRecord("good", 1, "a", '{"n": 2}')
    for records in (
        [good, BucketRecord("bad", 1, "a", properties)],
        [BucketRecord("bad", 1, "a", properties)],
    ):
        with pytest.raises(InvalidRequest):
            node.registry.merge(records)
        assert node.registry.records() == ()
    with pytest.raises(InvalidRequest):
        node.serve(world.named("n2").node_id, StoreBucket(BucketRecord("bad", 1, "a", properties)), 0.05)
    assert node.registry.merge([good])
    assert (await world.restart("n1")).bucket("good")[0].n == 2


async def test_a_node_serves_on_beside_a_peer_that_makes_no_sense(world: World) -> None:
    for number in range(20):
        await ask(world, [Read(number, b"k"), Put("", b"", n=-1), *requests_of(Read, 3)])
    await put(world.named("n2"), b"ann", b"v")
    assert values(await get(world.named("n1"), b"ann")) == [b"v"]
