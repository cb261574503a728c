"""Campaigns: many seeds pass, runs that did too little do not count, and the harness can fail."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from kvstore.node.replica import Replica
from kvstore.simulation.campaign import INVALID, campaign, report_of, run_plan, run_seed, summarize
from kvstore.simulation.generator import Shape, plan_of
from kvstore.simulation.plan import Fault
from kvstore.simulation.world import simulate

SHORT = Shape(duration_s=45.0)


@pytest.mark.timeout(180)
def test_50_seeds_violate_nothing() -> None:
    summary = summarize(campaign(range(50), SHORT))
    assert not summary.violations, [(report.replay, report.details) for report in summary.failures]
    assert summary.runs == 50
    assert summary.passed >= 49, [report.invalid for report in summary.invalid]
    assert summary.faults_per_hour > 400
    assert not summary.probes_missing
    assert summary.counts["siblings-shown"] > 100


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_300_whole_seeds_violate_nothing() -> None:
    summary = summarize(campaign(range(1000, 1300), Shape()))
    assert not summary.violations, [(report.replay, report.details) for report in summary.failures]
    assert summary.passed >= 297, [report.invalid for report in summary.invalid]
    assert summary.faults_per_hour >= 400
    assert not summary.probes_missing


def test_a_run_is_the_same_in_a_process_of_its_own() -> None:
    (here,) = campaign([4], SHORT, processes=1)
    (there, _) = sorted(campaign([4, 5], SHORT, processes=2), key=lambda report: report.seed)
    assert replace(there, seconds=0.0) == replace(here, seconds=0.0)


def test_a_run_that_proves_nothing_is_invalid_and_not_passed() -> None:
    plan = plan_of(1, Shape(duration_s=20.0, kinds=()))
    idle = run_plan(plan.without(clients=[plan.clients[0][:3]]))
    assert idle.status == INVALID
    assert "no read showed siblings" in idle.invalid


def test_a_fault_that_never_mattered_makes_a_run_invalid() -> None:
    plan = plan_of(1, Shape(duration_s=20.0, kinds=(), nodes=3))
    run = simulate(plan.without(faults=[Fault("latency", 10.0, 1.0, ("n1",), (), 0.5)]))
    run.faults[0].hit = False
    assert report_of(run).invalid == ["latency at 10 s never mattered"]


def test_a_report_names_the_command_that_replays_it() -> None:
    report = run_seed(3, Shape(duration_s=10.0), "kvstore simulate --duration 10")
    assert report.replay == "kvstore simulate --duration 10 --seed 3"


def test_acknowledging_before_the_disk_has_it_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ablation: without the sync the same harness must find losses, or it proves nothing."""

    def at_once(_self: Replica) -> asyncio.Future[None]:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    monkeypatch.setattr(Replica, "sync", at_once)
    shape = Shape(duration_s=30.0, kinds=("crash", "kill-all"))
    assert any(run_seed(seed, shape).violations.get("lost") for seed in range(20))


def test_promising_strictness_without_overlapping_quorums_is_caught() -> None:
    """Ablation: with R + W <= N reads miss acknowledged writes; said to be strict, that is a violation."""
    plans = (plan_of(seed, Shape(duration_s=30.0, nodes=5, n=3, r=1, w=1)) for seed in range(10))
    for plan in plans:
        run = simulate(plan)
        for operation in run.history.operations:
            operation.strict = True
        if report_of(run).violations.get("stale"):
            return
    raise AssertionError("no stale read in ten runs with r = w = 1")


def test_last_write_wins_under_skewed_clocks_is_reported_as_loss() -> None:
    """B1, B2: acknowledged writes vanish by definition there; a harness that saw none would see nothing."""
    shape = Shape(duration_s=30.0, nodes=5, n=3, r=2, w=2, kinds=("clock-jump", "clock-drift"))
    reports = [run_plan(replace(plan_of(seed, shape), conflict="last-write-wins")) for seed in range(4)]
    assert sum(report.violations.get("lost", 0) for report in reports) > 10
    assert not any(run_plan(plan_of(seed, shape)).violations for seed in range(4))
