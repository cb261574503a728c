"""Counting votes: three-valued, against every way in which the votes still to come may fall."""

# ruff: noqa: N802 (the bugs are called B2, B22)
from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.core.quorum import Outcome, Quorum, Tally, majority
from kvstore.errors import InvalidRequest

Vote = tuple[bool, bool]
"""(is it a yes, is it a primary's)"""


def _met(votes: list[Vote], need: int, need_primaries: int) -> bool:
    return sum(yes for yes, _ in votes) >= need and sum(yes and home for yes, home in votes) >= need_primaries


def _outcome(counted: list[Vote], to_come: list[bool], need: int, need_primaries: int) -> Outcome:
    """Met is what no later vote can change; lost is what no later vote can save."""
    futures = [
        _met([*counted, *zip(answers, to_come, strict=True)], need, need_primaries)
        for answers in product((False, True), repeat=len(to_come))
    ]
    if all(futures):
        return Outcome.MET
    return Outcome.PENDING if any(futures) else Outcome.LOST


@st.composite
def elections(draw: st.DrawFn) -> tuple[list[Vote], int, int]:
    votes = draw(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=5))
    return votes, draw(st.integers(0, 7)), draw(st.integers(0, 4))


@given(elections())
def test_the_outcome_is_what_the_votes_to_come_cannot_change(election: tuple[list[Vote], int, int]) -> None:
    votes, need, need_primaries = election
    primaries = sum(home for _, home in votes)
    tally = Tally(asked=len(votes), need=need, primaries=primaries, need_primaries=need_primaries)
    for position in range(len(votes) + 1):
        to_come = [home for _, home in votes[position:]]
        assert tally.outcome is _outcome(votes[:position], to_come, need, need_primaries)
        if position < len(votes):
            tally.count(ack=votes[position][0], primary=votes[position][1])
    assert tally.outcome is not Outcome.PENDING


@given(elections(), st.data())
def test_the_outcome_does_not_depend_on_the_order_of_arrival(
    election: tuple[list[Vote], int, int], data: st.DataObject
) -> None:
    votes, need, need_primaries = election
    outcomes = set()
    for order in (votes, data.draw(st.permutations(votes))):
        primaries = sum(home for _, home in order)
        tally = Tally(asked=len(order), need=need, primaries=primaries, need_primaries=need_primaries)
        for yes, home in order:
            tally.count(ack=yes, primary=home)
        outcomes.add(tally.outcome)
    assert len(outcomes) == 1


@given(elections(), elections(), st.data())
def test_those_asked_later_count_like_those_asked_at_once(
    first: tuple[list[Vote], int, int], later: tuple[list[Vote], int, int], data: st.DataObject
) -> None:
    """Stand-ins and hedges join at any moment; from then on all that matters is who may still answer."""
    votes, need, need_primaries = first
    primaries = sum(home for _, home in votes)
    tally = Tally(asked=len(votes), need=need, primaries=primaries, need_primaries=need_primaries)
    joined_at = data.draw(st.integers(0, len(votes)))
    for yes, home in votes[:joined_at]:
        tally.count(ack=yes, primary=home)
    for _, home in later[0]:
        tally.ask_one_more(primary=home)
    to_come = data.draw(st.permutations(votes[joined_at:] + later[0]))
    for position, (yes, home) in enumerate(to_come):
        counted = votes[:joined_at] + to_come[:position]
        homes_to_come = [home for _, home in to_come[position:]]
        assert tally.outcome is _outcome(counted, homes_to_come, need, need_primaries)
        tally.count(ack=yes, primary=home)
    assert tally.outcome is _outcome(votes + later[0], [], need, need_primaries)


def _outcomes(tally: Tally, *events: Callable[[], None]) -> list[Outcome]:
    """After each of the events."""
    outcomes = []
    for event in events:
        event()
        outcomes.append(tally.outcome)
    return outcomes


def test_one_more_who_is_asked_reopens_a_lost_vote() -> None:
    tally = Tally(asked=2, need=2)
    assert _outcomes(
        tally,
        lambda: tally.count(ack=False),
        lambda: tally.ask_one_more(primary=True),
        lambda: tally.count(ack=True),
        lambda: tally.count(ack=True),
    ) == [Outcome.LOST, Outcome.PENDING, Outcome.PENDING, Outcome.MET]


def test_a_stand_in_never_counts_as_a_primary() -> None:
    tally = Tally(asked=3, need=2, primaries=2, need_primaries=2)
    assert _outcomes(
        tally,
        lambda: tally.count(ack=True),
        lambda: tally.count(ack=True, primary=False),
        lambda: tally.count(ack=False),
    ) == [Outcome.PENDING, Outcome.PENDING, Outcome.LOST]


def test_more_votes_than_were_asked_for_is_a_bug() -> None:
    tally = Tally(asked=1, need=1)
    tally.count(ack=True)
    with pytest.raises(AssertionError, match="twice"):
        tally.count(ack=True)


# --- quorums --------------------------------------------------------------------------------------------


def _all_quorums(n_max: int) -> Iterator[Quorum]:
    for n in range(1, n_max + 1):
        for r, w in product(range(1, n + 1), repeat=2):
            yield Quorum(n, r, w)


def test_overlapping_quorums_are_those_of_which_every_two_sets_meet() -> None:
    """Dynamo §4.5: R + W > N."""
    for quorum in _all_quorums(5):
        reads = list(combinations(range(quorum.n), quorum.r))
        writes = list(combinations(range(quorum.n), quorum.w))
        assert quorum.overlaps == all(set(a) & set(b) for a, b in product(reads, writes)), quorum


def test_a_majority_is_the_smallest_set_that_meets_every_other_of_its_size() -> None:
    for n in range(1, 8):
        for size in range(1, n + 1):
            sets = list(combinations(range(n), size))
            assert all(set(a) & set(b) for a, b in product(sets, sets)) == (size >= majority(n))


@pytest.mark.parametrize(
    ("counts", "named"),
    [
        ({"n": 0}, "n=0 must be at least 1"),
        ({"n": -3}, "n=-3"),
        ({"n": 3, "r": 0}, "r=0 must lie between 1 and n=3"),
        ({"n": 3, "r": 4}, "r=4 must lie between 1 and n=3"),
        ({"n": 3, "w": 0}, "w=0"),
        ({"n": 3, "w": 4}, "w=4 must lie between 1 and n=3"),
        ({"n": 3, "r": 2, "pr": 3}, "pr=3 must lie between 0 and r=2"),
        ({"n": 3, "r": 2, "pr": -1}, "pr=-1"),
        ({"n": 3, "w": 2, "pw": 3}, "pw=3 must lie between 0 and w=2"),
        ({"n": 3, "w": 2, "pw": -1}, "pw=-1"),
    ],
)
def test_B22_counts_that_contradict_each_other_are_refused_by_name(
    counts: dict[str, int], named: str
) -> None:
    with pytest.raises(InvalidRequest, match=named):
        Quorum(**counts)
