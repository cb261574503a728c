"""Long work in slices: who else is there gets the larger part of the time."""

from __future__ import annotations

import asyncio
from unittest.mock import patch

from kvstore.node import slices as module
from kvstore.node.slices import REST_S, RESTS_AFTER_OTHERS, Slices


class Sleeps(list[float]):
    async def __call__(self, seconds: float) -> None:
        self.append(seconds)


async def rests(busy: list[bool]) -> list[float]:
    """How long each rest was, others being there as `busy` says."""
    slices, sleeps, seen = Slices(), Sleeps(), iter(busy)
    slices.others = lambda: next(seen)
    with patch.object(module, "sleep", sleeps):
        async with slices:
            for _ in busy:
                await slices.rest()
    return sleeps


async def test_who_is_alone_only_lets_the_loop_turn() -> None:
    assert await rests([False] * 5) == [0.0] * 5


async def test_who_saw_others_rests_a_while_longer_also_when_they_are_between_two_requests() -> None:
    """A client that asks again and again is in flight at most of the time, and is felt by at all of it."""
    busy = [False, True, *[False] * (RESTS_AFTER_OTHERS + 2)]
    assert await rests(busy) == [0.0, *[REST_S] * RESTS_AFTER_OTHERS, 0.0, 0.0, 0.0]


async def test_others_that_stay_are_rested_for_each_time() -> None:
    assert await rests([True] * (RESTS_AFTER_OTHERS * 3)) == [REST_S] * (RESTS_AFTER_OTHERS * 3)


async def test_one_piece_of_work_after_the_other() -> None:
    slices, order = Slices(), list[str]()

    async def work(name: str) -> None:
        async with slices:
            for step in range(3):
                order.append(f"{name}{step}")
                await slices.rest()

    await asyncio.gather(work("a"), work("b"))
    assert order == ["a0", "a1", "a2", "b0", "b1", "b2"]
