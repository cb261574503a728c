"""How many requests a node works on at once. What is over the bound is refused before its body is read.

A refusal costs microseconds and tells the client to wait; a queue without a bound would keep every
request until nobody waits for it any more (metastable overload).
"""

from __future__ import annotations

from kvstore.core.limits import Limits
from kvstore.errors import Overloaded
from kvstore.httpapi.metrics import Metrics


class Admission:
    """`in_flight` lives in the metrics: one number, counted once."""

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self._places = limits.in_flight_max + limits.queue_max
        self._metrics = metrics

    def enter(self, places: int = 1) -> None:
        """Raises Overloaded. Every `enter` needs its `leave`."""
        metrics = self._metrics
        if metrics.in_flight + places > self._places:
            metrics.sheds["in_flight"] += 1
            raise Overloaded(
                f"{metrics.in_flight} requests are in flight, the limit is {self._places}",
                retry_after_s=1.0,
                advice="nothing was done: wait as Retry-After says, or go to another node",
            )
        metrics.in_flight += places

    def leave(self, places: int = 1) -> None:
        self._metrics.in_flight -= places
