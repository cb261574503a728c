"""What the node behind this room counts, read from it when somebody asks."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kvstore.httpapi.service import Service


class NodeMetrics(Collector):
    def __init__(self, service: Service) -> None:
        self._service = service

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        hints = self._service.pending_hints()
        count = GaugeMetricFamily(
            "kvstore_hints_pending", "Hints kept for nodes that are away", labels=("target",)
        )
        size = GaugeMetricFamily("kvstore_hints_pending_bytes", "Bytes of these", labels=("target",))
        for target in hints["targets"]:
            count.add_metric((target["name"],), target["count"])
            size.add_metric((target["name"],), target["bytes"])
        yield count
        yield size
        yield CounterMetricFamily(
            "kvstore_hints_delivered", "Hints that their owners have on disk", hints["delivered"]
        )
        yield CounterMetricFamily(
            "kvstore_hints_dropped", "Copies for nodes away that nobody keeps", hints["dropped"]
        )
        ahead_ms, refused = self._service.clocks()
        drift = GaugeMetricFamily(
            "kvstore_clock_drift_seconds", "How far the clock of a peer is ahead of ours", labels=("peer",)
        )
        for name, ms in ahead_ms.items():
            drift.add_metric((name,), ms / 1000)
        yield drift
        yield CounterMetricFamily(
            "kvstore_clock_times_refused", "Last-write-wins times too far ahead to be taken", refused
        )
