"""The breaker as a table, and one that hears nothing but noise."""

from __future__ import annotations

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from kvstore.client.circuit_breaker import TABLE, CircuitBreaker, Event, State


def test_the_table_has_every_pair() -> None:
    assert TABLE.keys() == set(product(State, Event))


def test_three_failures_in_a_row_open_it() -> None:
    breaker = CircuitBreaker()
    for failure in (breaker.failed, breaker.failed):
        failure(0.0)
    breaker.succeeded()
    for _ in range(2):
        breaker.failed(0.0)
    assert breaker.allows(0.0)
    breaker.failed(0.0)
    assert not breaker.allows(0.0)
    assert breaker.allows(0.25)


def test_one_hard_failure_opens_it() -> None:
    breaker = CircuitBreaker()
    breaker.failed(0.0, hard=True)
    assert breaker.state is State.OPEN


def test_only_one_trial_at_a_time() -> None:
    breaker = CircuitBreaker()
    breaker.failed(0.0, hard=True)
    breaker.asked(1.0)
    assert breaker.state is State.HALF_OPEN
    assert not breaker.allows(1.0)
    breaker.succeeded()
    assert breaker.allows(1.0)


def test_failed_trials_wait_longer_up_to_a_bound() -> None:
    breaker, now_s, waits = CircuitBreaker(), 0.0, []
    breaker.failed(now_s, hard=True)
    for _ in range(8):
        waits.append(breaker.retry_at_s - now_s)
        now_s = breaker.retry_at_s
        breaker.asked(now_s)
        breaker.failed(now_s)
    assert waits == [0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 5.0]


def test_an_address_that_never_answered_starts_with_one_trial() -> None:
    breaker = CircuitBreaker(is_proven=False)
    assert breaker.allows(0.0)
    breaker.asked(0.0)
    assert not breaker.allows(0.0)
    breaker.succeeded()
    assert breaker.is_proven
    assert breaker.state is State.CLOSED


steps = st.lists(st.tuples(st.sampled_from(["asked", "succeeded", "failed", "hard"]), st.floats(0, 3)))


@given(steps, st.booleans())
def test_it_never_shuts_a_node_out_for_ever(steps: list[tuple[str, float]], proven: bool) -> None:
    breaker, now_s = CircuitBreaker(is_proven=proven), 0.0
    for step, passed_s in steps:
        now_s += passed_s
        match step:
            case "asked":
                breaker.asked(now_s)
            case "succeeded":
                breaker.succeeded()
                assert breaker.allows(now_s)
            case _:
                breaker.failed(now_s, hard=step == "hard")
        assert breaker.allows(now_s + breaker.wait_max_s)
        assert breaker.wait_first_s <= breaker.wait_s <= breaker.wait_max_s
