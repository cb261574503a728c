"""Measurements as one JSON document, with what they mean nothing without: machine, versions, settings.

    {"format": 1, "date": …, "machine": {…}, "settings": {…},
     "cases": [{"name": …, "group": …, "settings": {…}, "rounds": [{…}, …]}],
     "ratios": [{"name": …, "rounds": [0.61, …], "bar": 0.6, "at_least": true}]}

A round is what Recording.as_dict gives, or single figures with their units last: `us`, `per_s`, `mib`.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from kvstore.errors import ConfigError

FORMAT = 1
PACKAGES = ("quorum-kvstore", "aiohttp", "msgpack", "rocksdict", "uvloop", "urllib3")

_HIGHER = ("per_s",)
_UNITS = ("per_s", "_ms", "_us", "us", "mib", "_bytes", "_s", "failed")
_NO_METRIC = ("duration_s", "unsent")
LATE = "late_p99_ms"
"""How late the loader itself was: what of a latency is not the store's."""

_OF_LATENCY = ("p50_ms", "p99_ms")


class Spread(NamedTuple):
    """Of one figure over the rounds."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{number(self.median)} ({number(self.low)} to {number(self.high)})"


@dataclass(slots=True)
class Case:
    """One thing that was measured, once per round."""

    name: str
    group: str
    settings: dict[str, Any] = field(default_factory=dict)
    rounds: list[dict[str, Any]] = field(default_factory=list)

    def metrics(self) -> dict[str, Spread]:
        """Figures by name: those of `latency` are of all operations together."""
        found: dict[str, list[float]] = {}
        for each in self.rounds:
            for name, value in _figures(each):
                found.setdefault(name, []).append(value)
        return {name: spread(values) for name, values in found.items()}


@dataclass(slots=True)
class Ratio:
    """A figure over another one of the same round. `bar`: what it ought to reach; `at_least` or at most."""

    name: str
    rounds: list[float]
    bar: float | None = None
    at_least: bool = True

    @property
    def spread(self) -> Spread:
        return spread(self.rounds)

    @property
    def verdict(self) -> str:
        if self.bar is None:
            return ""
        median = self.spread.median
        return "met" if (median >= self.bar if self.at_least else median <= self.bar) else "missed"


@dataclass(slots=True)
class Result:
    settings: dict[str, Any] = field(default_factory=dict)
    cases: list[Case] = field(default_factory=list)
    ratios: list[Ratio] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)
    date: str = ""
    skipped: dict[str, str] = field(default_factory=dict)
    """What was not measured, and why."""

    def case(self, name: str) -> Case:
        return next(case for case in self.cases if case.name == name)

    def groups(self) -> dict[str, list[Case]]:
        found: dict[str, list[Case]] = {}
        for case in self.cases:
            found.setdefault(case.group, []).append(case)
        return found

    def write(self, path: Path) -> None:
        document = {
            "format": FORMAT,
            "date": self.date or time.strftime("%Y-%m-%d %H:%M %Z"),
            "machine": self.machine or machine(),
            "settings": self.settings,
            "skipped": self.skipped,
            "cases": [
                {"name": c.name, "group": c.group, "settings": c.settings, "rounds": c.rounds}
                for c in self.cases
            ],
            "ratios": [
                {"name": r.name, "rounds": r.rounds, "bar": r.bar, "at_least": r.at_least}
                for r in self.ratios
            ],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.new")
        temporary.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
        temporary.replace(path)


def read(path: Path) -> Result:
    """Raises ConfigError for what is no result."""
    try:
        document = json.loads(path.read_text("utf-8"))
        if document["format"] != FORMAT:
            raise ConfigError(f"{path} has format {document['format']!r}, this release reads {FORMAT}")
        return Result(
            document["settings"],
            [Case(**fields) for fields in document["cases"]],
            [Ratio(**fields) for fields in document["ratios"]],
            document["machine"],
            document["date"],
            document.get("skipped", {}),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} is no result of a benchmark: {error!r}", advice="write one with kvstore bench run --json"
        ) from None


def _figures(each: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in each.items():
        if name in _NO_METRIC or isinstance(value, bool):
            continue
        if isinstance(value, int | float) and name.endswith(_UNITS):
            yield name, float(value)
    whole = each.get("latency", {}).get("all", {})
    for name in _OF_LATENCY:
        if name in whole:
            yield name, float(whole[name])
    if "lateness" in each:
        yield LATE, float(each["lateness"]["p99_ms"])


def is_better_higher(metric: str) -> bool:
    return metric.endswith(_HIGHER)


def spread(values: list[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


def number(value: float) -> str:
    """Three digits that matter, thousands with commas."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def machine() -> dict[str, Any]:
    """Cores, memory, processor, system, and the versions of what is measured."""
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
    }
    for name, file, word in (("processor", "cpuinfo", "model name"), ("memory", "meminfo", "MemTotal")):
        path = Path("/proc") / file
        if path.exists():
            values = [s.partition(":")[2].strip() for s in path.read_text().splitlines() if word in s]
            found[name] = values[0] if values else ""
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def machine_lines(facts: Mapping[str, Any]) -> list[str]:
    versions = ", ".join(f"{name} {facts[name]}" for name in PACKAGES if facts.get(name))
    return [
        f"{facts.get('cores')} cores, {facts.get('processor', '')}, {facts.get('system')}",
        f"CPython {facts.get('python')}, {versions}",
    ]
