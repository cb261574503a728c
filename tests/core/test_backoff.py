"""Waits between tries: capped, exponential, spread over the whole of each."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvstore.core.backoff import backoff_s

attempts = st.integers(0, 10_000)
chances = st.floats(0, 1, exclude_max=True)


@given(attempts, chances)
def test_a_wait_is_never_negative_and_never_over_the_cap(attempt: int, chance: float) -> None:
    assert 0 <= backoff_s(attempt, chance, base_s=0.05, cap_s=2.0) <= 2.0


@given(attempts)
def test_the_jitter_is_full(attempt: int) -> None:
    """From none to all of the ceiling, evenly: callers that failed together come back apart."""
    ceiling = backoff_s(attempt, 1.0, base_s=0.05, cap_s=2.0)
    assert backoff_s(attempt, 0.0, base_s=0.05, cap_s=2.0) == 0
    assert backoff_s(attempt, 0.25, base_s=0.05, cap_s=2.0) == ceiling / 4


def test_the_ceiling_doubles_up_to_the_cap() -> None:
    ceilings = [backoff_s(attempt, 1.0, base_s=0.1, cap_s=1.0) for attempt in range(6)]
    assert ceilings == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
