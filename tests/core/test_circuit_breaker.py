"""The breaker against its table, and the promises that its callers rely on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.core.circuit_breaker import CircuitBreaker, Event, State

FAILURES_MAX = 3


def _breaker() -> CircuitBreaker:
    return CircuitBreaker(failures_max=FAILURES_MAX, wait_first_s=1.0, wait_max_s=4.0)


def _in_state(state: State, now_s: float) -> CircuitBreaker:
    breaker = _breaker()
    if state is not State.CLOSED:
        breaker.failed(now_s, hard=True)
    if state is State.HALF_OPEN:
        breaker.asked(now_s)
    assert breaker.state is state
    return breaker


def _apply(breaker: CircuitBreaker, event: Event, now_s: float) -> None:
    match event:
        case Event.SUCCESS:
            breaker.succeeded()
        case Event.FAILURE:
            breaker.failed(now_s)
        case Event.ASKED:
            breaker.asked(now_s)


TABLE = {
    (State.CLOSED, Event.SUCCESS): State.CLOSED,
    (State.CLOSED, Event.FAILURE): State.CLOSED,
    (State.CLOSED, Event.ASKED): State.CLOSED,
    (State.OPEN, Event.SUCCESS): State.CLOSED,
    (State.OPEN, Event.FAILURE): State.OPEN,
    (State.OPEN, Event.ASKED): State.HALF_OPEN,
    (State.HALF_OPEN, Event.SUCCESS): State.CLOSED,
    (State.HALF_OPEN, Event.FAILURE): State.OPEN,
    (State.HALF_OPEN, Event.ASKED): State.HALF_OPEN,
}


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
def test_every_event_in_every_state_leads_where_the_table_says(state: State, event: Event) -> None:
    breaker = _in_state(state, 10.0)
    _apply(breaker, event, 10.5)
    assert breaker.state is TABLE[state, event]


@given(st.lists(st.tuples(st.sampled_from(Event), st.floats(0, 3), st.booleans()), max_size=30))
def test_whatever_happens_the_peer_is_asked_again_within_the_longest_wait(
    events: list[tuple[Event, float, bool]],
) -> None:
    """No sequence of answers, failures and lost probes shuts a peer out for longer."""
    breaker, now_s, in_a_row = _breaker(), 0.0, 0
    for event, elapsed_s, hard in events:
        now_s += elapsed_s
        if event is Event.FAILURE:
            breaker.failed(now_s, hard=hard)
            in_a_row += 1
            assert (breaker.state is State.OPEN) or (in_a_row < FAILURES_MAX and not hard)
        else:
            _apply(breaker, event, now_s)
            in_a_row = 0 if event is Event.SUCCESS else in_a_row
        if event is Event.SUCCESS:
            assert breaker.allows(now_s)
        assert breaker.allows(now_s + 4.0)


def test_failures_in_a_row_open_it_and_a_success_between_starts_the_row_again() -> None:
    breaker = _breaker()
    for _ in range(3):
        breaker.failed(0.0)
        breaker.failed(0.0)
        assert breaker.allows(0.0)
        breaker.succeeded()
    for _ in range(FAILURES_MAX):
        breaker.failed(0.0)
    assert not breaker.allows(0.0)


def test_a_failure_that_proves_that_nobody_listens_opens_it_at_once() -> None:
    breaker = _breaker()
    breaker.failed(0.0, hard=True)
    assert not breaker.allows(0.999)
    assert breaker.allows(1.0)


def _let_through(breaker: CircuitBreaker, callers: int, now_s: float) -> int:
    """Each caller asks whether it may, and if so, calls."""
    through = 0
    for _ in range(callers):
        if breaker.allows(now_s):
            breaker.asked(now_s)
            through += 1
    return through


def test_one_probe_is_let_through_per_wait() -> None:
    breaker = _in_state(State.OPEN, 0.0)
    assert _let_through(breaker, 100, 0.5) == 0
    assert _let_through(breaker, 100, 1.0) == 1
    assert _let_through(breaker, 100, 1.5) == 0


def test_a_probe_that_never_reports_back_expires() -> None:
    breaker = _in_state(State.OPEN, 0.0)
    assert _let_through(breaker, 100, 1.0) == 1
    assert _let_through(breaker, 100, 2.0) == 1, "its wait is over, the next one goes"
    assert _let_through(breaker, 100, 2.5) == 0


def test_a_probe_that_succeeds_lets_everybody_through() -> None:
    breaker = _in_state(State.HALF_OPEN, 0.0)
    breaker.succeeded()
    assert _let_through(breaker, 100, 0.0) == 100


def test_the_wait_doubles_with_every_failed_probe_up_to_its_maximum_and_a_success_resets_it() -> None:
    breaker, now_s, waits = _in_state(State.OPEN, 0.0), 0.0, []
    for _ in range(5):
        waits.append(breaker.retry_at_s - now_s)
        now_s = breaker.retry_at_s
        breaker.asked(now_s)
        breaker.failed(now_s)
    assert waits == [1.0, 2.0, 4.0, 4.0, 4.0]
    breaker.asked(now_s)
    breaker.succeeded()
    breaker.failed(now_s, hard=True)
    assert breaker.retry_at_s == now_s + 1.0


def test_late_failures_of_calls_from_before_do_not_double_the_wait() -> None:
    breaker = _in_state(State.OPEN, 0.0)
    for _ in range(20):
        breaker.failed(0.1)
    assert breaker.wait_s == 1.0
    assert breaker.allows(1.1)


def test_a_late_answer_is_an_answer() -> None:
    breaker = _in_state(State.OPEN, 0.0)
    breaker.succeeded()
    assert breaker.allows(0.0)
