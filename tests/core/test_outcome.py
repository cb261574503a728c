"""What may be said of a write afterwards, against histories of one key that remember everything."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvstore.core.encoding import decode_state, encode_state
from kvstore.core.outcome import OK, UNKNOWN, dots_of, outcome_of
from kvstore.core.read_repair import merged
from kvstore.core.sibling import EMPTY_STATE, KeyState, Version, write
from kvstore.core.vector_clock import EMPTY_CONTEXT, Dot


def version(operation: bytes, value: bytes = b"v") -> Version:
    return Version(value, operation_id=operation)


def state(*operations: bytes) -> bytes:
    """Siblings of these operations, each from a copy of its own."""
    made = EMPTY_STATE
    for number, operation in enumerate(operations, 1):
        made = write(made, EMPTY_CONTEXT, version(operation), (number, 1))
    return encode_state(made)


def test_found_and_durable_on_w_homes_is_ok() -> None:
    dots = dots_of([b"", state(b"a", b"b")], b"b")
    assert dots == [(2, 1)]
    assert outcome_of(dots, acks=2, w=2) == OK
    assert outcome_of(dots, acks=1, w=2) == UNKNOWN


def test_not_found_is_unknown_however_many_answer() -> None:
    """Never failed: superseded looks like this, and so does what is still on its way."""
    written = write(EMPTY_STATE, EMPTY_CONTEXT, version(b"a"), (1, 1))
    over = write(written, written.context, version(b"b"), (1, 2))
    for states in ([], [b""], [state(b"x")], [encode_state(over)]):
        assert dots_of(states, b"a") == []
        assert outcome_of([], acks=3, w=1) == UNKNOWN


def test_an_operation_id_inside_of_a_value_or_of_another_id_is_not_it() -> None:
    held = encode_state(write(EMPTY_STATE, EMPTY_CONTEXT, version(b"op-17", b"op-1 op-17"), (1, 1)))
    assert dots_of([held], b"op-1") == []
    assert dots_of([held], b"op-17") == [(1, 1)]
    assert dots_of([state(b"")], b"") == [], "writes without an id are all alike"


def test_a_write_that_was_sent_twice_has_both_its_dots() -> None:
    assert dots_of([state(b"a"), state(b"x", b"a"), state(b"a")], b"a") == [(1, 1), (2, 1)]


steps = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 4), st.booleans(), st.integers(0, 2)), max_size=14
)


@given(steps, st.integers(0, 4))
def test_what_is_told_holds_whatever_the_replicas_did(
    history: list[tuple[int, int, bool, int]], asked: int
) -> None:
    """Three replicas write (seeing what they hold, or nothing) and merge; then one question is asked.

    The model remembers which operation made which dot. What is found was really made by it, and the merge
    that W homes are made to hold knows that dot: so no home can lose it without something that covers it.
    """
    held: list[KeyState] = [EMPTY_STATE] * 3
    counters, made = [0, 0, 0], dict[Dot, bytes]()
    for at, number, blind, other in history:
        operation = b"op-%d" % number
        if at == other:
            counters[at] += 1
            dot = (at + 1, counters[at])
            made[dot] = operation
            seen = EMPTY_CONTEXT if blind else held[at].context
            held[at] = write(held[at], seen, version(operation), dot)
        else:
            both = merged([encode_state(held[at]), encode_state(held[other])])
            held[at] = decode_state(both)
    encoded = [encode_state(one) for one in held]
    operation = b"op-%d" % asked
    dots = dots_of(encoded, operation)
    assert all(made[dot] == operation for dot in dots)
    assert all(decode_state(merged(encoded)).context.covers(dot) for dot in dots)
    anywhere = {v.operation_id for one in held for v in one.siblings.values()}
    assert bool(dots) == (operation in anywhere)
