"""Pictures of a result, by matplotlib: rates as bars, latencies as percentile curves, runs over time."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from kvstore.bench.recording import decoded
from kvstore.bench.result import Case, Result
from kvstore.errors import ConfigError

_PERCENTILES = (0, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 99.95, 99.99)
_TICKS = (0, 50, 90, 99, 99.9, 99.99)
_WIDTH, _ROW = 8.0, 0.32


def draw(result: Result, directory: Path) -> list[Path]:
    """PNG files, in the order of the groups. Raises ConfigError where matplotlib is missing."""
    try:
        import matplotlib
    except ImportError:
        raise ConfigError(
            "plots need the package matplotlib", advice="pip install 'quorum-kvstore[bench]'"
        ) from None
    matplotlib.use("Agg")
    directory.mkdir(parents=True, exist_ok=True)
    made = []
    for group, cases in result.groups().items():
        pictures = (("rate", _rates), ("latency", _latencies), ("time", _over_time), ("keys", _by_keys))
        for kind, picture in pictures:
            figure = picture(group, cases)
            if figure is not None:
                made.append(directory / f"{slug(group)}-{kind}.png")
                figure.savefig(made[-1], dpi=100)
    return made


def slug(group: str) -> str:
    """As the names of a group's files begin."""
    return re.sub(r"[^a-z0-9]+", "-", group.lower()).strip("-")


def _figure(height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def _rates(group: str, cases: list[Case]) -> Any:
    """One bar per case that ran as fast as it could; the thin line is from the lowest to the highest."""
    rows = [
        (case.name, case.metrics()["per_s"])
        for case in cases
        if "per_s" in case.metrics() and not str(case.settings.get("loop", "")).startswith("open")
    ]
    if not rows:
        return None
    figure, axes = _figure(1.2 + _ROW * len(rows))
    medians = [spread.median for _, spread in rows]
    errors = [[s.median - s.low for _, s in rows], [s.high - s.median for _, s in rows]]
    axes.barh([name for name, _ in rows], medians, xerr=errors, color="#4c78a8", ecolor="#333333", capsize=2)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("per second")
    axes.set_title(f"{group}: median, lowest and highest round", fontsize=10)
    return figure


def _latencies(group: str, cases: list[Case]) -> Any:
    """Of each case one curve: all rounds together, percentiles by their nines."""
    curves = []
    for case in cases:
        whole: Any = None
        for each in case.rounds:
            text = each.get("latency", {}).get("all", {}).get("histogram")
            if text:
                histogram = decoded(text)
                if whole is None:
                    whole = histogram
                else:
                    whole.add(histogram)
        if whole is not None:
            curves.append((case.name, [whole.get_value_at_percentile(p) / 1000 for p in _PERCENTILES]))
    if not curves:
        return None
    figure, axes = _figure(4.5)
    at = [_nines(percent) for percent in _PERCENTILES]
    for name, values in curves:
        axes.plot(at, values, marker=".", linewidth=1, label=name)
    axes.set_yscale("log")
    axes.set_xticks([_nines(percent) for percent in _TICKS], [f"{percent:g} %" for percent in _TICKS])
    axes.set_ylabel("milliseconds")
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.set_title(f"{group}: latency by percentile, all rounds", fontsize=10)
    axes.legend(fontsize=7, ncols=2)
    return figure


def _over_time(group: str, cases: list[Case]) -> Any:
    runs = [(case, case.rounds[0]) for case in cases if case.rounds and case.rounds[0].get("series")]
    if not runs:
        return None
    figure, axes = _figure(3.5)
    for case, run in runs:
        series = run["series"]
        axes.plot([s["at_s"] for s in series], [s["p99_ms"] for s in series], linewidth=1, label=case.name)
        for event in run.get("events", ()):
            axes.axvline(event["at_s"], color="#999999", linestyle=":", linewidth=1)
            axes.text(event["at_s"], axes.get_ylim()[1], event["what"], fontsize=7, rotation=90, va="top")
    axes.set_yscale("log")
    axes.set_xlabel("seconds")
    axes.set_ylabel("p99 in each half second, ms")
    axes.set_title(f"{group}: first round over time", fontsize=10)
    axes.legend(fontsize=7)
    return figure


def _by_keys(group: str, cases: list[Case]) -> Any:
    """Processor time over the number of keys, where cases differ in nothing else; by their first words."""
    lines: dict[str, list[tuple[int, Any]]] = {}
    for case in cases:
        metrics = case.metrics()
        if "keys" in case.settings and "cpu_us" in metrics:
            lines.setdefault(case.name.partition(",")[0], []).append(
                (case.settings["keys"], metrics["cpu_us"])
            )
    if not any(len({keys for keys, _ in points}) > 2 for points in lines.values()):
        return None
    figure, axes = _figure(3.5)
    for name, points in lines.items():
        keys, medians = [k for k, _ in points], [s.median for _, s in points]
        errors = [[s.median - s.low for _, s in points], [s.high - s.median for _, s in points]]
        axes.errorbar(keys, medians, yerr=errors, marker=".", linewidth=1, capsize=2, label=name)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("keys")
    axes.set_ylabel("processor time of all nodes, us per request")
    axes.set_title(f"{group}: median, lowest and highest round", fontsize=10)
    axes.legend(fontsize=7)
    return figure


def _nines(percent: float) -> float:
    """50 % is 0.3, 90 % is 1, 99 % is 2."""
    from math import log10

    return -log10(1 - percent / 100) if percent else 0.0
