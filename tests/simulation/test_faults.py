"""Every kind of fault does what it says, can be seen to have mattered, and violates nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from kvstore.core.message import Get, Got, Put, Written
from kvstore.core.outcome import AskOutcome, OutcomeTold
from kvstore.node.ports import Write
from kvstore.simulation.campaign import report_of
from kvstore.simulation.faults import KINDS
from kvstore.simulation.generator import LOSSY, Shape, plan_of
from kvstore.simulation.history import Operation
from kvstore.simulation.machine import SimulatedMachine
from kvstore.simulation.plan import Fault, Plan
from kvstore.simulation.world import simulate


class Diary:
    """`machine.Observer` that writes down what it is told."""

    def __init__(self) -> None:
        self.batches = 0
        self.acknowledged: list[bytes] = []
        self.lives: list[tuple[str, str]] = []

    def began(self, machines: Mapping[str, SimulatedMachine], plan: Plan) -> None: ...

    def asked(self, node: str, request: Get | Put | AskOutcome) -> None: ...

    def answered(
        self, node: str, request: Get | Put | AskOutcome, answer: Got | Written | OutcomeTold
    ) -> None: ...

    def applied(self, node: str, batch: Sequence[Write]) -> None:
        self.batches += 1

    def acked(self, node: str, operation: Operation) -> None:
        self.acknowledged.append(operation.write_id)

    def crashed(self, node: str) -> None:
        self.lives.append(("crashed", node))

    def restarted(self, node: str) -> None:
        self.lives.append(("restarted", node))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_matters_and_violates_nothing(kind: str) -> None:
    w = 2 if kind in LOSSY else None
    plan = plan_of(3, Shape(duration_s=30.0, kinds=(kind,), nodes=5, n=3, w=w))
    assert plan.faults
    report = report_of(simulate(plan))
    assert report.status == "passed", (report.invalid, report.details)
    assert report.faults == {kind: len(plan.faults)}


def test_a_kill_is_a_crash_and_a_restart_and_observers_are_told() -> None:
    diary = Diary()
    plan = plan_of(1, Shape(duration_s=15.0, nodes=3, kinds=(), faults=(Fault("crash", 6.0, 2.0, ("n2",)),)))
    run = simulate(plan, diary)
    assert diary.lives == [
        *[("restarted", name) for name in ("n1", "n2", "n3")],
        ("crashed", "n2"),
        ("restarted", "n2"),
    ]
    acknowledged = [o.write_id for o in run.history.operations if o.write_id and o.ended.value == "ok"]
    assert sorted(diary.acknowledged) == sorted(acknowledged)
    assert diary.batches > len(acknowledged)


def test_all_nodes_down_means_that_nothing_is_done_and_nothing_is_lost() -> None:
    shape = Shape(duration_s=15.0, nodes=3, n=3, r=2, w=2, kinds=(), faults=(Fault("kill-all", 6.0, 3.0),))
    run = simulate(plan_of(2, shape))
    during = [o for o in run.history.operations if 6.1 < o.started_s < 8.9 and o.ended_s < 9.0]
    assert len(during) > 5
    assert {o.ended.value for o in during} <= {"failed", "unknown"}
    assert not report_of(run).violations


@pytest.mark.slow
def test_a_node_that_was_away_for_ten_minutes_is_equal_again_within_seconds() -> None:
    """`converged_s`: until no hint is left anywhere and all homes hold the same."""
    away = Fault("crash", 20.0, 600.0, ("n2",))
    run = simulate(plan_of(7, Shape(duration_s=620.0, nodes=5, n=3, r=2, w=2, kinds=(), faults=(away,))))
    report = report_of(run)
    assert report.status == "passed", (report.invalid, report.details)
    written = [o for o in run.history.operations if o.write_id and 20.0 < o.started_s < 620.0]
    assert sum(o.ended.value == "ok" for o in written) > 3000
    assert run.converged_s is not None
    print(f"\naway for 600 s, {len(written)} writes meanwhile: equal after {run.converged_s:.1f} s")
    assert run.converged_s <= 30.0
