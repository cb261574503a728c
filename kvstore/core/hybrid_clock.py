"""Hybrid logical time: close to wall time, never backwards, never behind what was seen.

Source: Kulkarni, Demirbas et al., "Logical Physical Clocks" (2014). Used for what may depend on time
at all: last-write-wins buckets, expiry, the time shown beside a version. Causality never does.

A time is one integer: milliseconds since 1970 << 16 | logical counter.
"""

from __future__ import annotations

_LOGICAL_BITS = 16


def tick(last: int, wall_ms: int) -> int:
    """The time of a new event here: later than `last`, at least the wall clock's."""
    return max(last + 1, wall_ms << _LOGICAL_BITS)


def receive(last: int, seen: int) -> int:
    """What `last` becomes when a message shows the time `seen`; the next tick is later than both."""
    return max(last, seen)


def wall_ms_of(time: int) -> int:
    return time >> _LOGICAL_BITS


def is_too_far_ahead(time: int, wall_ms: int, skew_max_s: float) -> bool:
    """Whether accepting this time would let one wrong clock win every conflict for a while (B2)."""
    return wall_ms_of(time) - wall_ms > skew_max_s * 1000
