"""Background work keeps to its rate, and gives way while clients wait."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.core.background_pace import (
    LATENCY_FLOOR_S,
    PAUSE_MAX_S,
    TOLERATED,
    Budget,
    new_baseline_s,
    pause_s,
)

latencies = st.floats(0, 10)


@given(st.lists(st.floats(0.1, 500), min_size=1, max_size=200), st.floats(1, 1000))
def test_who_waits_as_told_never_exceeds_the_rate(amounts: list[float], rate_per_s: float) -> None:
    budget, now_s, spent = Budget(rate_per_s), 100.0, 0.0
    for amount in amounts:
        spent += amount
        now_s += budget.spend(amount, now_s)
        assert spent <= rate_per_s * (now_s - 100.0 + Budget.BURST_S) * (1 + 1e-9)


def test_what_was_not_used_is_kept_for_half_a_second_only() -> None:
    budget = Budget(100.0)
    assert budget.spend(50, 1000.0) == 0
    assert budget.spend(50, 1000.0) == pytest.approx(0.5)
    assert budget.spend(50, 2000.0) == 0
    assert budget.spend(1, 2000.0) == pytest.approx(0.01)


@given(latencies, latencies)
def test_clients_that_wait_no_longer_than_usual_pause_nothing(latency_s: float, baseline_s: float) -> None:
    pause = pause_s(latency_s, baseline_s)
    assert 0 <= pause <= PAUSE_MAX_S
    if latency_s <= max(baseline_s * TOLERATED, LATENCY_FLOOR_S):
        assert pause == 0


@given(latencies, latencies, latencies)
def test_the_longer_clients_wait_the_longer_the_pause(one: float, other: float, baseline_s: float) -> None:
    shorter, longer = sorted((one, other))
    assert pause_s(shorter, baseline_s) <= pause_s(longer, baseline_s)


def test_ten_times_the_usual_latency_pauses_for_long() -> None:
    assert pause_s(0.1, 0.01) > 0.1
    assert pause_s(10.0, 0.01) == PAUSE_MAX_S


@given(st.floats(0, 1), st.floats(0.001, 1))
def test_the_baseline_follows_what_is_usual(start_s: float, usual_s: float) -> None:
    baseline_s = start_s
    for _ in range(60):
        baseline_s = new_baseline_s(baseline_s, usual_s)
    assert baseline_s == pytest.approx(usual_s, rel=0.01, abs=1e-5)
