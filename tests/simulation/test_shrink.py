"""Failing plans become small, and stay failing."""

from __future__ import annotations

import pytest

from kvstore.simulation.campaign import run_plan
from kvstore.simulation.generator import Shape, plan_of
from kvstore.simulation.plan import Plan
from kvstore.simulation.shrink import Shrinker
from kvstore.storage.record import HEAD_BYTES


def test_what_the_failure_does_not_need_is_left_out() -> None:
    plan = plan_of(2)
    crash = next(fault for fault in plan.faults if fault.kind == "crash")
    needed = {plan.clients[1][7].number, plan.clients[2][30].number}

    def fails(smaller: Plan) -> bool:
        numbers = {action.number for client in smaller.clients for action in client}
        return crash in smaller.faults and needed <= numbers

    shrinker = Shrinker(plan, fails)
    small = shrinker.run()
    assert small.faults == (crash,)
    assert [len(client) for client in small.clients] == [2]
    assert len(small.machines) == max(small.n, len(crash.nodes))
    assert shrinker.runs < 300


def test_a_plan_that_does_not_fail_is_left_as_it_is() -> None:
    plan = plan_of(2)
    assert Shrinker(plan, lambda _: False).run() is plan


def test_shrinking_ends_when_its_runs_are_spent() -> None:
    plan = plan_of(2)
    shrinker = Shrinker(plan, lambda smaller: len(smaller.faults) > 3, runs_max=10)
    small = shrinker.run()
    assert shrinker.runs == 10
    assert len(small.faults) > 3


def test_a_real_failure_becomes_a_plan_of_few_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes that believe what a rotten disk returns, in a run full of other faults."""
    monkeypatch.setattr("kvstore.storage.memory.unseal", lambda stored, sealed: sealed[HEAD_BYTES:])
    shape = Shape(duration_s=30.0, nodes=5, n=3, w=2, kinds=("bit-flips", "latency", "duplicates"))
    plans = (plan for seed in range(80) if len((plan := plan_of(seed, shape)).faults) > 2)
    plan = next(plan for plan in plans if run_plan(plan).violations)
    kinds = run_plan(plan).violations.keys()
    small = Shrinker(plan, lambda smaller: bool(kinds & run_plan(smaller).violations.keys())).run()
    assert len(small.lines()) <= 15
    assert "bit-flips" in {fault.kind for fault in small.faults}
    assert len(small.faults) <= 2
    assert kinds & run_plan(Plan.from_lines(small.lines())).violations.keys()
