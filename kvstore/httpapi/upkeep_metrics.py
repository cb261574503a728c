"""Metrics of anti-entropy, scrub and deletes: the node counts, this names and explains."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kvstore.node.upkeep import POSTPONED, Figures

_COUNTERS = {
    "partitions_compared": (
        "kvstore_anti_entropy_partitions_compared",
        "Comparisons of a partition with another home of it",
    ),
    "partitions_different": (
        "kvstore_anti_entropy_partitions_different",
        "Comparisons of which the roots differed",
    ),
    "keys_sent": ("kvstore_anti_entropy_keys_sent", "States that another home lacked"),
    "keys_received": ("kvstore_anti_entropy_keys_received", "States that this node lacked"),
    "tree_bytes": ("kvstore_anti_entropy_tree_bytes", "Hashes and keys exchanged in comparisons"),
    "state_bytes": ("kvstore_anti_entropy_state_bytes", "States exchanged in comparisons, in bytes"),
    "trees_built": ("kvstore_anti_entropy_trees_built", "Trees built by a scan of their partition"),
    "paused_s": ("kvstore_background_paused_seconds", "Time for which background work gave way to clients"),
    "scrub_passes": ("kvstore_scrub_passes", "Times that every record at rest was read"),
    "scrub_records": ("kvstore_scrub_records", "Records read by the scrub"),
    "scrub_bytes": ("kvstore_scrub_bytes", "Bytes read by the scrub"),
    "corrupt_found": ("kvstore_corrupt_records_found", "Records found unreadable"),
    "corrupt_healed": ("kvstore_corrupt_records_healed", "Of these, replaced from the other homes"),
    "corrupt_unhealed": (
        "kvstore_corrupt_records_unhealed",
        "Attempts to heal that failed: a home was out of reach, or nobody has the key",
    ),
    "tombstones_collected": (
        "kvstore_tombstones_collected",
        "Deleted keys of which nothing is left",
    ),
    "tombstones_expired": ("kvstore_values_expired", "Values in whose place this node put a tombstone"),
}
_GAUGES = {
    "oldest_comparison_s": (
        "kvstore_anti_entropy_oldest_comparison_seconds",
        "Age of the oldest comparison of a partition with another home of it",
    ),
    "partitions_damaged": ("kvstore_partitions_damaged", "Partitions that no scan gets through"),
    "tombstones_pending": (
        "kvstore_tombstones_pending",
        "Deleted keys that the last pass of this node could not collect",
    ),
    "partitions_recovering": (
        "kvstore_partitions_recovering",
        "Copies that lost their data and were not compared with all other homes yet: no votes in reads",
    ),
}


class UpkeepMetrics(Collector):
    """Registers itself. Every figure has a name, or the test of them fails."""

    def __init__(self, figures: Callable[[], Figures], registry: CollectorRegistry) -> None:
        self._figures = figures
        registry.register(self)

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        postponed = CounterMetricFamily(
            "kvstore_tombstones_postponed",
            "Attempts to collect a tombstone that failed, by what was in the way",
            labels=["reason"],
        )
        for field, value in self._figures()._asdict().items():
            if field.startswith(POSTPONED):
                postponed.add_metric([field.removeprefix(POSTPONED)], value)
            elif field in _GAUGES:
                yield GaugeMetricFamily(*_GAUGES[field], value)
            else:
                yield CounterMetricFamily(*_COUNTERS[field], value)
        yield postponed
