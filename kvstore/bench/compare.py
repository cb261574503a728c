"""Two results: what got worse by more than the runs differ among themselves. Pure.

A figure is a regression if its median is worse by more than the tolerance, and its best round is worse than
the worst round before: machines drift, and one slow round is no news. Failed operations need no
tolerance: more of them than in any round before is a regression.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kvstore.bench.result import LATE, Case, Result, Spread, is_better_higher

TOLERANCE = 0.1
_MACHINE = ("processor", "cores", "python", "system")
_FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Change:
    """`change`: of the median, 0.1 for ten percent more. `verdict`: worse, better, or same."""

    case: str
    metric: str
    before: Spread
    after: Spread
    change: float
    verdict: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """`notes`: what is not comparable, and why."""

    changes: tuple[Change, ...]
    notes: tuple[str, ...]

    @property
    def regressions(self) -> tuple[Change, ...]:
        return tuple(change for change in self.changes if change.verdict == "worse")


def compare(old: Result, new: Result, *, tolerance: float = TOLERANCE) -> Comparison:
    """Cases of one name and one set of settings, figure by figure; and ratios, which outlive a machine."""
    changes: list[Change] = []
    notes = [
        f"{fact}: {old.machine.get(fact)} before, {new.machine.get(fact)} after"
        for fact in _MACHINE
        if old.machine.get(fact) != new.machine.get(fact)
    ]
    before = {case.name: case for case in old.cases}
    for case in new.cases:
        if case.name not in before:
            notes.append(f"{case.name}: only in the new result")
        elif _comparable(before[case.name]) != _comparable(case):
            notes.append(f"{case.name}: other settings, not compared")
        else:
            changes += _changes(before[case.name], case, tolerance)
    there = {case.name for case in new.cases}
    notes += [f"{name}: only in the old result" for name in before if name not in there]
    ratios = {ratio.name: ratio for ratio in old.ratios}
    for ratio in new.ratios:
        if ratio.name in ratios:
            spreads = ratios[ratio.name].spread, ratio.spread
            changes.append(_change(ratio.name, "ratio", *spreads, tolerance, higher=ratio.at_least))
    return Comparison(tuple(changes), tuple(notes))


def _comparable(case: Case) -> dict[str, object]:
    """Settings that change what is measured; a longer run measures the same."""
    return {name: value for name, value in case.settings.items() if name not in ("duration_s", "warm_up_s")}


def _changes(old: Case, new: Case, tolerance: float) -> Iterator[Change]:
    before, after = old.metrics(), new.metrics()
    for metric in (name for name in before if name in after and name != LATE):
        higher = is_better_higher(metric)
        yield _change(new.name, metric, before[metric], after[metric], tolerance, higher=higher)


def _change(case: str, metric: str, old: Spread, new: Spread, tolerance: float, *, higher: bool) -> Change:
    change = new.median / old.median - 1 if old.median else float(bool(new.median))
    if metric == _FAILED:
        verdict = "worse" if new.median > old.high else "better" if new.high < old.low else "same"
        return Change(case, metric, old, new, change, verdict)
    apart = new.high < old.low or new.low > old.high
    if not apart or abs(change) <= tolerance:
        verdict = "same"
    else:
        verdict = "better" if (change > 0) == higher else "worse"
    return Change(case, metric, old, new, change, verdict)
