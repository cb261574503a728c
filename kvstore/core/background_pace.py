"""How fast background work may go: a rate it may not exceed, and pauses while clients wait.

Source: Dynamo §6.5, where a controller that watches the latency of foreground operations decides how much
background work may run. Pure: time and latencies are arguments.
"""

from __future__ import annotations

PAUSE_MAX_S = 0.5
TOLERATED = 1.5  # times the baseline; latencies vary that much for other reasons
_EAGERNESS_S = 0.02  # of pause for each baseline beyond what is tolerated
_BASELINE_WEIGHT = 0.2
LATENCY_FLOOR_S = 0.002  # nobody notices less


def pause_s(latency_s: float, baseline_s: float) -> float:
    """Before the next bounded piece of work. Never for ever: what is put off too long costs more.

    `latency_s`: mean of recent foreground operations, 0 if there were none. `baseline_s`: the same while no
    background work ran, 0 if unknown.
    """
    if latency_s <= LATENCY_FLOOR_S or baseline_s <= 0:
        return 0.0
    excess = latency_s / max(baseline_s, LATENCY_FLOOR_S / TOLERATED) - TOLERATED
    return min(PAUSE_MAX_S, _EAGERNESS_S * excess) if excess > 0 else 0.0


def new_baseline_s(baseline_s: float, latency_s: float) -> float:
    """After one more sample without background work."""
    if baseline_s <= 0:
        return latency_s
    return baseline_s + _BASELINE_WEIGHT * (latency_s - baseline_s)


class Budget:
    """At most `rate_per_s` on average, and half a second's worth at once."""

    __slots__ = ("_free_at_s", "rate_per_s")

    BURST_S = 0.5

    def __init__(self, rate_per_s: float) -> None:
        self.rate_per_s = rate_per_s
        self._free_at_s = float("-inf")

    def spend(self, amount: float, now_s: float) -> float:
        """Takes it, and says for how long to wait afterwards: 0 within the burst."""
        self._free_at_s = max(self._free_at_s, now_s - self.BURST_S) + amount / self.rate_per_s
        return max(0.0, self._free_at_s - now_s)
