"""A failing plan made small: the least of its faults, clients, actions and machines that still fails.

Source: Zeller, Hildebrandt, "Simplifying and Isolating Failure-Inducing Input" (2002), ddmin. Chance
is keyed by purpose, so what stays in a plan behaves much as it did; where it does not, the smaller
plan simply does not fail, and something else is tried.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from kvstore.simulation.plan import Action, Plan

_T = TypeVar("_T")

RUNS_MAX = 600


class _Spent(Exception):
    pass


class Shrinker:
    """`fails(plan)` says whether a plan shows the failure. At most `runs_max` plans are tried."""

    def __init__(
        self,
        plan: Plan,
        fails: Callable[[Plan], bool],
        *,
        runs_max: int = RUNS_MAX,
        told: Callable[[Plan, int], None] = lambda plan, runs: None,
    ) -> None:
        self.plan, self._fails, self._told = plan, fails, told
        self._runs_max = runs_max
        self.runs = 0

    def run(self) -> Plan:
        """The smallest plan that was found; the one given, if it does not fail at all."""
        try:
            if not self._try(self.plan):
                return self.plan
            before = None
            while before != self.plan:
                before = self.plan
                self._round()
        except _Spent:
            pass
        return self.plan

    def _round(self) -> None:
        self._shorten()
        _ddmin(self.plan.clients, lambda kept: self._try(self.plan.without(clients=kept)))
        _ddmin(self.plan.faults, lambda kept: self._try(self.plan.without(faults=kept)))
        self._actions()
        self._merge_clients()
        self._machines()
        self._simplify()

    def _try(self, plan: Plan) -> bool:
        if self.runs >= self._runs_max:
            raise _Spent
        self.runs += 1
        if not self._fails(plan):
            return False
        self.plan = plan
        self._told(plan, self.runs)
        return True

    def _shorten(self) -> None:
        """Nothing after a certain time, if that is early enough."""
        for share in (0.125, 0.25, 0.5, 0.75):
            end_s = round(self.plan.duration_s * share, 3)
            shorter = replace(
                self.plan.without(
                    faults=[fault for fault in self.plan.faults if fault.at_s < end_s],
                    clients=[[a for a in client if a.at_s < end_s] for client in self.plan.clients],
                ),
                duration_s=end_s,
            )
            if self._try(shorter):
                return

    def _actions(self) -> None:
        everything = [(i, action) for i, client in enumerate(self.plan.clients) for action in client]
        count = len(self.plan.clients)
        _ddmin(everything, lambda kept: self._try(self.plan.without(clients=_regrouped(kept, count))))

    def _merge_clients(self) -> None:
        """Two clients in one, where they do not depend on being two."""
        at = 0
        while at + 1 < len(self.plan.clients):
            first, second, *rest = self.plan.clients[at:]
            merged = sorted((*first, *second), key=lambda action: action.at_s)
            if not self._try(self.plan.without(clients=[*self.plan.clients[:at], merged, *rest])):
                at += 1

    def _machines(self) -> None:
        for machine in self.plan.machines:
            kept = tuple(m for m in self.plan.machines if m != machine)
            named = {name for fault in self.plan.faults for name in (*fault.nodes, *fault.others)}
            if len(kept) >= self.plan.n and machine.name not in named:
                self._try(replace(self.plan, machines=kept))

    def _simplify(self) -> None:
        """Plain values where chance chose others."""
        for simpler in (
            {"loss": 0.0},
            {"duplicates": 0.0},
            {"latency_s": 0.0005, "jitter_s": 0.0005},
            {"sync_delay_s": 0.001},
            {"monotonic": False},
        ):
            plan = replace(self.plan, **simpler)
            if plan != self.plan:
                self._try(plan)


def _regrouped(actions: Sequence[tuple[int, Action]], count: int) -> list[list[Action]]:
    clients: list[list[Action]] = [[] for _ in range(count)]
    for client, action in actions:
        clients[client].append(action)
    return clients


def _ddmin(items: Sequence[_T], holds: Callable[[Sequence[_T]], bool]) -> Sequence[_T]:
    """The items without those that `holds` does not need: leaves out halves, then quarters, and so on."""
    if items and holds(()):
        return ()
    pieces = 2
    while len(items) > 1:
        size = -(-len(items) // pieces)
        for at in range(0, len(items), size):
            kept = [*items[:at], *items[at + size :]]
            if kept and holds(kept):
                items, pieces = kept, max(pieces - 1, 2)
                break
        else:
            if size == 1:
                break
            pieces = min(len(items), pieces * 2)
    return items
