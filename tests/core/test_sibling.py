"""Write, merge and the views: laws over states that real histories make."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

from hypothesis import given
from hypothesis import strategies as st

from kvstore.core.encoding import encode_state
from kvstore.core.sibling import (
    EMPTY_STATE,
    KeyState,
    Version,
    collapse,
    find_operation,
    last_write,
    merge,
    shown,
    write,
)
from kvstore.core.vector_clock import EMPTY_CONTEXT, CausalContext, Dot, context_of
from tests.core.strategies import contexts, dots_of, histories, states, states_of_one_history, versions

FRESH: Dot = (99, 1)


# --- merge ----------------------------------------------------------------------------------------------


@given(states_of_one_history(3))
def test_merge_is_commutative_associative_and_idempotent(drawn: list[KeyState]) -> None:
    a, b, c = drawn
    assert merge(a, b) == merge(b, a)
    assert merge(merge(a, b), c) == merge(a, merge(b, c))
    assert merge(a, a) == merge(a, EMPTY_STATE) == merge(EMPTY_STATE, a) == a


@given(histories(), st.data())
def test_replicas_converge_whatever_the_order_and_grouping_of_what_they_hear(
    history: list[KeyState], data: st.DataObject
) -> None:
    """Each hears every state at least once, in its own order, some of them merged on the way."""
    heard = data.draw(st.permutations(history))
    cut = data.draw(st.integers(0, len(heard)))
    on_the_way = merge(reduce(merge, heard[:cut], EMPTY_STATE), reduce(merge, heard[cut:], EMPTY_STATE))
    one, other = reduce(merge, history), merge(on_the_way, data.draw(st.sampled_from(history)))
    assert encode_state(one) == encode_state(other)


@given(states_of_one_history(2))
def test_merge_drops_only_what_the_other_side_knows_to_be_superseded(drawn: list[KeyState]) -> None:
    a, b = drawn
    merged = merge(a, b)
    for mine, theirs in ((a, b), (b, a)):
        for dot in mine.siblings:
            assert (dot in merged.siblings) == (dot in theirs.siblings or not theirs.context.covers(dot))
    assert merged.siblings.keys() <= a.siblings.keys() | b.siblings.keys()
    assert dots_of(merged.context) == dots_of(a.context) | dots_of(b.context)


@given(states_of_one_history(2))
def test_merge_leaves_its_arguments_as_they_were(drawn: list[KeyState]) -> None:
    before = [encode_state(state) for state in drawn]
    merge(*drawn)
    assert [encode_state(state) for state in drawn] == before


@given(histories())
def test_every_sibling_is_covered_by_its_context(history: list[KeyState]) -> None:
    assert all(state.context.covers(dot) for state in history for dot in state.siblings)


Merge = Callable[[KeyState, KeyState], KeyState]


def _grouped_left_and_right(rule: Merge, a: KeyState, b: KeyState, c: KeyState) -> tuple[KeyState, KeyState]:
    return rule(rule(a, b), c), rule(a, rule(b, c))


def test_collapsing_operations_inside_merge_would_break_associativity() -> None:
    """One put sent through two copies, and a write by somebody who saw one of the two."""
    sent = Version(b"sent", operation_id=b"op")
    first = write(EMPTY_STATE, EMPTY_CONTEXT, sent, (1, 1))
    again = write(EMPTY_STATE, EMPTY_CONTEXT, sent, (2, 1))
    later = write(EMPTY_STATE, context_of([(1, 1)]), Version(b"later"), (3, 1))

    def merge_and_collapse(a: KeyState, b: KeyState) -> KeyState:
        merged = merge(a, b)
        return merged._replace(siblings=collapse(merged.siblings))

    left, right = _grouped_left_and_right(merge_and_collapse, first, again, later)
    assert set(left.siblings) == {(3, 1)}
    assert set(right.siblings) == {(2, 1), (3, 1)}
    left, right = _grouped_left_and_right(merge, first, again, later)
    assert left == right
    assert set(left.siblings) == {(2, 1), (3, 1)}


def test_keeping_the_last_write_inside_merge_would_break_associativity() -> None:
    """A write by somebody who saw the newest value, through a copy whose clock is behind."""
    old = write(EMPTY_STATE, EMPTY_CONTEXT, Version(b"old", hlc_time=5), (1, 1))
    new = write(EMPTY_STATE, EMPTY_CONTEXT, Version(b"new", hlc_time=9), (2, 1))
    newest = write(EMPTY_STATE, context_of([(2, 1)]), Version(b"newest", hlc_time=1), (3, 1))

    def merge_and_keep_last(a: KeyState, b: KeyState) -> KeyState:
        merged = merge(a, b)
        return merged._replace(siblings=last_write(merged.siblings))

    left, right = _grouped_left_and_right(merge_and_keep_last, old, new, newest)
    assert set(left.siblings) == {(3, 1)}
    assert set(right.siblings) == {(1, 1)}, "and the two never agree"
    left, right = _grouped_left_and_right(merge, old, new, newest)
    assert left == right


def test_a_retried_put_of_which_one_half_was_superseded_stays_a_sibling() -> None:
    """The price of a pure merge: whoever saw one dot of the operation has not superseded the other."""
    sent = Version(b"sent", operation_id=b"op")
    first = write(EMPTY_STATE, EMPTY_CONTEXT, sent, (1, 1))
    deleted = write(first, first.context, Version(b"", tombstone=True), (1, 2))
    again = write(EMPTY_STATE, EMPTY_CONTEXT, sent, (2, 1))
    assert [v.value for _, v in shown(merge(deleted, again), 0)] == [b"sent"]


# --- write ----------------------------------------------------------------------------------------------


@given(states(), contexts(), versions)
def test_a_write_supersedes_what_its_token_covers_and_nothing_else(
    state: KeyState, token: CausalContext, version: Version
) -> None:
    written = write(state, token, version, FRESH)
    assert written.siblings == {d: v for d, v in state.siblings.items() if d not in dots_of(token)} | {
        FRESH: version
    }
    assert dots_of(written.context) == dots_of(state.context) | dots_of(token) | {FRESH}


@given(states(), versions)
def test_a_write_that_saw_everything_is_the_only_sibling(state: KeyState, version: Version) -> None:
    assert write(state, state.context, version, FRESH).siblings == {FRESH: version}


@given(states(), versions)
def test_a_write_wins_over_every_state_that_its_writer_saw(state: KeyState, version: Version) -> None:
    written = write(state, state.context, version, FRESH)
    assert merge(written, state) == merge(state, written) == written


def test_concurrent_writes_stay_side_by_side_until_somebody_who_saw_both_writes() -> None:
    """Dynamo §4.4: D3 and D4 of the paper's figure 3, reconciled by D5."""
    d1 = write(EMPTY_STATE, EMPTY_CONTEXT, Version(b"D1"), (1, 1))
    d2 = write(d1, d1.context, Version(b"D2"), (1, 2))
    d3 = write(d2, d2.context, Version(b"D3"), (2, 1))
    d4 = write(d2, d2.context, Version(b"D4"), (3, 1))
    both = merge(d3, d4)
    assert [v.value for _, v in shown(both, 0)] == [b"D3", b"D4"]
    d5 = write(both, both.context, Version(b"D5"), (1, 3))
    assert [v.value for _, v in shown(merge(merge(d3, d5), d4), 0)] == [b"D5"]


