"""What proves that a tombstone may go, and what becomes of a value that has expired, said the dumb way."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from kvstore.core.encoding import causal_bytes, decode_state, digest, encode_state
from kvstore.core.merkle_tree import item_hash
from kvstore.core.sibling import KeyState, Version, merge, shown
from kvstore.core.tombstone import (
    WORDS,
    Answer,
    Verdict,
    buried,
    has_expired,
    is_over,
    judge,
    shows_nothing,
)
from tests.core.strategies import states

NODES = ("a", "b", "c", "d")
answers_of_all = st.fixed_dictionaries({node: st.sampled_from([*Answer, None]) for node in NODES})
homes = st.sets(st.sampled_from(NODES), min_size=1)
clocks = st.tuples(st.integers(0, 2**64), st.integers(0, 2**32))


@given(answers_of_all, homes)
def test_only_everybody_together_proves_it(answers: Mapping[str, Answer | None], homes: set[str]) -> None:
    held = all(answers[node] is Answer.HELD for node in homes)
    others = all(answers[node] in (Answer.HELD, Answer.ABSENT) for node in NODES if node not in homes)
    verdict, reasons = judge(answers, homes)
    assert (verdict is Verdict.PROVEN) == (held and others)
    assert bool(reasons) != (verdict is Verdict.PROVEN)
    assert all(answers[node] == answer and answer is not Answer.HELD for node, answer in reasons.items())
    assert (verdict is Verdict.UNKNOWN) == any(why in (None, Answer.UNREADABLE) for why in reasons.values())
    assert all(answer in WORDS for answer in reasons.values())


def test_a_home_that_is_no_member_any_more_proves_nothing() -> None:
    assert judge({"a": Answer.HELD}, ("a", "b")) == (Verdict.UNKNOWN, {})


@given(states(), clocks)
def test_what_shows_nothing_shows_nothing_by_any_clock_within_the_skew(
    state: KeyState, clock: tuple[int, int]
) -> None:
    now_ms, skew_ms = clock
    encoded = encode_state(state)
    expected = all(v.tombstone or 0 < v.expires_at_ms <= now_ms - skew_ms for v in state.siblings.values())
    assert shows_nothing(encoded, now_ms, skew_ms) == expected
    if expected:
        assert shown(state, now_ms - skew_ms) == []


@given(states(), clocks)
def test_burying_changes_values_that_expired_and_nothing_that_replicas_compare(
    state: KeyState, clock: tuple[int, int]
) -> None:
    encoded = encode_state(state)
    after = buried(encoded, *clock)
    assert has_expired(encoded, *clock) == (after != encoded)
    assert not has_expired(after, *clock)
    assert buried(after, *clock) == after
    assert causal_bytes(after) == causal_bytes(encoded)
    assert digest(after) == digest(encoded)
    assert item_hash(b"k", causal_bytes(after)) == item_hash(b"k", causal_bytes(encoded))
    for dot, version in decode_state(after).siblings.items():
        was = state.siblings[dot]
        over = is_over(was, *clock)
        assert version == was if not over or was.tombstone else _is_tombstone_of(version, was)


def _is_tombstone_of(version: Version, was: Version) -> bool:
    kept = (version.hlc_time, version.operation_id, version.expires_at_ms)
    return version.tombstone and not version.value and kept == was[4:]


@given(states(), clocks, clocks)
def test_replicas_that_bury_at_different_times_end_up_with_the_same_bytes(
    state: KeyState, one: tuple[int, int], other: tuple[int, int]
) -> None:
    encoded = encode_state(state)
    a, b = buried(encoded, *one), buried(encoded, *other)
    merged = merge(decode_state(a), decode_state(b))
    assert merged == merge(decode_state(b), decode_state(a))
    assert encode_state(merged) == (a if one[0] - one[1] >= other[0] - other[1] else b)
