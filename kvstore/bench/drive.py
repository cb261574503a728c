"""Sends operations, and measures how long each of them took.

Closed loop: every lane sends its next operation when the last one is answered. That finds the peak, and
hides stalls: while a lane waits, nothing is sent that could be seen to wait.

Open loop: operations have times at which they are due, whatever became of those before; latency runs from
that time, so what a stall kept from being sent is measured with the time it waited ("coordinated omission",
Tene). Lanes are connections: an operation whose time has come takes the first that is free.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from random import Random
from typing import Protocol

from kvstore.bench.recording import Recording
from kvstore.bench.workload import Kind, Operation, Operations

GRACE_S = 10.0
"""How long an open loop that fell behind may go on after its last operation was due."""

Clock = Callable[[], float]


class Lane(Protocol):
    """One connection, or one task of a client."""

    async def run(self, operation: Operation) -> str:
        """The name of the error, "" if it was done. Raises nothing."""


async def closed_loop(
    lanes: Sequence[Lane],
    operations: Operations,
    recording: Recording,
    *,
    warm_up_s: float,
    duration_s: float,
    clock: Clock,
) -> None:
    """Operations that began in the time that counts are waited for, and count: a stall at the end, too."""
    begin_s = clock() + warm_up_s
    end_s = begin_s + duration_s

    async def work(lane: Lane) -> None:
        while (now_s := clock()) < end_s:
            operation, error = await _next_on(lane, operations)
            if now_s >= begin_s:
                recording.add(operation.kind.value, clock() - now_s, error, now_s - begin_s)

    await _all(work(lane) for lane in lanes)
    recording.duration_s = clock() - begin_s


async def open_loop(
    lanes: Sequence[Lane],
    operations: Operations,
    recording: Recording,
    *,
    rate_per_s: float,
    random: Random,
    warm_up_s: float,
    duration_s: float,
    clock: Clock,
) -> None:
    """Poisson arrivals at `rate_per_s`."""
    begin_s = clock() + warm_up_s
    end_s = begin_s + duration_s
    arrivals = poisson(random, rate_per_s, clock(), end_s)

    async def work(lane: Lane) -> None:
        for due_s in arrivals:
            wait_s = due_s - clock()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
                if due_s >= begin_s:
                    recording.late(clock() - due_s)
            elif wait_s < -GRACE_S or clock() > end_s + GRACE_S:
                recording.unsent += due_s >= begin_s
                continue
            operation, error = await _next_on(lane, operations)
            if due_s >= begin_s:
                recording.add(operation.kind.value, clock() - due_s, error, due_s - begin_s)

    await _all(work(lane) for lane in lanes)
    recording.duration_s = max(clock(), end_s) - begin_s


def poisson(random: Random, rate_per_s: float, first_s: float, end_s: float) -> Iterator[float]:
    """Times between `first_s` and `end_s`, at random and independent of each other."""
    at_s = first_s + random.expovariate(rate_per_s)
    while at_s < end_s:
        yield at_s
        at_s += random.expovariate(rate_per_s)


async def _next_on(lane: Lane, operations: Operations) -> tuple[Operation, str]:
    """One operation, carried out, and the name of its error. A key that is there may be read from now on."""
    operation = operations.next()
    error = await lane.run(operation)
    if operation.kind is Kind.INSERT and not error:
        operations.acknowledged(operation.key)
    return operation, error


async def _all(works: Iterable[Coroutine[None, None, None]]) -> None:
    async with asyncio.TaskGroup() as group:
        for work in works:
            group.create_task(work)
