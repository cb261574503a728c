"""What all groups of the suite share: how long and how often, where results go, and what a store is."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.loader import Measured, Paths, Workload, best_tool, load
from benchmarks.processes import Processes
from kvstore.bench.load import Load
from kvstore.bench.load import run as run_load
from kvstore.bench.recording import described, new_histogram
from kvstore.bench.result import Case, Ratio, Result

VALUE_BYTES, CONNECTIONS, KEYS = 100, 64, 10_000


@dataclass(frozen=True, slots=True)
class Budget:
    """Per round: `peak_s` of a closed loop, `open_s` of an open one. `warm_up_s`: before the first round of a
    closed loop, and before each of an open one. `peer_rounds`: of what is compared with others.
    """

    rounds: int
    peer_rounds: int
    peak_s: int
    open_s: float
    warm_up_s: int
    full: bool


SHORT = Budget(rounds=3, peer_rounds=3, peak_s=1, open_s=1.5, warm_up_s=1, full=False)
FULL = Budget(rounds=3, peer_rounds=5, peak_s=3, open_s=6.0, warm_up_s=1, full=True)


@dataclass(frozen=True, slots=True)
class Store:
    """Something that is measured: its processes, and how it is asked."""

    name: str
    nodes: Processes
    paths: Paths

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(f"http://127.0.0.1:{port}" for port in self.nodes.ports)


@dataclass(slots=True)
class Suite:
    """Collects what groups measure."""

    budget: Budget
    result: Result = field(default_factory=Result)
    tool: str = field(default_factory=best_tool)

    def case(self, group: str, name: str, **settings: Any) -> Case:
        case = Case(name, group, settings)
        self.result.cases.append(case)
        return case

    def add(self, case: Case, figures: dict[str, Any]) -> None:
        case.rounds.append(figures)
        say(f"  {case.name:<44} round {len(case.rounds)}  {brief(figures)}")

    def rounds(
        self, group: str, name: str, measure: Callable[[int], dict[str, Any]], **settings: Any
    ) -> Case:
        """One case, all its rounds one after the other."""
        case = self.case(group, name, **settings)
        for number in range(self.budget.rounds):
            self.add(case, measure(number))
        return case

    def alternate(
        self, measures: Sequence[tuple[Case, Callable[[int], dict[str, Any]]]], rounds: int | None = None
    ) -> None:
        """Round by round, and who goes first changes: a machine that slows down favours nobody."""
        for number in range(rounds or self.budget.rounds):
            for case, measure in measures if number % 2 == 0 else reversed(measures):
                self.add(case, measure(number))

    def ratio(
        self,
        name: str,
        over: Case,
        under: Case,
        metric: str = "per_s",
        *,
        bar: float | None = None,
        at_least: bool = True,
    ) -> None:
        """Of two cases, round by round."""
        pairs = zip(figure(over, metric), figure(under, metric), strict=True)
        self.result.ratios.append(Ratio(name, [round(a / b, 4) for a, b in pairs], bar, at_least))

    def skip(self, what: str, why: str) -> None:
        say(f"  not measured: {what}: {why}")
        self.result.skipped[what] = why

    # --- measurements -------------------------------------------------------------------------------

    def peak(
        self,
        store: Store,
        operation: str,
        number: int,
        *,
        connections: int = CONNECTIONS,
        value_bytes: int = VALUE_BYTES,
        keys: int = KEYS,
    ) -> dict[str, Any]:
        """A closed loop of gets or puts over all nodes; with the processor time of all nodes per request."""
        workload = Workload(store.paths, keys, value_bytes if operation == "put" else 0, connections)
        ports, seed = store.nodes.ports, 1000 * number
        if number == 0:
            load(ports, workload, self.budget.warm_up_s, tool=self.tool, seed=seed + 500)
        cpu_s = store.nodes.cpu_s()
        measured = load(ports, workload, self.budget.peak_s, tool=self.tool, seed=seed)
        cpu_us = (store.nodes.cpu_s() - cpu_s) * 1e6 / max(measured.requests, 1)
        return as_round(measured) | {"cpu_us": round(cpu_us, 1)}

    def open_loop(
        self, store: Store, workload: str, rate_per_s: float, number: int, **other: Any
    ) -> dict[str, Any]:
        """Of kvstore with its own dialect, of others with their paths."""
        asked = Load(
            store.urls,
            workload=workload,
            rate_per_s=rate_per_s,
            keys=KEYS,
            value_bytes=VALUE_BYTES,
            connections=CONNECTIONS,
            duration_s=self.budget.open_s,
            warm_up_s=self.budget.warm_up_s,
            seed=number,
            dialect=None if store.name == "kvstore" else store.paths,
        )
        return run_load(replace(asked, **other)).as_dict()


def figure(case: Case, metric: str) -> list[float]:
    """One figure of every round; p50_ms and p99_ms are of all operations."""
    return [float(each[metric] if metric in each else each["latency"]["all"][metric]) for each in case.rounds]


def as_round(measured: Measured) -> dict[str, Any]:
    histogram = new_histogram()
    for latency_us, count in measured.latency_us.items():
        histogram.record_value(max(1, latency_us), count)
    return {
        "duration_s": measured.duration_s,
        "per_s": round(measured.per_s, 1),
        "failed": measured.errors,
        "errors": dict(sorted(measured.error_kinds.items())),
        "latency": {"all": described(histogram)},
    }


def brief(figures: dict[str, Any]) -> str:
    found = [f"{figures['per_s']:>12,.0f}/s"] if "per_s" in figures else []
    whole = figures.get("latency", {}).get("all", {})
    if "p50_ms" in whole:
        found.append(f"p50 {whole['p50_ms']:7.2f} ms  p99 {whole['p99_ms']:7.2f} ms")
    for name, value in figures.items():
        if name.endswith(("us", "mib", "_s")) and name not in ("duration_s", "per_s"):
            found.append(f"{name} {value:g}")
    if figures.get("failed"):
        kinds = ", ".join(f"{kind} {count}" for kind, count in figures.get("errors", {}).items())
        found.append(f"{figures['failed']} FAILED ({kinds})")
    return "  ".join(found)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def timed(work: Callable[[], object], count: int) -> float:
    """Microseconds of one of `count` runs."""
    began_s = time.perf_counter()
    for _ in range(count):
        work()
    return (time.perf_counter() - began_s) / count * 1e6
