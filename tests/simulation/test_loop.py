"""The loop of the simulated world: time jumps, processes stall and end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from kvstore.simulation.loop import Deadlock, Owner, TooManySteps, VirtualTimeLoop


@pytest.fixture
def loop() -> Iterator[VirtualTimeLoop]:
    made = VirtualTimeLoop(steps_max=10_000)
    yield made
    made.close()


def test_hours_pass_at_once_and_in_order(loop: VirtualTimeLoop) -> None:
    seen: list[tuple[float, str]] = []

    async def wait(name: str, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        seen.append((loop.time(), name))

    async def run() -> None:
        await asyncio.gather(wait("late", 7200.0), wait("soon", 0.25), wait("later", 3600.0))

    loop.run_until_complete(run())
    assert seen == [(0.25, "soon"), (3600.0, "later"), (7200.0, "late")]


@pytest.mark.parametrize("cancelled", [0, 1, 150, 151])
def test_what_is_due_at_one_moment_happens_in_the_order_of_its_making(
    loop: VirtualTimeLoop, cancelled: int
) -> None:
    """Whatever was cancelled before: asyncio rebuilds its heap then, and how much is differs by release."""
    seen: list[int] = []

    async def run() -> None:
        others = [loop.call_at(5.0, seen.append, -1) for _ in range(cancelled)]
        for number in range(100):
            loop.call_at(5.0, seen.append, number)
        for other in others:
            other.cancel()
        await asyncio.sleep(6.0)

    loop.run_until_complete(run())
    assert seen == list(range(100))


def test_waiting_for_nothing_is_a_deadlock_and_not_a_hang(loop: VirtualTimeLoop) -> None:
    async def run() -> None:
        await loop.create_future()

    with pytest.raises(Deadlock):
        loop.run_until_complete(run())


def test_a_loop_that_never_ends_is_ended(loop: VirtualTimeLoop) -> None:
    async def run() -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(TooManySteps):
        loop.run_until_complete(run())


def test_a_stalled_process_does_nothing_and_then_everything_that_was_due(loop: VirtualTimeLoop) -> None:
    done: list[tuple[float, str]] = []

    async def tick(name: str, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            done.append((loop.time(), name))

    async def run() -> None:
        stalled, other = Owner("stalled"), Owner("other")
        stalled.task(tick("stalled", 1.0))
        other.task(tick("other", 2.0))
        await asyncio.sleep(1.5)
        loop.stall(stalled)
        await asyncio.sleep(3.0)
        loop.resume(stalled)
        await asyncio.sleep(1.25)
        loop.end(stalled)
        loop.end(other)
        await asyncio.sleep(0)

    loop.run_until_complete(run())
    assert done == [(1.0, "stalled"), (2.0, "other"), (4.0, "other"), (4.5, "stalled"), (5.5, "stalled")]


def test_tasks_of_tasks_belong_to_the_process_and_end_with_it_in_one_order(
    loop: VirtualTimeLoop,
) -> None:
    ended: list[str] = []

    async def child(name: str) -> None:
        try:
            await asyncio.sleep(100.0)
        finally:
            ended.append(name)

    async def parent() -> None:
        children = [loop.create_task(child(name)) for name in ("a", "b", "c")]
        try:
            await children[2]
        finally:
            ended.append("parent")
            ended.append(f"late: {loop.create_task(child('late')).get_name()}")

    async def run() -> Owner:
        owner = Owner("p")
        owner.task(parent())
        await asyncio.sleep(1.0)
        loop.end(owner)
        await asyncio.sleep(1.0)
        return owner

    owner = loop.run_until_complete(run())
    # In the order of their making, but for c: the parent is cancelled first, and passes that on to it.
    assert ended[:4] == ["c", "a", "b", "parent"]
    assert len(ended) == 5, "what a dying process starts never runs"
    assert not owner.tasks


def test_an_exception_that_nobody_catches_is_kept(loop: VirtualTimeLoop) -> None:
    async def run() -> None:
        loop.call_soon(lambda: 1 / 0)
        await asyncio.sleep(1.0)

    loop.run_until_complete(run())
    assert len(loop.errors) == 1
    assert "ZeroDivisionError" in loop.errors[0]


def test_a_process_is_stalled_in_a_turn_in_which_only_its_own_work_is_left(loop: VirtualTimeLoop) -> None:
    """The loop takes as many handles as it counted at the start of the turn, whatever happens to them."""
    done: list[int] = []

    async def run() -> None:
        owner = Owner("p")
        loop.call_soon(loop.stall, owner)
        for number in range(5):
            owner.run(loop.call_soon, done.append, number)
        await asyncio.sleep(1.0)
        assert done == []
        loop.resume(owner)
        await asyncio.sleep(1.0)

    loop.run_until_complete(run())
    assert done == list(range(5))
