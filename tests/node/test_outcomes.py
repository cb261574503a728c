"""What a node says of a write that nobody answered: never more than what holds afterwards."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from kvstore.core.encoding import decode_context
from kvstore.core.message import Read, Request, Store, StoreHint
from kvstore.core.outcome import AskOutcome, OutcomeTold, dots_of
from kvstore.core.ring import full_key, partition_of
from kvstore.errors import InvalidRequest, NotReady, QuorumNotMet
from kvstore.node.node import Node
from kvstore.node.ports import Kind
from tests.node.world import World, context, get, put, until, values

KEY = b"ann"
PLACE = (partition_of(full_key("b", KEY)), full_key("b", KEY))


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    for name in ("n1", "n2", "n3", "n4", "n5"):
        await world.start(name, expect=5)
    world.form_at_once()
    await until(lambda: all(node._handlers is node._answers for node in world.nodes.values()))
    yield world
    await world.stop()


async def told(node: Node, operation: bytes, w: int | None = None) -> OutcomeTold:
    return await node.outcome(AskOutcome("b", KEY, operation, w=w, timeout_ms=300))


def durable_at(world: World, operation: bytes) -> list[str]:
    """Homes that would hold it after a crash of all nodes."""
    homes = [home.name for home in world.homes("b", KEY)]
    records = {name: world.storages[name].disk.durable(Kind.DATA, *PLACE) for name in homes}
    return [name for name, record in records.items() if dots_of([record or b""], operation)]


def only_to(world: World, *names: str) -> None:
    """Copies and hints reach these nodes and no others."""

    def intercept(sender: str, receiver: str, request: Request) -> Request | None:
        return None if receiver not in names and isinstance(request, Store | StoreHint) else request

    world.intercept = intercept


async def unanswered(world: World, at: Node, operation: bytes, *reaches: str) -> None:
    """A put through `at` that is not acknowledged, of which only `at` and those in `reaches` have a copy."""
    only_to(world, *reaches)
    with pytest.raises(QuorumNotMet) as error:
        await put(at, KEY, b"v", operation_id=operation, w=3, timeout_ms=100)
    assert error.value.outcome == "unknown"
    only_to(world, *world.storages)


async def test_a_write_that_one_home_holds_is_finished_by_asking(world: World) -> None:
    """Afterwards W homes hold it, whoever was asked, so it is acknowledged like any other (P1)."""
    first, other = world.homes("b", KEY)[0], world.others("b", KEY)[0]
    await unanswered(world, first, b"op")
    assert durable_at(world, b"op") == [first.name]
    answer = await told(other, b"op", w=3)
    assert (answer.outcome, answer.n, answer.required, answer.answered, answer.acks) == ("ok", 3, 3, 3, 3)
    assert len(durable_at(world, b"op")) == 3
    assert values(await get(other, KEY)) == [b"v"]


async def test_what_is_told_of_it_supersedes_that_write_and_nothing_else(world: World) -> None:
    first, second, _ = world.homes("b", KEY)
    await unanswered(world, first, b"op")
    await put(second, KEY, b"beside", mode="sibling")
    answer = await told(second, b"op")
    assert answer.outcome == "ok"
    await put(first, KEY, b"next", context=answer.context)
    assert sorted(values(await get(first, KEY, r=3))) == [b"beside", b"next"]


async def test_while_too_few_homes_take_it_nothing_is_promised(world: World) -> None:
    first, second, third = world.homes("b", KEY)
    await unanswered(world, first, b"op")
    world.down |= {second.name, third.name}
    answer = await told(first, b"op")
    assert (answer.outcome, answer.answered, answer.acks) == ("unknown", 1, 1)
    assert answer.context, "it is held, and may be superseded"
    world.down.clear()
    assert (await told(first, b"op")).outcome == "ok"


async def test_copies_that_are_not_on_disk_do_not_count(world: World) -> None:
    """All homes have it in the engine only; a crash of all would take it back, so the answer waits."""
    first, *_ = homes = world.homes("b", KEY)
    for home in homes:
        world.storages[home.name].sync_delay_s = 0.05
    await put(first, KEY, b"v", operation_id=b"op", durability="async", w=3)
    assert durable_at(world, b"op") == []
    answer = await told(first, b"op", w=3)
    assert (answer.outcome, answer.answered, answer.acks) == ("ok", 3, 3)
    assert len(durable_at(world, b"op")) == 3


async def test_a_hint_is_where_a_write_may_be_too(world: World) -> None:
    """All homes were away and stand-ins took it; whoever asks brings it home."""
    homes = [home.name for home in world.homes("b", KEY)]
    stand_in, other = world.others("b", KEY)
    world.down |= set(homes)
    await put(stand_in, KEY, b"v", operation_id=b"op", w=2)
    assert (await told(other, b"op")).outcome == "unknown", "stand-ins are no homes"
    assert durable_at(world, b"op") == []
    world.down.clear()
    answer = await told(stand_in, b"op", w=3)
    assert (answer.outcome, answer.acks) == ("ok", 3)
    assert durable_at(world, b"op") == homes


async def test_what_is_not_found_is_unknown_and_never_failed(world: World) -> None:
    """It may be in a socket; here it is, and comes after the question."""
    first = world.homes("b", KEY)[0]
    assert (await told(first, b"op")).outcome == "unknown"
    await put(first, KEY, b"v", operation_id=b"op")
    assert (await told(first, b"op")).outcome == "ok"


async def test_what_was_superseded_is_unknown(world: World) -> None:
    """Its dot is covered and its name is gone: it cannot be told from one that never came."""
    first, second, _ = world.homes("b", KEY)
    await put(first, KEY, b"v", operation_id=b"op")
    await put(second, KEY, b"w", context=context(await get(first, KEY)))
    answer = await told(first, b"op")
    assert (answer.outcome, answer.context, answer.answered) == ("unknown", b"", 3)


async def test_what_one_home_still_shows_and_another_has_superseded_is_ok(world: World) -> None:
    """It was applied, and what W homes hold durably afterwards covers it."""
    first, second, third = world.homes("b", KEY)
    await put(first, KEY, b"v", operation_id=b"op", w=3)
    seen = context(await get(first, KEY))
    only_to(world, third.name)
    await put(second, KEY, b"w", context=seen, w=2)
    only_to(world, *world.storages)
    answer = await told(first, b"op", w=3)
    assert answer.outcome == "ok"
    assert values(await get(first, KEY, r=3)) == [b"w"]


async def test_a_delete_is_a_write(world: World) -> None:
    first = world.homes("b", KEY)[0]
    await put(first, KEY, b"v")
    await unanswered(world, first, b"other")
    await put(first, KEY, b"", tombstone=True, operation_id=b"gone")
    assert (await told(first, b"gone")).outcome == "ok"


async def test_two_dots_of_one_operation_are_told_of_together(world: World) -> None:
    """Sent twice, to homes that did not see each other."""
    first, second, _ = world.homes("b", KEY)
    await unanswered(world, first, b"op")
    await unanswered(world, second, b"op")
    answer = await told(first, b"op")
    assert answer.outcome == "ok"
    dots = dots_of([first.replica.read(*PLACE)], b"op")
    assert len(dots) == 2
    assert all(map(decode_context(answer.context).covers, dots))


async def test_what_cannot_be_read_here_is_asked_of_the_others(world: World) -> None:
    first = world.homes("b", KEY)[0]
    await put(first, KEY, b"v", operation_id=b"op", w=3)
    world.storages[first.name].disk.flip_bit(Kind.DATA, *PLACE)
    answer = await told(first, b"op")
    assert (answer.outcome, answer.answered) == ("ok", 2)


async def test_nobody_is_asked_for_more_than_the_bucket_has(world: World) -> None:
    with pytest.raises(InvalidRequest):
        await told(world.named("n1"), b"op", w=4)


async def test_asking_holds_back_the_collection_of_tombstones_until_it_has_ended(world: World) -> None:
    """What it has read and is about to send could bring back what was collected meanwhile (B6)."""
    first, second, third = world.homes("b", KEY)
    await unanswered(world, first, b"op")
    inside: list[int] = []

    def intercept(sender: str, receiver: str, request: Request) -> Request | None:
        if isinstance(request, Read | Store):
            inside.append(sum(first.grace._inside.values()))
        return request

    world.intercept = intercept
    assert (await told(first, b"op")).outcome == "ok"
    assert min(inside) >= 1
    await until(lambda: not first.grace._inside)
    assert {second.name, third.name} <= {receiver for _, receiver, _ in world.calls}


async def test_a_node_that_starts_says_so() -> None:
    world = World()
    node = await world.start("n1", expect=3)
    with pytest.raises(NotReady):
        await told(node, b"op")
    await world.stop()
