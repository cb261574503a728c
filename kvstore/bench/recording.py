"""What a load measured: HDR histograms of latencies by kind of operation, and errors by name.

Histograms are mergeable (processes, rounds) and written whole, so that a report can be made of them that
nobody thought of when they were taken.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable
from typing import Any

from kvstore.errors import ConfigError

try:
    from hdrh.histogram import HdrHistogram
except ImportError:  # the caller has not asked for a load yet: `need_histograms` tells
    HdrHistogram = None

LATENCY_US_MAX = 120_000_000
DIGITS = 3
PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)
LATENESS = "lateness"


def need_histograms() -> None:
    """Raises ConfigError where the package is missing."""
    if HdrHistogram is None:
        raise ConfigError(
            "a benchmark needs the package hdrhistogram", advice="pip install 'quorum-kvstore[bench]'"
        )


def new_histogram() -> Any:
    return HdrHistogram(1, LATENCY_US_MAX, DIGITS)


class Recording:
    """`series`: (seconds since the start, latency in seconds, whether it failed) of each operation, if kept.

    `unsent`: operations of an open loop whose time had come and which no connection was free to send
    before the run was cut off. `lateness`: how late the loader itself was, where a connection was free.
    `items`: keys, where an operation is of several.
    """

    def __init__(self, *, keep_series: bool = False) -> None:
        need_histograms()
        self.kinds: dict[str, Any] = {}
        self.errors: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()
        self.lateness = new_histogram()
        self.unsent = 0
        self.duration_s = 0.0
        self.items_each = 1
        self.series: tuple[array[float], array[float], bytearray] | None = None
        if keep_series:
            self.series = (array("d"), array("d"), bytearray())

    def __getstate__(self) -> dict[str, Any]:
        """Histograms in their own encoded form: as they are they cannot travel between processes."""
        state = self.__dict__ | {"lateness": self.lateness.encode()}
        return state | {"kinds": {kind: histogram.encode() for kind, histogram in self.kinds.items()}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self.lateness = decoded(state["lateness"])
        self.kinds = {kind: decoded(encoded) for kind, encoded in state["kinds"].items()}

    def add(self, kind: str, latency_s: float, error: str, at_s: float) -> None:
        """One operation. Failed ones count as errors and in the histogram: clients have waited for them."""
        histogram = self.kinds.get(kind)
        if histogram is None:
            histogram = self.kinds[kind] = new_histogram()
        histogram.record_value(min(max(int(latency_s * 1e6), 1), LATENCY_US_MAX))
        if error:
            self.errors[error] += 1
        if self.series is not None:
            at, latency, failed = self.series
            at.append(at_s)
            latency.append(latency_s)
            failed.append(bool(error))

    def late(self, seconds: float) -> None:
        self.lateness.record_value(min(max(int(seconds * 1e6), 1), LATENCY_US_MAX))

    @property
    def count(self) -> int:
        return int(sum(histogram.get_total_count() for histogram in self.kinds.values()))

    @property
    def failed(self) -> int:
        return self.errors.total() + self.unsent

    @property
    def per_s(self) -> float:
        """Operations that succeeded; keys, where an operation is of several."""
        if not self.duration_s:
            return 0.0
        return (self.count - self.errors.total()) * self.items_each / self.duration_s

    def all(self) -> Any:
        """One histogram of all kinds."""
        whole = new_histogram()
        for histogram in self.kinds.values():
            whole.add(histogram)
        return whole

    def merge(self, other: Recording) -> None:
        """What another process measured at the same time."""
        for kind, histogram in other.kinds.items():
            if kind in self.kinds:
                self.kinds[kind].add(histogram)
            else:
                self.kinds[kind] = histogram
        self.errors += other.errors
        self.notes += other.notes
        self.lateness.add(other.lateness)
        self.unsent += other.unsent
        self.duration_s = max(self.duration_s, other.duration_s)
        self.items_each = other.items_each
        if self.series is not None and other.series is not None:
            self.series[0].extend(other.series[0])
            self.series[1].extend(other.series[1])
            self.series[2].extend(other.series[2])

    def as_dict(self) -> dict[str, Any]:
        """Plain values: one entry per kind, and `all`. Times in milliseconds."""
        whole = self.all()
        document = {
            "duration_s": round(self.duration_s, 3),
            "per_s": round(self.per_s, 1),
            "errors": dict(sorted(self.errors.items())),
            "failed": self.failed,
            "unsent": self.unsent,
            "notes": dict(sorted(self.notes.items())),
            "latency": {"all": described(whole)}
            | {kind: described(h) for kind, h in sorted(self.kinds.items())},
        }
        if self.lateness.get_total_count():
            document[LATENESS] = described(self.lateness)
        if self.series is not None:
            document["series"] = by_second(*self.series)
        return document


def described(histogram: Any) -> dict[str, Any]:
    """Count, percentiles and the histogram itself (base64 of its own compressed form)."""
    found: dict[str, Any] = {"count": int(histogram.get_total_count())}
    if not found["count"]:
        return found
    values = histogram.get_percentile_to_value_dict(list(PERCENTILES))
    found |= {f"p{percent:g}_ms": values[percent] / 1000 for percent in PERCENTILES}
    found["max_ms"] = histogram.get_max_value() / 1000
    found["mean_ms"] = round(histogram.get_mean_value() / 1000, 3)
    found["histogram"] = histogram.encode().decode()
    return found


def decoded(text: str | bytes) -> Any:
    """A histogram out of what `described` wrote."""
    need_histograms()
    return HdrHistogram.decode(text)


def by_second(
    at_s: Iterable[float], latency_s: Iterable[float], failed: Iterable[int], *, step_s: float = 0.5
) -> list[dict[str, Any]]:
    """Operations by when they were due: how many, how many failed, p50, p99 and the slowest."""
    steps: dict[int, tuple[list[float], list[int]]] = {}
    for at, latency, bad in zip(at_s, latency_s, failed, strict=True):
        latencies, errors = steps.setdefault(int(at / step_s), ([], [0]))
        latencies.append(latency)
        errors[0] += bool(bad)
    found = []
    for step, (latencies, errors) in sorted(steps.items()):
        latencies.sort()
        found.append(
            {
                "at_s": round(step * step_s, 3),
                "count": len(latencies),
                "failed": errors[0],
                "p50_ms": round(latencies[len(latencies) // 2] * 1000, 3),
                "p99_ms": round(latencies[min(len(latencies) - 1, len(latencies) * 99 // 100)] * 1000, 3),
                "max_ms": round(latencies[-1] * 1000, 3),
            }
        )
    return found
