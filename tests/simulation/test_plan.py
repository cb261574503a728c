"""Plans: the same from the same seed, readable back, and within what the promise covers."""

from __future__ import annotations

from itertools import pairwise

import pytest

from kvstore.errors import ConfigError
from kvstore.simulation.faults import KINDS
from kvstore.simulation.generator import LOSSY, UNORDERED, Shape, plan_of
from kvstore.simulation.plan import Action, Fault, Machine, Plan

PLANS = [plan_of(seed) for seed in range(40)]
OWN = {"crash", "restart", "pause", "disk-full", "read-errors", "failed-sync", "write-errors", *LOSSY}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_plan_is_what_its_lines_say(seed: int) -> None:
    plan = plan_of(seed)
    assert Plan.from_lines(plan.lines()) == plan == plan_of(seed)
    assert plan_of(seed + 1) != plan


def test_there_are_more_than_400_faults_in_a_simulated_hour() -> None:
    faults = sum(len(plan.faults) for plan in PLANS)
    assert faults / (len(PLANS) * 120) * 3600 >= 400


def test_every_kind_is_used() -> None:
    used = {fault.kind for plan in PLANS for fault in plan.faults}
    assert used == set(KINDS)


def test_no_more_copies_are_damaged_than_the_promise_allows() -> None:
    for plan in PLANS:
        damaged = {name for fault in plan.faults if fault.kind in LOSSY for name in fault.nodes}
        assert len(damaged) <= min(1, plan.w - 1)
        unordered = any(fault.kind in UNORDERED for fault in plan.faults)
        assert not unordered or not (plan.strict or plan.monotonic), "reads promise no order then"


def test_faults_of_one_process_or_disk_do_not_overlap() -> None:
    for plan in PLANS:
        for machine in plan.machines:
            own = [f for f in plan.faults if f.kind in OWN and machine.name in f.nodes]
            own += [f for f in plan.faults if f.kind == "kill-all"]
            own.sort(key=lambda fault: fault.at_s)
            for first, second in pairwise(own):
                assert first.at_s + first.for_s < second.at_s


def test_names_and_write_ids_are_unique() -> None:
    plan = plan_of(5)
    numbers = [action.number for client in plan.clients for action in client]
    assert len(set(numbers)) == len(numbers) > 1000


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"plan": {"seed": 1}}', "no plan"),
        ('{"what": 1}', "no plan"),
        ("[]", "no plan"),
        ("nonsense", "no plan"),
        ('{"fault": ["crash", 1.0]}', "no plan"),
    ],
)
def test_what_is_no_plan_is_refused(line: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        Plan.from_lines([line])


def test_a_plan_that_contradicts_itself_is_refused() -> None:
    machines = (Machine("n1"), Machine("n2"))
    with pytest.raises(ConfigError, match="no such node"):
        Plan(1, 10.0, machines, n=2, faults=(Fault("crash", 1.0, 1.0, ("n9",)),))
    with pytest.raises(ConfigError, match="needs 3 nodes"):
        Plan(1, 10.0, machines, n=3)
    with pytest.raises(ConfigError, match="w=3"):
        Plan(1, 10.0, machines, n=2, w=3)
    with pytest.raises(ConfigError, match="no fault is called"):
        Shape(kinds=("earthquake",))


def test_a_plan_without_a_client_or_a_fault_is_a_plan() -> None:
    plan = plan_of(3)
    less = plan.without(faults=plan.faults[1:], clients=[plan.clients[0][:1], ()])
    assert len(less.faults) == len(plan.faults) - 1
    assert less.clients == ((plan.clients[0][0],),)
    assert isinstance(Plan.from_lines(less.lines()).clients[0][0], Action)
