"""The bucket against a model that keeps every grant and computes in fractions."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.core.token_bucket import TokenBucket

# Quarters and whole numbers: floats hold them exactly, so the model may be compared without tolerance.
RATES = st.sampled_from([0.5, 1.0, 2.0, 8.0])
BURSTS = st.sampled_from([1.0, 2.0, 5.0])
STEPS = st.lists(
    st.tuples(
        st.sampled_from([-1.0, 0.0, 0.25, 0.5, 4.0]),
        st.sampled_from(["take", "charge"]),
        st.integers(1, 7),
    ),
    max_size=60,
)


class Model:
    """Every second's inflow and every grant, summed up anew each time."""

    def __init__(self, rate: float, burst: float) -> None:
        self.rate, self.burst = Fraction(rate), Fraction(burst)
        self.events: list[tuple[Fraction, int]] = []

    def tokens(self, now: Fraction) -> Fraction:
        level, at = self.burst, Fraction(0)
        for then, count in self.events:
            level = min(self.burst, level + (then - at) * self.rate) - count
            at = then
        return min(self.burst, level + (now - at) * self.rate)


@given(RATES, BURSTS, STEPS)
def test_it_is_what_a_model_that_remembers_all_says(
    rate: float, burst: float, steps: list[tuple[float, str, int]]
) -> None:
    bucket, model = TokenBucket(rate_per_s=rate, burst=burst, now_s=0.0), Model(rate, burst)
    clock_s = latest_s = 0.0
    for later_s, what, count in steps:
        clock_s = max(0.0, clock_s + later_s)
        latest_s = max(latest_s, clock_s)  # a clock that goes back is one that stands still
        level = model.tokens(Fraction(latest_s))
        if what == "charge":
            bucket.charge(clock_s, count)
            model.events.append((Fraction(latest_s), count))
        else:
            missing = min(Fraction(count), model.burst) - level
            wait_s = bucket.take(clock_s, count)
            assert wait_s == max(Fraction(0), missing / model.rate)
            if not wait_s:
                model.events.append((Fraction(latest_s), count))
        assert bucket.is_full(clock_s) == (model.tokens(Fraction(latest_s)) >= model.burst)


@given(
    st.floats(0.1, 1000),
    st.floats(1, 100),
    st.lists(st.tuples(st.floats(0, 3), st.integers(1, 20)), max_size=100),
)
def test_no_interval_gets_more_than_its_share_but_for_the_last_one_on_debt(
    rate: float, burst: float, asked: list[tuple[float, int]]
) -> None:
    bucket, now_s = TokenBucket(rate_per_s=rate, burst=burst, now_s=0.0), 0.0
    granted: list[tuple[float, int]] = []
    for later_s, count in asked:
        now_s += later_s
        if not bucket.take(now_s, count):
            granted.append((now_s, count))
    for first in range(len(granted)):
        total = 0
        for at_s, count in granted[first:]:
            most = burst + rate * (at_s - granted[first][0])
            assert total <= most * (1 + 1e-9)
            total += count


@given(RATES, BURSTS, st.integers(1, 9))
def test_who_waits_as_told_is_served(rate: float, burst: float, count: int) -> None:
    bucket = TokenBucket(rate_per_s=rate, burst=burst, now_s=0.0)
    bucket.charge(0.0, 3)
    wait_s = bucket.take(0.0, count)
    assert not wait_s or bucket.take(wait_s, count) == 0.0


def test_a_burst_after_a_rest_and_no_more() -> None:
    bucket = TokenBucket(rate_per_s=10.0, burst=5.0, now_s=100.0)
    assert [bucket.take(100.0) for _ in range(5)] == [0.0] * 5
    assert bucket.take(100.0) == pytest.approx(0.1)
    assert bucket.take(100.1) == 0.0
    assert [bucket.take(900.0) for _ in range(5)] == [0.0] * 5
    assert bucket.take(900.0) > 0.0
