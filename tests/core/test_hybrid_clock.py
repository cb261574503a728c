"""Hybrid logical time: forwards whatever the wall clocks do, and as close to them as that allows."""

# ruff: noqa: N802 (the bugs are called B2, B22)
from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvstore.core.hybrid_clock import is_too_far_ahead, receive, tick, wall_ms_of

NOW_MS = 1_800_000_000_000
jumping = st.lists(st.integers(0, 2 * NOW_MS), min_size=1, max_size=20)


@given(jumping)
def test_time_goes_forwards_while_the_wall_clock_jumps(walls_ms: list[int]) -> None:
    last = 0
    for wall_ms in walls_ms:
        now = tick(last, wall_ms)
        assert now > last
        assert wall_ms_of(now) >= wall_ms
        last = now


@given(jumping)
def test_time_is_never_ahead_of_every_wall_clock_seen(walls_ms: list[int]) -> None:
    """Fewer than 65,536 events fit a millisecond; beyond, it would borrow from the next."""
    last = 0
    for position, wall_ms in enumerate(walls_ms):
        last = tick(last, wall_ms)
        assert wall_ms_of(last) <= max(walls_ms[: position + 1])


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2 * NOW_MS)), max_size=30))
def test_what_happened_before_has_the_smaller_time(talk: list[tuple[int, int, int]]) -> None:
    """Three nodes, each with any wall clock: a message carries the time of its sending."""
    clocks = [0, 0, 0]
    happened_before: list[set[int]] = [set(), set(), set()]
    for sender, receiver, wall_ms in talk:
        sent = clocks[sender] = tick(clocks[sender], wall_ms)
        assert all(earlier < sent for earlier in happened_before[sender])
        happened_before[sender].add(sent)
        clocks[receiver] = receive(clocks[receiver], sent)
        happened_before[receiver] |= happened_before[sender]


def test_a_time_seen_pulls_forwards_and_never_back() -> None:
    ahead = tick(0, NOW_MS + 5000)
    here = tick(0, NOW_MS)
    assert tick(receive(here, ahead), NOW_MS) == ahead + 1
    assert receive(ahead, here) == ahead


def test_events_of_one_millisecond_are_counted() -> None:
    first = tick(0, NOW_MS)
    assert tick(first, NOW_MS) == first + 1
    assert wall_ms_of(first) == wall_ms_of(first + 1) == NOW_MS
    assert tick(first, NOW_MS + 1) > tick(first, NOW_MS)


def test_B2_a_clock_further_ahead_than_the_allowed_skew_is_not_believed() -> None:
    at_the_limit, over_it = tick(0, NOW_MS + 60_000), tick(0, NOW_MS + 60_001)
    assert not is_too_far_ahead(at_the_limit, NOW_MS, 60.0)
    assert is_too_far_ahead(over_it, NOW_MS, 60.0)
    assert not is_too_far_ahead(tick(0, NOW_MS - 86_400_000), NOW_MS, 60.0), "behind does no harm"
