"""Many seeds over all cores: each run judged, a run that proved nothing called invalid, the rest summed up.

`run_seed` is one run from its seed to its report; `campaign` runs many of them in processes of their
own. A report carries the command that replays it.
"""

from __future__ import annotations

import multiprocessing
import os
import shlex
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from kvstore.core.ring import split_key
from kvstore.simulation.checker import Verdict, judge
from kvstore.simulation.generator import Shape, plan_of
from kvstore.simulation.history import Ended, Kind
from kvstore.simulation.loop import Deadlock, TooManySteps
from kvstore.simulation.oracle import judge_sets
from kvstore.simulation.plan import SET_PREFIX, Plan
from kvstore.simulation.probes import EXPECTED
from kvstore.simulation.white_box import WhiteBox
from kvstore.simulation.world import Run, simulate

PASSED, FAILED, INVALID = "passed", "failed", "invalid"
_TOLD_MAX = 20  # violations of one run that are kept as text

OK_SHARE_MIN = 0.2
"""A run in which fewer of the operations of a kind were done has proven too little."""

DONE_MIN = 5  # of each kind that was planned at all, if so many were


@dataclass(slots=True)
class Report:
    """One run. `violations`: counts by kind; `details`: the first of them in words; `keys`: where they were.

    `seconds` of this CPU.
    """

    seed: int
    status: str
    trace: str
    violations: dict[str, int] = field(default_factory=dict)
    details: list[str] = field(default_factory=list)
    invalid: list[str] = field(default_factory=list)
    operations: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    probes: dict[str, int] = field(default_factory=dict)
    converged_s: float | None = None
    virtual_s: float = 0.0
    messages: int = 0
    seconds: float = 0.0
    replay: str = ""
    keys: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def verdict_of(run: Run) -> Verdict:
    """The supersession checker's, with what the second, independent oracle objects to."""

    def homes_of(key: bytes) -> tuple[str, ...]:
        return run.homes.get(key, ())

    verdict = judge(run.history, homes_of=homes_of)
    is_set = SET_PREFIX.encode()
    verdict.violations += judge_sets(
        run.history, is_set=lambda key: key.startswith(is_set), homes_of=homes_of
    )
    return verdict


def report_of(run: Run, watch: WhiteBox | None = None, *, seconds: float = 0.0, replay: str = "") -> Report:
    """Judge a run: violations first, then whether it did enough to count. `watch`: who looked inside."""
    verdict = verdict_of(run)
    violations = Counter(violation.kind for violation in verdict.violations)
    if run.bugs:
        violations["bug"] = len(run.bugs)
    details = [f"{v.kind} {v.key.decode(errors='replace')}: {v.detail}" for v in verdict.violations]
    details += [f"bug: {bug}" for bug in run.bugs]
    keys = {violation.key for violation in verdict.violations}
    if watch is not None:
        violations.update(watch.invariants.counts)
        keys |= {split_key(b.key)[1] if b"\0" in b.key else b.key for b in watch.invariants.breaches}
        details += [
            f"{b.invariant} {b.node} at {b.at_s:.3f} s: {b.detail}" for b in watch.invariants.breaches
        ]
    invalid = [] if violations else why_invalid(run)
    status = FAILED if violations else INVALID if invalid else PASSED
    return Report(
        run.plan.seed,
        status,
        run.trace,
        dict(violations),
        details[:_TOLD_MAX],
        invalid,
        dict(Counter(f"{op.kind.value} {op.ended.value}" for op in run.history.operations)),
        verdict.counts,
        dict(Counter(outcome.fault.kind for outcome in run.faults if outcome.hit)),
        dict(run.probes),
        run.converged_s,
        run.plan.duration_s,
        run.messages,
        seconds,
        replay,
        sorted(key.decode(errors="replace") for key in keys),
    )


def why_invalid(run: Run) -> list[str]:
    """Reasons why this run proves nothing, although nothing is wrong with it; empty if it counts."""
    reasons = [
        f"{outcome.fault.kind} at {outcome.fault.at_s:g} s never mattered"
        for outcome in run.faults
        if not outcome.hit
    ]
    for kind in Kind:
        of_kind = [op for op in run.history.operations if op.kind is kind]
        done = sum(op.ended is Ended.OK for op in of_kind)
        if done < max(OK_SHARE_MIN * len(of_kind), min(DONE_MIN, len(of_kind))):
            reasons.append(f"{done} of {len(of_kind)} operations of kind {kind.value} were done")
    if not any(len(op.seen) > 1 for op in run.history.operations):
        reasons.append("no read showed siblings")
    if not run.history.final:
        reasons.append("no replica holds anything at the end")
    return reasons


