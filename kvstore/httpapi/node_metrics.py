"""What the node behind this room counts, read from it when somebody asks."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kvstore.httpapi.service import Service

BREAKER_STATES = {"closed": 0, "half-open": 1, "open": 2}


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
        yield from self._peers()

    def _peers(self) -> Iterable[Metric]:
        told = self._service.peers()
        breakers = GaugeMetricFamily(
            "kvstore_peer_breaker_state",
            "Whether a peer is asked: 0 in its turn, 1 as a probe, 2 not, or (on latency) last",
            labels=("peer", "kind"),
        )
        median = GaugeMetricFamily(
            "kvstore_peer_read_latency_seconds",
            "Median of a peer's latest answers to reads",
            labels=("peer",),
        )
        for peer in told["peers"]:
            breakers.add_metric((peer["name"], "failures"), BREAKER_STATES[peer["breaker"]])
            breakers.add_metric((peer["name"], "latency"), BREAKER_STATES[peer["latency_breaker"]])
            if peer["read_median_ms"] is not None:
                median.add_metric((peer["name"],), peer["read_median_ms"] / 1000)
        yield breakers
        yield median
        yield CounterMetricFamily(
            "kvstore_peers_found_slow", "Times that a latency breaker opened", told["slow_found"]
        )
        yield CounterMetricFamily(
            "kvstore_hedges", "Reads for which one more home was asked because one was late", told["hedges"]
        )
        yield CounterMetricFamily(
            "kvstore_hedges_refused", "Late reads for which the budget had none left", told["hedges_refused"]
        )
        yield GaugeMetricFamily(
            "kvstore_hedge_delay_seconds", "How long a read waits until it is late", told["hedge_delay_s"]
        )
