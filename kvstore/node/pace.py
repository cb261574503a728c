"""Background work at a bounded rate, giving way to clients: core/background_pace.py on a loop's clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from kvstore.core.background_pace import PAUSE_MAX_S, Budget, new_baseline_s, pause_s
from kvstore.core.limits import Limits

Foreground = Callable[[], tuple[int, float]]
"""(operations of clients answered so far, seconds they took together)."""

RECORDS_AT_ONCE = 128  # under half a millisecond of the loop
BYTES_AT_ONCE = 256 * 1024
_OPERATIONS_MIN = 8  # fewer are no sample
_IDLE_S = 1.0
_BASELINE_ASSUMED_S = 0.01


class Pace:
    """Whoever works in the background tells what it did, and waits here as long as it takes.

    `foreground` may be replaced once there is somebody who serves clients, and so may `gives_way`: whether
    these, or the disk, have no room for anything beside them. `paused_s`: time spent giving
    way to clients, beyond what the rates ask for.
    """

    def __init__(self, limits: Limits) -> None:
        self._loop = asyncio.get_running_loop()
        self._records = Budget(limits.anti_entropy_records_per_s)
        self._moved = Budget(limits.anti_entropy_bytes_per_s)
        self._scrubbed = Budget(limits.scrub_bytes_per_s)
        self.foreground: Foreground = lambda: (0, 0.0)
        self.gives_way: Callable[[], bool] = lambda: False
        self.paused_s = 0.0
        self._baseline_s = _BASELINE_ASSUMED_S
        self._latency_s = 0.0
        self._counted, self._took_s = 0, 0.0
        self._worked_at_s = self._sampled_at_s = self._loop.time()

    async def read(self, records: int) -> None:
        """So many records were read. Lets others run in any case."""
        await self._wait(self._records.spend(records, self._loop.time()))

    async def moved(self, size_bytes: int) -> None:
        """So many bytes of states were sent or fetched."""
        await self._wait(self._moved.spend(size_bytes, self._loop.time()))

    async def scrubbed(self, size_bytes: int) -> None:
        await self._wait(self._scrubbed.spend(size_bytes, self._loop.time()))

    async def _wait(self, owed_s: float) -> None:
        self._sample()
        pause = PAUSE_MAX_S if self.gives_way() else pause_s(self._latency_s, self._baseline_s)
        self.paused_s += pause
        await asyncio.sleep(owed_s + pause)

    def _sample(self) -> None:
        """What clients saw since the last look counts as the baseline if nobody worked meanwhile."""
        now_s = self._loop.time()
        idle = now_s - self._worked_at_s > _IDLE_S
        self._worked_at_s = now_s
        counted, took_s = self.foreground()
        operations = counted - self._counted
        if operations < _OPERATIONS_MIN and now_s - self._sampled_at_s <= _IDLE_S:
            return
        latency_s = (took_s - self._took_s) / operations if operations > 0 else 0.0
        self._counted, self._took_s, self._sampled_at_s = counted, took_s, now_s
        if not idle:
            self._latency_s = latency_s
        elif operations >= _OPERATIONS_MIN:
            self._baseline_s, self._latency_s = new_baseline_s(self._baseline_s, latency_s), 0.0
