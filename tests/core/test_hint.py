"""Hints: what is kept for whom, what merges, who gets it, and when a stand-in slows down."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.core.encoding import decode_state, encode_state
from kvstore.core.hint import (
    SLOW_FROM,
    Hint,
    answer_delay_s,
    decode_hint,
    encode_hint,
    hint_key,
    is_due,
    merge_hints,
    owners,
    split_hint_key,
)
from kvstore.core.sibling import EMPTY_STATE, KeyState, Version, merge, write
from kvstore.core.vector_clock import EMPTY_CONTEXT
from kvstore.errors import CorruptRecord

u64 = st.integers(0, 2**64 - 1)
targets = st.binary(min_size=16, max_size=16).map(bytes.hex)
neighbours = st.sampled_from(["00" * 16, "00" * 15 + "01", "00" * 15 + "02", "ff" * 16])
keys = st.binary(min_size=1, max_size=40)


def state_of(*dots: tuple[int, int]) -> KeyState:
    state = EMPTY_STATE
    for dot in dots:
        state = write(state, EMPTY_CONTEXT, Version(b"%d-%d" % dot), dot)
    return state


states = st.lists(
    st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=4, unique_by=lambda dot: dot[0]
).map(lambda dots: state_of(*dots))
hints = st.builds(Hint, states.map(encode_state), u64, u64)


@given(targets, keys)
def test_a_record_key_tells_target_and_key(target: str, key: bytes) -> None:
    assert split_hint_key(hint_key(target, key)) == (target, key)


@given(neighbours, neighbours, keys, keys)
def test_all_hints_of_a_target_lie_side_by_side(a: str, b: str, key: bytes, other: bytes) -> None:
    """So that one scan from its first to its last finds them and nothing else."""
    between = hint_key(a, b"") <= hint_key(b, key) <= hint_key(a, max(key, other))
    assert not between or a == b


@given(hints)
def test_a_record_comes_back_as_it_was(hint: Hint) -> None:
    assert decode_hint(encode_hint(hint)) == hint


@pytest.mark.parametrize("length", [0, 1, 15, 16])
def test_a_record_too_short_to_be_one_is_corrupt(length: int) -> None:
    with pytest.raises(CorruptRecord):
        decode_hint(bytes(length))


@given(hints, hints)
def test_one_record_for_several_writes_knows_all_of_them(a: Hint, b: Hint) -> None:
    both = merge_hints(a, b)
    assert decode_state(both.state) == merge(decode_state(a.state), decode_state(b.state))
    assert both.hlc_time == max(a.hlc_time, b.hlc_time)
    assert both.kept_ms == min(a.kept_ms, b.kept_ms)
    assert merge_hints(b, a) == both


@given(hints)
def test_the_same_write_again_changes_nothing(hint: Hint) -> None:
    later = hint._replace(kept_ms=min(hint.kept_ms + 5, 2**64 - 1))
    assert merge_hints(hint, later) == hint


def test_what_does_not_parse_is_not_kept() -> None:
    for held in (None, Hint(encode_state(state_of((1, 1))))):
        with pytest.raises(CorruptRecord):
            merge_hints(held, Hint(b"\x93 no state"))


def test_b11_a_hint_for_a_former_home_goes_to_the_homes_of_now() -> None:
    assert owners("a", ("a", "b", "c")) == ("a",)
    assert owners("x", ("a", "b", "c")) == ("a", "b", "c")


def test_a_hint_is_due_when_every_owner_can_take_it() -> None:
    assert is_due(("a", "b"), {"a", "b"}.__contains__)
    assert not is_due(("a", "b"), {"a"}.__contains__)


@given(st.integers(0, 2000), st.integers(0, 2000))
def test_a_stand_in_slows_down_the_more_the_less_room_it_has(a: int, b: int) -> None:
    low, high = sorted((a, b))
    assert 0 <= answer_delay_s(low, 1000, 0.25) <= answer_delay_s(high, 1000, 0.25) <= 0.25
    assert (answer_delay_s(low, 1000, 0.25) == 0) == (low <= 1000 * SLOW_FROM)
    assert answer_delay_s(1000, 1000, 0.25) == 0.25
