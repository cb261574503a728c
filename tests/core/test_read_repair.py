"""Who gets the merge: whoever would change by getting it, and nobody else."""

from __future__ import annotations

from functools import reduce

from hypothesis import given
from hypothesis import strategies as st

from kvstore.core.encoding import encode_state
from kvstore.core.read_repair import merged, plan_read_repair
from kvstore.core.sibling import EMPTY_STATE, KeyState, Version, merge, write
from kvstore.core.vector_clock import EMPTY_CONTEXT
from tests.core.strategies import states_of_one_history


def _answer(state: KeyState) -> bytes:
    """A replica that has no record answers no bytes."""
    return b"" if state == EMPTY_STATE else encode_state(state)


@given(states_of_one_history(4))
def test_those_who_lack_something_of_the_merge_get_it_in_order_of_arrival(drawn: list[KeyState]) -> None:
    whole = reduce(merge, drawn)
    answers = [(f"node {position}", _answer(state)) for position, state in enumerate(drawn)]
    lacking = [f"node {position}" for position, state in enumerate(drawn) if state != whole]
    state = merged(answer for _, answer in answers)
    assert state == _answer(whole)
    assert plan_read_repair(state, answers) == lacking


@given(states_of_one_history(4), st.data())
def test_the_merge_does_not_depend_on_the_order_of_arrival(
    drawn: list[KeyState], data: st.DataObject
) -> None:
    answers = [_answer(state) for state in drawn]
    assert merged(answers) == merged(data.draw(st.permutations(answers)))


@given(states_of_one_history(3))
def test_after_the_repair_there_is_nothing_to_repair(drawn: list[KeyState]) -> None:
    state = merged(map(_answer, drawn))
    repaired = [(f"node {position}", merged([_answer(held), state])) for position, held in enumerate(drawn)]
    assert plan_read_repair(state, repaired) == []


def test_a_key_that_nobody_knows_needs_no_repair() -> None:
    assert merged([b"", b"", b""]) == b""
    assert plan_read_repair(b"", [("a", b""), ("b", b"")]) == []


def test_who_answered_with_nothing_lacks_it_and_who_did_not_answer_is_not_planned_for() -> None:
    state = encode_state(write(EMPTY_STATE, EMPTY_CONTEXT, Version(b"x"), (1, 1)))
    assert plan_read_repair(state, [("a", b""), ("b", state)]) == ["a"]


def test_an_overwritten_value_is_repaired() -> None:
    """Its causal part differs from that of the new one in a single counter."""
    old = write(EMPTY_STATE, EMPTY_CONTEXT, Version(b"old"), (1, 1))
    new = encode_state(write(old, old.context, Version(b"new"), (1, 2)))
    state = merged([encode_state(old), new])
    assert state == new
    assert plan_read_repair(state, [("a", new), ("b", encode_state(old))]) == ["b"]


def test_of_two_concurrent_writes_both_sides_lack_one() -> None:
    one = encode_state(write(EMPTY_STATE, EMPTY_CONTEXT, Version(b"x"), (1, 1)))
    other = encode_state(write(EMPTY_STATE, EMPTY_CONTEXT, Version(b"y"), (2, 1)))
    state = merged([one, other])
    assert plan_read_repair(state, [("b", other), ("a", one), ("c", state)]) == ["b", "a"]