def judged(plan: Plan, *, replay: str = "", keep_timeline: bool = False) -> tuple[Run | None, Report]:
    """Run a plan before every judge there is. No run if it turned its loop without end, or for nothing."""
    began_s = time.process_time()
    watch = WhiteBox()
    try:
        run = simulate(plan, watch, keep_timeline=keep_timeline)
    except (Deadlock, TooManySteps) as error:
        return None, Report(plan.seed, FAILED, "", {"bug": 1}, [f"bug: {error.detail}"], replay=replay)
    except Exception as error:  # whatever it is, it is a finding of this seed, and the others go on
        where = traceback.extract_tb(error.__traceback__)[-1]
        told = f"bug: {error!r} in {where.name}, {where.filename}:{where.lineno}"
        return None, Report(plan.seed, FAILED, "", {"bug": 1}, [told], replay=replay)
    return run, report_of(run, watch, seconds=time.process_time() - began_s, replay=replay)


def run_plan(plan: Plan, *, replay: str = "") -> Report:
    return judged(plan, replay=replay)[1]


def run_seed(seed: int, shape: Shape, command: str = "kvstore simulate") -> Report:
    return run_plan(plan_of(seed, shape), replay=f"{command} --seed {seed}")


def campaign(
    seeds: Sequence[int], shape: Shape, *, processes: int | None = None, command: str = "kvstore simulate"
) -> Iterator[Report]:
    """Reports as they come in, in no particular order. `processes` None: one per core."""
    processes = min(processes or os.cpu_count() or 1, len(seeds))
    work = partial(run_seed, shape=shape, command=command)
    if processes <= 1:
        yield from map(work, seeds)
        return
    # spawn: a fork of a process with threads may hang, and newer releases of Python warn of it.
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap_unordered(work, seeds, chunksize=max(1, min(8, len(seeds) // processes // 8)))


@dataclass(slots=True)
class Summary:
    """A whole campaign. `failures` and `invalid` in order of their seeds."""

    runs: int = 0
    passed: int = 0
    failures: list[Report] = field(default_factory=list)
    invalid: list[Report] = field(default_factory=list)
    operations: Counter[str] = field(default_factory=Counter)
    violations: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    probes: Counter[str] = field(default_factory=Counter)
    messages: int = 0
    virtual_s: float = 0.0
    converged_s_max: float = 0.0
    elapsed_s: float = 0.0

    @property
    def faults_per_hour(self) -> float:
        return self.faults.total() / self.virtual_s * 3600 if self.virtual_s else 0.0

    @property
    def seeds_per_s(self) -> float:
        return self.runs / self.elapsed_s if self.elapsed_s else 0.0

    @property
    def probes_missing(self) -> list[str]:
        return [name for name in EXPECTED if not self.probes[name]]

    def add(self, report: Report) -> None:
        self.runs += 1
        self.passed += report.status == PASSED
        if report.status == FAILED:
            self.failures = sorted([*self.failures, report], key=lambda r: r.seed)
        if report.status == INVALID:
            self.invalid = sorted([*self.invalid, report], key=lambda r: r.seed)
        self.operations.update(report.operations)
        self.violations.update(report.violations)
        self.counts.update(report.counts)
        self.faults.update(report.faults)
        self.probes.update(report.probes)
        self.messages += report.messages
        self.virtual_s += report.virtual_s
        self.converged_s_max = max(self.converged_s_max, report.converged_s or 0.0)

    def as_dict(self) -> dict[str, Any]:
        return {
            "seeds": self.runs,
            "passed": self.passed,
            "failed": len(self.failures),
            "invalid": len(self.invalid),
            "violations": dict(sorted(self.violations.items())),
            "operations": dict(sorted(self.operations.items())),
            "counts": dict(sorted(self.counts.items())),
            "faults": dict(sorted(self.faults.items())),
            "faults_per_hour": round(self.faults_per_hour, 1),
            "probes": dict(sorted(self.probes.items())),
            "probes_missing": self.probes_missing,
            "messages": self.messages,
            "virtual_s": self.virtual_s,
            "converged_s_max": round(self.converged_s_max, 3),
            "elapsed_s": round(self.elapsed_s, 2),
            "seeds_per_s": round(self.seeds_per_s, 2),
            "failures": [report.as_dict() for report in self.failures],
            "invalid_runs": [
                {"seed": r.seed, "reasons": r.invalid, "replay": r.replay} for r in self.invalid
            ],
        }


def summarize(
    reports: Iterable[Report], *, told: Callable[[Summary], None] = lambda summary: None
) -> Summary:
    """`told` is called after each report."""
    summary, began_s = Summary(), time.monotonic()
    for report in reports:
        summary.add(report)
        summary.elapsed_s = time.monotonic() - began_s
        told(summary)
    return summary


def command_line(arguments: Iterable[str]) -> str:
    """`kvstore simulate` with these arguments, to be typed as it is."""
    return " ".join(["kvstore simulate", *map(shlex.quote, arguments)])
