"""How long to wait before the next try: capped exponential, full jitter.

Source: Brooker, "Exponential Backoff and Jitter" (2015): full jitter spreads retries best for the
work it costs. `chance` is a draw from [0, 1) by the caller.
"""

from __future__ import annotations


def backoff_s(attempt: int, chance: float, *, base_s: float, cap_s: float) -> float:
    """The wait after failed attempt number `attempt` (0 for the first)."""
    ceiling = min(cap_s, base_s * (1 << min(attempt, 30)))
    return ceiling * chance