# --- views ----------------------------------------------------------------------------------------------


@given(states())
def test_collapse_shows_each_operation_once_by_its_smallest_dot(state: KeyState) -> None:
    kept = collapse(state.siblings)
    assert kept.items() <= state.siblings.items()
    for dot, version in state.siblings.items():
        twins = [d for d, v in state.siblings.items() if v.operation_id == version.operation_id]
        assert (dot in kept) == (not version.operation_id or dot == min(twins))


@given(states(), st.integers(0, 3))
def test_a_read_shows_what_lives_in_order_of_dots(state: KeyState, now_ms: int) -> None:
    alive = shown(state, now_ms)
    assert [dot for dot, _ in alive] == sorted(dot for dot, _ in alive)
    assert not any(v.tombstone or 0 < v.expires_at_ms <= now_ms for _, v in alive)
    unshown = collapse(state.siblings).keys() - dict(alive).keys()
    assert all(state.siblings[d].tombstone or 0 < state.siblings[d].expires_at_ms <= now_ms for d in unshown)


@given(states_of_one_history(3), st.booleans())
def test_replicas_that_hold_the_same_show_the_same(drawn: list[KeyState], last_write_wins: bool) -> None:
    a, b, c = drawn
    one, other = merge(merge(a, b), c), merge(c, merge(b, a))
    assert shown(one, 0, last_write_wins=last_write_wins) == shown(other, 0, last_write_wins=last_write_wins)


def _siblings(*found: Version) -> KeyState:
    siblings = {(number, 1): version for number, version in enumerate(found, 1)}
    return KeyState(siblings, context_of(siblings))


def test_a_value_beside_a_tombstone_is_shown_and_tombstones_alone_show_nothing() -> None:
    value, tombstone = Version(b"x"), Version(b"", tombstone=True)
    assert shown(_siblings(tombstone, value), 0) == [((2, 1), value)]
    assert shown(_siblings(tombstone, tombstone), 0) == []


def test_a_value_is_shown_until_the_millisecond_it_expires() -> None:
    state = _siblings(Version(b"x", expires_at_ms=1000), Version(b"y"))
    assert [v.value for _, v in shown(state, 999)] == [b"x", b"y"]
    assert [v.value for _, v in shown(state, 1000)] == [b"y"]


def test_the_last_write_by_time_then_dot_is_shown_alone() -> None:
    a, b, c = Version(b"a", hlc_time=7), Version(b"b", hlc_time=9), Version(b"c", hlc_time=9)
    assert [v.value for _, v in shown(_siblings(a, b, c), 0, last_write_wins=True)] == [b"c"]
    assert [v.value for _, v in shown(_siblings(c, b, a), 0, last_write_wins=True)] == [b"b"]


def test_a_last_write_that_is_dead_hides_the_rest() -> None:
    value = Version(b"a", hlc_time=7)
    deleted, expired = Version(b"", tombstone=True, hlc_time=8), Version(b"", expires_at_ms=5, hlc_time=9)
    assert shown(_siblings(value, deleted), 0, last_write_wins=True) == []
    assert shown(_siblings(value, expired), 5, last_write_wins=True) == []
    assert shown(_siblings(value, expired), 4, last_write_wins=True) == [((2, 1), expired)]


def test_an_operation_is_found_while_it_is_a_sibling() -> None:
    state = write(EMPTY_STATE, EMPTY_CONTEXT, Version(b"x", operation_id=b"op"), (1, 1))
    assert find_operation(state, b"op") == ((1, 1), state.siblings[1, 1])
    assert find_operation(state, b"other") is None
    overwritten = write(state, state.context, Version(b"y", operation_id=b"next"), (1, 2))
    assert find_operation(overwritten, b"op") is None


def test_writes_without_an_operation_id_are_not_one_operation() -> None:
    state = _siblings(Version(b"x"), Version(b"y"))
    assert find_operation(state, b"") is None
    assert len(collapse(state.siblings)) == 2
