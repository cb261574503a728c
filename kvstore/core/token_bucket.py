"""How often something may be done: a steady rate, and a burst after a rest. Pure; time is an argument.

Source: the token bucket of Turner, "New directions in communications", IEEE Communications 1986. One
number and one time for each limited party, no timer.
"""

from __future__ import annotations

_ROUNDING = 1e-6  # tokens: who waits exactly as told must not be a rounding error short


class TokenBucket:
    """`rate_per_s` tokens flow in, as long as there are fewer than `burst`; each thing done takes some.

    In any interval of t seconds it lets through at most burst + rate_per_s · t, and the last one of them
    on debt. A clock that goes back is a clock that stands still.
    """

    __slots__ = ("_at_s", "_tokens", "burst", "rate_per_s")

    def __init__(self, *, rate_per_s: float, burst: float, now_s: float) -> None:
        assert rate_per_s > 0
        assert burst >= 1
        self.rate_per_s, self.burst = rate_per_s, burst
        self._tokens, self._at_s = burst, now_s

    def take(self, now_s: float, count: float = 1.0) -> float:
        """0.0: taken. Otherwise nothing is taken, and so many seconds later it could be.

        What is more than a burst is let through when the bucket is full, on debt: otherwise never.
        """
        tokens = self._flow(now_s)
        missing = min(count, self.burst) - tokens
        if missing > _ROUNDING:
            return missing / self.rate_per_s
        self._tokens = tokens - count
        return 0.0

    def charge(self, now_s: float, count: float) -> None:
        """What turned out to be more than was asked for is taken afterwards, on debt."""
        self._tokens = self._flow(now_s) - count

    def is_full(self, now_s: float) -> bool:
        """As good as new: forgetting it changes nothing."""
        return self._flow(now_s) >= self.burst

    def _flow(self, now_s: float) -> float:
        if now_s > self._at_s:
            self._tokens = min(self.burst, self._tokens + (now_s - self._at_s) * self.rate_per_s)
            self._at_s = now_s
        return self._tokens
