"""When a read is late, and how many may be hedged, against models that count."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.core.hedging import (
    CEILING_S,
    FLOOR_S,
    SAVED_FIRST,
    SAVED_MAX,
    HedgeBudget,
    hedge_delay_s,
    median_low,
    quantile,
)

SECONDS = st.floats(0.0, 10.0)


@given(st.lists(SECONDS, min_size=1, max_size=50), st.floats(0.0, 1.0))
def test_at_least_the_share_of_values_lies_at_or_below_the_quantile(
    values: list[float], share: float
) -> None:
    found = quantile(sorted(values), share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9
    assert sum(value < found for value in values) <= share * len(values)


@given(st.lists(SECONDS, max_size=9))
def test_the_low_median_is_that_of_the_library(values: list[float]) -> None:
    assert median_low(values) == (statistics.median_low(values) if values else 0.0)


@given(st.lists(SECONDS, max_size=6))
def test_the_delay_stays_within_its_bounds(quantiles_s: list[float]) -> None:
    assert FLOOR_S <= hedge_delay_s(quantiles_s, fixed_s=0.0) <= CEILING_S


@given(st.lists(SECONDS, max_size=6), st.floats(0.001, 100.0))
def test_a_fixed_delay_is_taken_as_it_is(quantiles_s: list[float], fixed_s: float) -> None:
    assert hedge_delay_s(quantiles_s, fixed_s=fixed_s) == fixed_s


@given(st.lists(st.floats(0.0, 0.1), min_size=1, max_size=5), st.data())
def test_slow_peers_do_not_set_the_delay_while_they_are_at_most_half(
    quick_s: list[float], data: st.DataObject
) -> None:
    slow_s = data.draw(st.lists(st.floats(0.2, 10.0), max_size=len(quick_s)))
    assert hedge_delay_s([*slow_s, *quick_s], fixed_s=0.0) <= max(FLOOR_S, *quick_s)


def test_where_most_peers_are_slow_the_delay_follows_them() -> None:
    assert hedge_delay_s([0.001, 0.05, 0.06], fixed_s=0.0) == 0.05


@given(st.floats(0.0, 1.0), st.lists(st.one_of(st.integers(1, 50), st.none()), max_size=300))
def test_the_budget_is_that_of_a_model_that_counts(share: float, steps: list[int | None]) -> None:
    """A number of reads, or (None) somebody who wants to hedge."""
    budget, reads, hedges, saved = HedgeBudget(share), 0, 0, SAVED_FIRST
    for step in steps:
        if step is None:
            allowed = budget.take()
            assert allowed is (saved >= 1.0)
            saved -= allowed
            hedges += allowed
        else:
            budget.earn(step)
            reads += step
            saved = min(SAVED_MAX, saved + share * step)
        assert hedges <= SAVED_FIRST + share * reads + 1e-9


@pytest.mark.parametrize("share", [0.0, 0.05])
def test_every_read_is_late_and_so_many_are_hedged(share: float) -> None:
    budget, hedges = HedgeBudget(share), 0
    for _ in range(10_000):
        budget.earn(1)
        hedges += budget.take()
    assert hedges == pytest.approx(SAVED_FIRST + share * 10_000, abs=1)


def test_what_is_saved_in_quiet_times_is_bounded() -> None:
    budget = HedgeBudget(0.05)
    budget.earn(1_000_000)
    assert sum(budget.take() for _ in range(1000)) == SAVED_MAX
