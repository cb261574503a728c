"""The breaker on latency: its table, its hysteresis, and what it must never do to a cluster."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.core.circuit_breaker import (
    SLOW_MIN_S,
    Event,
    LatencyBreaker,
    State,
    judged,
    may_be_last,
)

TABLE = {
    (State.CLOSED, Event.SUCCESS): State.CLOSED,
    (State.CLOSED, Event.FAILURE): State.CLOSED,
    (State.CLOSED, Event.ASKED): State.CLOSED,
    (State.OPEN, Event.SUCCESS): State.HALF_OPEN,
    (State.OPEN, Event.FAILURE): State.OPEN,
    (State.OPEN, Event.ASKED): State.HALF_OPEN,
    (State.HALF_OPEN, Event.SUCCESS): State.HALF_OPEN,
    (State.HALF_OPEN, Event.FAILURE): State.OPEN,
    (State.HALF_OPEN, Event.ASKED): State.HALF_OPEN,
}


def _breaker() -> LatencyBreaker:
    return LatencyBreaker(slow_max=3, quick_max=3, wait_first_s=1.0, wait_max_s=4.0)


def _apply(breaker: LatencyBreaker, event: Event, now_s: float) -> None:
    match event:
        case Event.SUCCESS:
            breaker.quick(now_s)
        case Event.FAILURE:
            breaker.slow(now_s)
        case Event.ASKED:
            breaker.asked(now_s)


def _in_state(state: State, now_s: float) -> LatencyBreaker:
    breaker = _breaker()
    if state is not State.CLOSED:
        for _ in range(3):
            breaker.slow(now_s)
    if state is State.HALF_OPEN:
        breaker.asked(now_s)
    assert breaker.state is state
    return breaker


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
def test_every_event_in_every_state_leads_where_the_table_says(state: State, event: Event) -> None:
    breaker = _in_state(state, 10.0)
    _apply(breaker, event, 10.5)
    assert breaker.state is TABLE[state, event]


def test_it_opens_after_three_slow_windows_in_a_row_and_not_sooner() -> None:
    breaker = _breaker()
    for _ in range(5):
        breaker.slow(0.0)
        breaker.slow(0.0)
        assert breaker.allows(0.0)
        breaker.quick(0.0)
    for _ in range(3):
        breaker.slow(0.0)
    assert not breaker.allows(0.9)
    assert breaker.allows(1.0)


def test_a_slow_probe_doubles_the_wait_up_to_its_maximum() -> None:
    breaker, now_s, waits = _in_state(State.OPEN, 0.0), 0.0, []
    for _ in range(5):
        waits.append(breaker.retry_at_s - now_s)
        now_s = breaker.retry_at_s
        breaker.asked(now_s)
        breaker.slow(now_s)
    assert waits == [1.0, 2.0, 4.0, 4.0, 4.0]


def test_answers_from_before_do_not_put_the_probe_off() -> None:
    breaker = _in_state(State.OPEN, 0.0)
    for _ in range(20):
        breaker.slow(0.9)
    assert breaker.allows(1.0)


def test_the_way_back_takes_three_quick_probes_one_after_the_other() -> None:
    breaker = _in_state(State.OPEN, 0.0)
    for number in range(3):
        assert breaker.state is not State.CLOSED
        now_s = breaker.retry_at_s
        assert breaker.allows(now_s)
        breaker.asked(now_s)
        assert not breaker.allows(now_s), "one at a time"
        breaker.quick(now_s + 0.1 * number)
    assert breaker.state is State.CLOSED


def test_one_slow_probe_begins_the_way_back_anew() -> None:
    breaker, states = _in_state(State.HALF_OPEN, 0.0), []
    for event in (Event.SUCCESS, Event.SUCCESS, Event.FAILURE, Event.ASKED, Event.SUCCESS, Event.SUCCESS):
        _apply(breaker, event, 5.0)
        states.append(breaker.state)
    breaker.quick(5.0)
    assert State.CLOSED not in states
    assert breaker.state is State.CLOSED


@given(st.lists(st.tuples(st.sampled_from(Event), st.floats(0, 3)), max_size=40))
def test_whatever_happens_the_peer_is_in_its_turn_again_within_the_longest_wait(
    steps: list[tuple[Event, float]],
) -> None:
    breaker, now_s = _breaker(), 0.0
    for event, after_s in steps:
        now_s += after_s
        _apply(breaker, event, now_s)
        assert breaker.allows(now_s + 4.0)


@given(st.lists(st.tuples(st.sampled_from((Event.SUCCESS, Event.FAILURE)), st.booleans()), max_size=40))
def test_it_opens_only_where_it_may_and_only_when_slow(steps: list[tuple[Event, bool]]) -> None:
    breaker, slow_in_a_row = _breaker(), 0
    for event, may in steps:
        before = breaker.state
        if event is Event.FAILURE:
            slow_in_a_row += 1
            breaker.slow(0.0, may_open=may)
        else:
            slow_in_a_row = 0
            breaker.quick(0.0)
        if before is State.CLOSED:
            assert (breaker.state is State.OPEN) is (event is Event.FAILURE and may and slow_in_a_row >= 3)


# --- who is slow --------------------------------------------------------------------------------------

MEDIANS = st.lists(st.floats(0.0001, 2.0), min_size=1, max_size=7)


@given(MEDIANS, st.floats(1.5, 20.0))
def test_fewer_than_half_of_the_peers_and_one_are_slow_at_once(medians_s: list[float], factor: float) -> None:
    slow = [
        own_s
        for at, own_s in enumerate(medians_s)
        if judged(own_s, medians_s[:at] + medians_s[at + 1 :], factor=factor) is Event.FAILURE
    ]
    assert len(slow) <= (len(medians_s) + 1) // 2
    assert min(medians_s) not in slow


@given(st.floats(0.0001, 2.0), st.integers(1, 6), st.floats(1.5, 20.0))
def test_where_all_are_as_slow_nobody_is(all_s: float, others: int, factor: float) -> None:
    assert judged(all_s, [all_s] * others, factor=factor) is not Event.FAILURE


@given(st.floats(0.0, 5.0))
def test_one_alone_is_never_slow(own_s: float) -> None:
    assert judged(own_s, [], factor=5.0) is Event.SUCCESS


@given(st.floats(0.0, SLOW_MIN_S / 2), st.lists(st.floats(0.0, 1.0), max_size=5))
def test_who_is_quick_by_any_measure_is_not_slow(own_s: float, others_s: list[float]) -> None:
    assert judged(own_s, others_s, factor=5.0) is Event.SUCCESS


def test_between_slow_and_quick_nothing_changes() -> None:
    """Otherwise a peer at the threshold would be let in and out all the time."""
    verdicts = [judged(own_s, [0.01], factor=5.0) for own_s in (0.024, 0.026, 0.049, 0.051)]
    assert verdicts == [Event.SUCCESS, None, None, Event.FAILURE]


@given(st.integers(0, 50), st.lists(st.booleans(), max_size=100))
def test_at_most_half_of_the_peers_are_asked_last(peers: int, steps: list[bool]) -> None:
    last = 0
    for opens in steps:
        if opens:
            last += may_be_last(last, peers)
        elif last:
            last -= 1
        assert last <= peers / 2
