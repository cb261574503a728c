"""Two processes under one identity, and copies of a directory, judged against what really happened."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from kvstore.core.generation import (
    TWIN_SILENCE_S,
    Run,
    furthest,
    is_exclusive,
    is_from_the_past,
    is_proven_twin,
    is_recognized,
    is_twin,
    remembered_next,
    renewed,
)

seconds = st.floats(0.0, 60.0)


def test_a_run_is_no_twin_of_itself() -> None:
    """One process has several connections to a peer."""
    assert not is_twin(b"a", b"a", 0.0)


def test_another_run_is_a_twin_while_the_first_is_heard() -> None:
    assert is_twin(b"b", b"a", TWIN_SILENCE_S)
    assert not is_twin(b"b", b"a", TWIN_SILENCE_S + 0.001)


@given(ended_s=seconds, began_after_s=seconds, asks_s=st.lists(seconds, max_size=20))
def test_a_restart_is_never_proven_a_twin(ended_s: float, began_after_s: float, asks_s: list[float]) -> None:
    """However often it asks: the first run was last heard before the second began."""
    began_s = ended_s + began_after_s
    asks = sorted(began_s + ask_s for ask_s in asks_s)
    refused = [ask_s for ask_s in asks if is_twin(b"b", b"a", ask_s - ended_s)]
    assert not any(is_proven_twin(refused[0], ask_s) for ask_s in refused)


@given(began_s=seconds, pause_s=st.floats(0.05, 1.0))
def test_a_twin_of_a_talking_run_is_proven_within_five_seconds(began_s: float, pause_s: float) -> None:
    asks = [began_s + pause_s * i for i in range(int(5.0 / pause_s) + 1)]
    assert all(is_twin(b"b", b"a", ask_s % 1.0) for ask_s in asks)
    assert any(is_proven_twin(asks[0], ask_s) for ask_s in asks)


# --- what a copy of a directory cannot know -----------------------------------------------------------------


class Directory(NamedTuple):
    """What is on the disk of a node, as far as this matters."""

    incarnation: int = 0
    progress: int = 0


def run_on(disk: Directory, name: int) -> tuple[Directory, Run]:
    """A process starts: it counts its start, durably, before it says anything."""
    disk = disk._replace(incarnation=disk.incarnation + 1)
    return disk, Run("n", disk.incarnation, b"%d" % name, disk.progress, disk.progress)


@given(steps=st.lists(st.sampled_from(["restart", "progress", "tell", "copy", "restore"]), max_size=40))
def test_a_run_is_from_the_past_exactly_if_its_directory_is(steps: list[str]) -> None:
    """One peer that hears of every start. Model: a directory is old if a later one was told of."""
    disk, mine = run_on(Directory(), 0)
    held = remembered_next(None, mine)
    copy, told_since_copy, is_old = disk, False, False
    for number, step in enumerate(steps, 1):
        if step == "progress":
            disk = disk._replace(progress=disk.progress + 1)
            mine = mine._replace(progress=disk.progress)
        elif step == "tell" and not is_old:
            told_since_copy |= mine.progress > held.progress
            held = remembered_next(held, mine)
        elif step == "copy" and not is_old:
            copy, told_since_copy = disk, False
        elif step in ("restart", "restore"):
            if step == "restore":
                disk, is_old = copy, is_old or told_since_copy
            disk, mine = run_on(disk, number)
            assert is_from_the_past(mine, held) == is_old
            if is_old:
                mine = renewed(mine, held)
                disk, is_old = Directory(mine.incarnation, mine.progress), False
                assert not is_from_the_past(mine, held)
            held = remembered_next(held, mine)
            assert held == mine
            told_since_copy = True


runs = st.builds(
    Run, st.just("n"), st.integers(1, 4), st.sampled_from([b"a", b"b"]), st.integers(0, 3), st.integers(0, 6)
)


@given(first=runs, heard=st.lists(runs, max_size=8))
def test_of_two_runs_with_one_incarnation_a_peer_remembers_one_for_good(first: Run, heard: list[Run]) -> None:
    held = remembered_next(None, first)
    for run in heard:
        before, held = held, remembered_next(held, run)
        assert held.incarnation > before.incarnation or held.run == before.run
        assert held.progress >= before.progress or held.run == before.run


@given(mine=runs, remembered=st.lists(runs, min_size=1, max_size=4))
def test_a_run_renewed_by_the_furthest_is_from_the_past_of_none(mine: Run, remembered: list[Run]) -> None:
    again = renewed(mine, furthest(remembered))
    assert not any(is_from_the_past(again, run) for run in (mine, *remembered))


@given(members=st.integers(1, 9), data=st.data())
def test_no_two_runs_are_exclusive_at_once(members: int, data: st.DataObject) -> None:
    """Each of the others remembers one of them; a copy of the directory brings its own vote along."""
    mine = data.draw(st.integers(0, members - 1))
    twins = members - 1 - mine
    assert not (is_exclusive(mine, members) and is_exclusive(twins, members))
    assert is_recognized(members - 1, members)
    assert not is_exclusive(mine, members) or is_recognized(mine, members)
