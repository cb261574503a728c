"""Named counters that rare code was reached: a run that reached nothing has proven nothing."""

from __future__ import annotations

from collections import Counter

from kvstore.node.node import Node

EXPECTED = (
    "sibling shown",
    "tombstone seen",
    "read repair sent",
    "forwarded",
    "id renewed",
    "retry found its own write",
    "corrupt record met",
    "write unknown",
    "write refused before it was applied",
    "outcome told ok",
    "outcome told unknown",
    "process ended itself",
    "message repeated",
    "message late",
    "tombstone collected",
    "tombstone postponed",
    "came from the past",
    "recovering copy gave no vote",
    "twin ended itself",
    "read hedged",
    "forwarded read hedged",
    "peer found slow",
    "slow peer taken back",
)
"""What a whole campaign must have reached; which of them one run reaches is chance."""


class Probes:
    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def hit(self, name: str, count: int = 1) -> None:
        if count:
            self.counts[name] += count

    def take(self, node: Node) -> None:
        """What a node counted itself, when its process ends."""
        self.hit("id renewed", node.replica.renewed)
        self.hit("corrupt record met", node.replica.corrupt)
        self.hit("came from the past", node.recognition.renewals)
        self.hit("recovering copy gave no vote", node.replica.abstained)
        self.hit("read repair sent", node.coordinator.repairs)
        self.hit("read hedged", node.coordinator.hedges.sent)
        self.hit("forwarded read hedged", node.coordinator.forwarding.hedges.sent)
        self.hit("hedge refused", node.coordinator.hedges.refused)
        self.hit("peer found slow", node.reach.latency.opened)
        self.hit("slow peer taken back", node.reach.latency.closed)
        self.hit("time refused", node.time.refused)
        self.hit("tombstone collected", node.upkeep.tombstones.collected)
        self.hit("tombstone postponed", node.upkeep.tombstones.postponed.total())
