"""Deleted keys stay deleted, whoever comes back in which order, and their tombstones are gone in the end."""

from __future__ import annotations

import pytest

from kvstore.simulation.campaign import verdict_of
from kvstore.simulation.history import Ended, Kind
from kvstore.simulation.white_box import WhiteBox
from kvstore.simulation.world import simulate
from tests.simulation.deletes import plan_of_deletes
from tests.simulation.mutants import Plant, deletes


def objections(keys: int, *, home_first: bool) -> set[str]:
    watch = WhiteBox()
    run = simulate(plan_of_deletes(keys, home_first=home_first), watch)
    assert not run.bugs
    return {violation.kind for violation in verdict_of(run).violations} | set(watch.invariants.counts)


def check(keys: int, *, home_first: bool) -> None:
    watch = WhiteBox()
    plan = plan_of_deletes(keys, home_first=home_first)
    run = simulate(plan, watch)
    assert all(outcome.hit for outcome in run.faults)
    verdict = verdict_of(run)
    assert not verdict.violations, verdict.violations[:5]
    assert not watch.invariants.breaches, watch.invariants.first
    assert not run.bugs
    done = [op for op in run.history.operations if op.ended is Ended.OK]
    assert len(done) == len(run.history.operations)
    assert sum(op.kind is Kind.DELETE for op in done) == keys // 2
    rewritten = {b"k%d" % i for i in range(keys // 10)}
    kept = {b"k%d" % i for i in range(keys // 2, keys)}
    assert {state.key for state in run.history.final if state.live} == rewritten | kept
    assert not [state for state in run.history.final if state.tombstones or not state.live]
    assert run.probes["tombstone collected"] >= keys // 2 - keys // 10


@pytest.mark.parametrize("home_first", [True, False], ids=["the home first", "the stand-in first"])
def test_300_keys(home_first: bool) -> None:
    check(300, home_first=home_first)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("home_first", [True, False], ids=["the home first", "the stand-in first"])
def test_5000_keys_2500_deleted_500_written_again(home_first: bool) -> None:
    check(5000, home_first=home_first)


@pytest.mark.parametrize("plant", [deletes.tombstones_are_collected_by_age, deletes.collection_ignores_hints])
def test_what_collects_too_early_is_caught(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control without a mutant is `test_300_keys`."""
    plant(monkeypatch)
    assert any(objections(300, home_first=home_first) for home_first in (True, False))
