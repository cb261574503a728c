"""Wall clocks that are wrong: offset, rate and jumps over the loop's time."""

from __future__ import annotations

import asyncio

EPOCH_MS = 1_700_000_000_000
"""What a right clock shows when a run begins."""


class SimulatedClock:
    """`ports.WallClock` of one machine; it outlives the processes there. `read` counts lookups."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._base_ms = float(EPOCH_MS)
        self._since_s = loop.time()
        self._rate = 1.0
        self.reads = 0

    def now_ms(self) -> int:
        self.reads += 1
        return int(self._now_ms())

    def elapsed_s(self) -> float:
        return self._loop.time()

    def jump(self, by_s: float) -> None:
        """Forwards, or back."""
        self._rebase(self._rate, by_s)

    def drift(self, rate: float) -> None:
        """Seconds it shows per second, from now on; 1 is right."""
        self._rebase(rate, 0.0)

    def correct(self) -> None:
        """As a time service does it, in one step."""
        now_s = self._loop.time()
        self._base_ms, self._since_s, self._rate = EPOCH_MS + now_s * 1000, now_s, 1.0

    def _rebase(self, rate: float, by_s: float) -> None:
        self._base_ms = self._now_ms() + by_s * 1000
        self._since_s, self._rate = self._loop.time(), rate

    def _now_ms(self) -> float:
        return self._base_ms + (self._loop.time() - self._since_s) * 1000 * self._rate
