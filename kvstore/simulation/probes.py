"""Named counters that rare code was reached: a run that reached nothing has proven nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from kvstore.core.vector_clock import Dot
from kvstore.node.node import Node
from kvstore.node.ports import Kind, Write

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
    "process ended itself",
    "message repeated",
    "message late",
)
"""What a whole campaign must have reached; which of them one run reaches is chance."""


class Probes:
    """`minted[dot]`: when it was."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.minted: dict[Dot, float] = {}

    def hit(self, name: str, count: int = 1) -> None:
        if count:
            self.counts[name] += count

    def take(self, node: Node) -> None:
        """What a node counted itself, when its process ends."""
        self.hit("id renewed", node.replica.renewed)
        self.hit("corrupt record met", node.replica.corrupt)
        self.hit("read repair sent", node.coordinator.repairs)
        self.hit("time refused", node.time.refused)

    def applied(self, batch: Sequence[Write], now_s: float) -> None:
        for kind, _, _, value in batch:
            if kind is Kind.COPY and value is not None:
                self.minted[int.from_bytes(value[:8], "big"), int.from_bytes(value[8:], "big")] = now_s
