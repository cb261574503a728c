"""Whom to ask first: laws of the order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from kvstore.core.preference_list import by_reach

node_ids = st.lists(st.sampled_from("abcdefgh"), min_size=1, unique=True)
down = st.sets(st.sampled_from("abcdefgh"))
me = st.sampled_from("abcdefghz")
turns = st.integers(0, 1000)


def _reach(down: set[str]) -> Callable[[str], bool]:
    return lambda node: node not in down


@given(node_ids, me, down, turns)
def test_nobody_is_left_out_and_nobody_comes_twice(
    homes: list[str], me: str, down: set[str], turn: int
) -> None:
    """Who is out of reach is asked last instead of not at all: only answers decide."""
    assert sorted(by_reach(homes, me, _reach(down), turn)) == sorted(homes)


@given(node_ids, me, down, turns)
def test_this_node_then_those_in_reach_then_the_others(
    homes: list[str], me: str, down: set[str], turn: int
) -> None:
    order = by_reach(homes, me, _reach(down), turn)
    rank = [0 if node == me else 2 if node in down else 1 for node in order]
    assert rank == sorted(rank)


@given(node_ids, me, down)
def test_turns_spread_the_first_place_evenly(homes: list[str], me: str, down: set[str]) -> None:
    reachable = [node for node in homes if node != me and node not in down]
    skip = me in homes
    first = Counter(by_reach(homes, me, _reach(down), turn)[skip] for turn in range(len(reachable)))
    assert first == Counter(reachable)


@given(node_ids, me, down, turns)
def test_a_turn_rotates_and_does_not_shuffle(homes: list[str], me: str, down: set[str], turn: int) -> None:
    """Each home is followed by the next one of the ring, so a rotation is recognised in its double."""
    asked = [node for node in by_reach(homes, me, _reach(down), turn) if node != me and node not in down]
    ring = [node for node in homes if node != me and node not in down]
    assert "".join(asked) in "".join(ring * 2)


@given(node_ids, me, turns)
def test_the_homes_are_not_changed(homes: list[str], me: str, turn: int) -> None:
    before = list(homes)
    by_reach(homes, me, lambda node: True, turn)
    assert homes == before
