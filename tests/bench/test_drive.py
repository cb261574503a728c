"""When operations are sent, under virtual time: in an open loop a stall shows to all that it delayed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from itertools import pairwise
from random import Random

import pytest

from kvstore.bench import drive
from kvstore.bench.drive import closed_loop, open_loop, poisson
from kvstore.bench.recording import Recording
from kvstore.bench.workload import WORKLOADS, Kind, Operation, Operations
from kvstore.simulation.loop import VirtualTimeLoop

SERVICE_S = 0.001


class Store:
    """Answers after a millisecond, and not at all while it is stalled. Times are those of the loop."""

    def __init__(self, stall_at_s: float = 1e9, stall_s: float = 0.0) -> None:
        self.stall = (stall_at_s, stall_at_s + stall_s)
        self.at_once = self.at_once_max = 0

    async def run(self, operation: Operation) -> str:
        now_s = asyncio.get_running_loop().time()
        self.at_once += 1
        self.at_once_max = max(self.at_once_max, self.at_once)
        begins, ends = self.stall
        await asyncio.sleep(SERVICE_S + (ends - now_s if begins <= now_s < ends else 0.0))
        self.at_once -= 1
        return ""


def run(main: Coroutine[object, object, None]) -> None:
    loop = VirtualTimeLoop()
    try:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(main)
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def opened(store: Store, *, lanes: int = 8, rate_per_s: float = 200.0, duration_s: float = 10.0) -> Recording:
    recording = Recording(keep_series=True)

    async def main() -> None:
        await open_loop(
            [store] * lanes,
            Operations(WORKLOADS["get"], 100, Random(1)),
            recording,
            rate_per_s=rate_per_s,
            random=Random(2),
            warm_up_s=1.0,
            duration_s=duration_s,
            clock=asyncio.get_running_loop().time,
        )

    run(main())
    return recording


def closed(store: Store, *, lanes: int = 8) -> Recording:
    recording = Recording()

    async def main() -> None:
        operations = Operations(WORKLOADS["get"], 100, Random(1))
        clock = asyncio.get_running_loop().time
        lanes_ = [store] * lanes
        await closed_loop(lanes_, operations, recording, warm_up_s=1.0, duration_s=10.0, clock=clock)

    run(main())
    return recording


def slower_than(recording: Recording, latency_s: float) -> int:
    assert recording.series is not None
    return sum(latency > latency_s for latency in recording.series[1])


def test_an_open_loop_sends_at_its_rate_whatever_the_store_does() -> None:
    calm, stalled = opened(Store()), opened(Store(stall_at_s=5.0, stall_s=2.0))
    assert calm.count == stalled.count == pytest.approx(2000, rel=0.1)
    assert calm.all().get_value_at_percentile(99.9) == pytest.approx(SERVICE_S * 1e6, rel=0.05)


def test_a_stall_counts_for_every_operation_that_was_due_in_it() -> None:
    """2 s of stall at 200 per s: all 400 that were due waited for the rest of it, 1 s on average."""
    recording = opened(Store(stall_at_s=5.0, stall_s=2.0))
    assert recording.series is not None
    due_in_it = [s for at, s in zip(*recording.series[:2], strict=True) if 4.0 <= at < 6.0]
    assert len(due_in_it) == pytest.approx(400, rel=0.15)
    assert min(due_in_it) >= 0.0009
    assert sum(due_in_it) / len(due_in_it) == pytest.approx(1.0, rel=0.1)
    assert recording.all().get_value_at_percentile(90) > 0.5e6


def test_a_closed_loop_hides_that_stall_which_is_why_latency_is_taken_from_the_other() -> None:
    recording = closed(Store(stall_at_s=5.0, stall_s=2.0))
    slow = recording.count - int(recording.count * 0.999)
    assert recording.all().get_max_value() > 1.9e6
    assert recording.all().get_value_at_percentile(99.9) < 0.01e6, f"{slow} of {recording.count}"


def test_a_closed_loop_finds_the_peak_and_waits_for_what_it_began() -> None:
    recording = closed(Store(), lanes=4)
    assert recording.per_s == pytest.approx(4 / SERVICE_S, rel=0.01)
    stalled_at_the_end = closed(Store(stall_at_s=10.5, stall_s=3.0), lanes=4)
    assert stalled_at_the_end.all().get_max_value() > 2.9e6
    assert stalled_at_the_end.duration_s > 12.4


def test_never_more_at_once_than_there_are_lanes() -> None:
    store = Store(stall_at_s=3.0, stall_s=1.0)
    opened(store, lanes=3)
    assert store.at_once_max == 3


def test_a_store_that_cannot_keep_up_ends_the_run_and_is_told_of() -> None:
    """One lane of 1 ms takes 1000 per s; 5000 per s are due."""
    recording = opened(Store(), lanes=1, rate_per_s=5000.0, duration_s=20.0)
    assert recording.unsent > 0
    assert recording.failed == recording.unsent
    assert recording.duration_s < 20.0 + drive.GRACE_S + 1.0
    assert 800 < recording.per_s <= 1000, "what is left of the warm-up is done first, and does not count"


def test_warm_up_is_not_measured() -> None:
    recording = opened(Store(stall_at_s=0.2, stall_s=0.5))
    assert slower_than(recording, 0.01) == 0


def test_arrivals_are_poisson() -> None:
    times = list(poisson(Random(3), 100.0, 0.0, 200.0))
    gaps = [later - earlier for earlier, later in pairwise(times)]
    mean = sum(gaps) / len(gaps)
    variance = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)
    assert mean == pytest.approx(0.01, rel=0.03)
    assert variance**0.5 == pytest.approx(mean, rel=0.05), "exponential: as wide as it is long"


def test_inserts_are_told_to_the_operations_only_if_they_are_done() -> None:
    class Refuses(Store):
        async def run(self, operation: Operation) -> str:
            await asyncio.sleep(SERVICE_S)
            return "503" if operation.kind is Kind.INSERT else ""

    recording = Recording()
    operations = Operations(WORKLOADS["D"], 100, Random(1))

    async def main() -> None:
        clock = asyncio.get_running_loop().time
        await closed_loop([Refuses()], operations, recording, warm_up_s=0.0, duration_s=2.0, clock=clock)

    run(main())
    assert recording.errors["503"] > 20
    later = [operations.next() for _ in range(1000)]
    assert all(operation.key < 100 for operation in later if operation.kind is Kind.READ)
