"""Writes that a node refuses because something is nearly used up; and what is left, as metrics.

Reads and deletes go on: they are what makes room again.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kvstore.core.degradation import Tier
from kvstore.core.watermarks import Mark
from kvstore.errors import Overloaded, StorageFull
from kvstore.httpapi.options import to_priority
from kvstore.httpapi.routes import Call


class Growth(Collector):
    """`mark` and `why`: set by who watches the machine. `gauges`: name -> (what it is, its value)."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.mark = Mark.NORMAL
        self.marks: dict[str, Mark] = {}
        self.why = ""
        self._disk = False
        self.gauges: dict[str, tuple[str, float]] = {}
        registry.register(self)

    def set(self, marks: dict[str, Mark], whys: dict[str, str]) -> None:
        """By resource."""
        self.marks = marks
        worst = max(marks, key=lambda name: marks[name], default="")
        self.mark = marks.get(worst, Mark.NORMAL)
        self.why = whys.get(worst, "")
        self._disk = worst == "disk"

    def check(self, call: Call, *, kept_here: bool) -> None:
        """A write that is no delete, at `mark` NO_GROWTH or worse. Raises StorageFull, Overloaded.

        `kept_here`: this node is a home of the key. For others a full disk is no reason: they are forwarded.
        """
        if self._disk and not kept_here:
            return
        if self.mark is Mark.NO_GROWTH and to_priority(call.headers) is not Tier.BACKGROUND:
            return
        advice = "reads and deletes go on: make room, or write to another node"
        if self._disk:
            raise StorageFull(self.why, advice=advice)
        raise Overloaded(self.why, reason="memory", advice=advice)

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        marks = GaugeMetricFamily(
            "kvstore_watermark",
            "Of what is left: 0 normal, 1 low, 2 no growth in the background, 3 only reads and deletes",
            labels=("resource",),
        )
        for name, mark in self.marks.items():
            marks.add_metric((name,), mark)
        yield marks
        for name, (text, value) in self.gauges.items():
            yield GaugeMetricFamily(f"kvstore_{name}", text, value)
