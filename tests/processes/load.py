"""Open-loop load through the client, and what it measured.

Every operation has an intended start time on a fixed grid, and its latency counts from there, so that a
stall delays nothing that should have been sent meanwhile and hides nothing (no coordinated omission).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import ceil
from statistics import median
from typing import NamedTuple

from kvstore import AsyncClient
from kvstore.errors import KVStoreError

BUCKET = "failover"
BEHIND_S_MAX = 4.0  # twice the client's deadline: more under way is a queue that only grows


class Sample(NamedTuple):
    """`at_s`: intended start, in seconds since the load began. `failure` is "" for a success."""

    at_s: float
    latency_s: float
    operation: str
    failure: str


@dataclass(slots=True)
class OpenLoad:
    """Half gets and half puts at `rate` per second, until `stop`.

    Keys are taken in turn, so that no key is written again while its last write may be under way: the
    last acknowledged value of each key must be there in the end.
    """

    client: AsyncClient
    rate: float
    keys: int = 1000
    samples: list[Sample] = field(default_factory=list)
    acknowledged: dict[str, bytes] = field(default_factory=dict)
    _stopped: bool = False
    _started_at: float = 0.0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def now_s(self) -> float:
        return asyncio.get_running_loop().time() - self._started_at

    @property
    def failed(self) -> list[Sample]:
        return [sample for sample in self.samples if sample.failure]

    async def fill(self) -> None:
        """Every key once."""
        bucket = self.client.bucket(BUCKET)

        async def some(keys: Iterator[str]) -> None:
            for key in keys:
                await bucket.put(key, b"first")
                self.acknowledged[key] = b"first"

        keys = (f"k{number}" for number in range(self.keys))
        await asyncio.gather(*(some(keys) for _ in range(16)))

    def start(self) -> asyncio.Task[None]:
        """The load's clock begins. The task ends when `stop` was called and the last operation has ended."""
        loop = asyncio.get_running_loop()
        self._started_at = loop.time()
        return loop.create_task(self._run())

    async def _run(self) -> None:
        loop, chance = asyncio.get_running_loop(), random.Random(1)
        number = writes = 0
        while not self._stopped:
            at_s = number / self.rate
            # At least one turn of the loop even when late: otherwise nothing that was sent would get on.
            await asyncio.sleep(max(0.0, at_s - self.now_s))
            if len(self._tasks) > BEHIND_S_MAX * self.rate:
                raise AssertionError(
                    f"invalid run: this machine is too busy for {self.rate:.0f} operations/s"
                )
            number += 1
            if number % 2:
                work = self._get(at_s, f"k{chance.randrange(self.keys)}")
            else:
                writes += 1
                work = self._put(at_s, f"k{writes % self.keys}", b"%d" % number)
            task = loop.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        await asyncio.gather(*self._tasks)

    def stop(self) -> None:
        self._stopped = True

    async def _get(self, at_s: float, key: str) -> None:
        failure = ""
        try:
            record = await self.client.bucket(BUCKET).fetch(key)
            if not record.found:
                failure = "not found"
        except KVStoreError as error:
            failure = f"{type(error).__name__}: {error}"
        self.samples.append(Sample(at_s, self.now_s - at_s, "get", failure))

    async def _put(self, at_s: float, key: str, value: bytes) -> None:
        failure = ""
        try:
            await self.client.bucket(BUCKET).put(key, value)
            self.acknowledged[key] = value
        except KVStoreError as error:
            failure = f"{type(error).__name__}: {error}"
        self.samples.append(Sample(at_s, self.now_s - at_s, "put", failure))


def between(samples: Iterable[Sample], start_s: float, end_s: float) -> list[Sample]:
    """Those that should have started then."""
    return [sample for sample in samples if start_s <= sample.at_s < end_s]


def percentile_ms(samples: Iterable[Sample], percent: float) -> float:
    """The smallest latency that this share of the samples did not exceed. At least one sample."""
    ordered = sorted(sample.latency_s for sample in samples)
    assert ordered, "nothing was measured"
    return ordered[ceil(len(ordered) * percent / 100) - 1] * 1000


def typical_p99_ms(samples: list[Sample], start_s: float, end_s: float) -> float:
    """The median of the p99 of each whole second: what one second looks like, not the worst of them.

    On a machine that other programs use, single seconds are slow with all nodes alive.
    """
    seconds = int(end_s - start_s)
    return median(percentile_ms(between(samples, start_s + i, start_s + i + 1), 99) for i in range(seconds))


def recovered_after_s(samples: list[Sample], since_s: float, end_s: float, bound_ms: float) -> float:
    """Seconds from `since_s` to the start of the first whole second whose p99 is under the bound.

    Looked for in steps of 100 ms; infinite if there is none.
    """
    start_s = since_s
    while start_s + 1 <= end_s:
        if percentile_ms(between(samples, start_s, start_s + 1), 99) < bound_ms:
            return start_s - since_s
        start_s += 0.1
    return float("inf")
