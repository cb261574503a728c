"""This node's hybrid clock: the rules of core/hybrid_clock.py over a wall clock."""

from __future__ import annotations

from kvstore.core.hybrid_clock import is_too_far_ahead, receive, tick
from kvstore.node.ports import WallClock


class HybridTime:
    """`refused` counts times that were too far ahead to be believed."""

    def __init__(self, wall: WallClock, skew_max_s: float) -> None:
        self._wall, self._skew_max_s = wall, skew_max_s
        self._last = 0
        self.refused = 0

    def now(self) -> int:
        self._last = tick(self._last, self._wall.now_ms())
        return self._last

    def seen(self, time: int) -> bool:
        """Take note of a time from elsewhere. False: too far ahead, and not taken."""
        if time <= self._last:
            return True
        if is_too_far_ahead(time, self._wall.now_ms(), self._skew_max_s):
            self.refused += 1
            return False
        self._last = receive(self._last, time)
        return True
