"""Three times what a node can do: what it still does, how soon it refuses, how soon it is as before."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.processes.pressure_load import DEADLINE_S, Kind, Outcomes, batch, get, page, put
from tests.processes.pressure_rig import VALUE, Node

OVERLOAD = 3.0
CLIENTS = 64
RECOVERED_S_MAX = 40.0

REQUESTS: dict[str, tuple[Callable[[], Kind], int]] = {
    "batches of 20": (lambda: batch(20), 16),
    "gets": (get, CLIENTS),
    "puts": (lambda: put(VALUE), CLIENTS),
    "pages of 100 keys": (lambda: page(100), 8),
}
"""Name -> (what is asked for, how many clients that ask one after the other find the peak)."""


async def peak(node: Node, make: Callable[[], Kind], clients: int, seconds: float) -> tuple[float, Outcomes]:
    """(answers per second, what became of them) to clients that ask one after the other."""
    kind, began_s = make(), time.perf_counter()
    await node.load.closed(kind, clients, seconds)
    return len(kind.outcomes.good_s) / (time.perf_counter() - began_s), kind.outcomes


async def recovery_s(node: Node, make: Callable[[], Kind], per_s: float, p99_s: float) -> float:
    """Until half a second of this load was all served, within this time; infinite if it is not."""
    began_s = time.perf_counter()
    while time.perf_counter() - began_s < RECOVERED_S_MAX:
        kind, round_s = make(), time.perf_counter()
        await node.load.open([(kind, per_s)], 0.5)
        outcomes = kind.outcomes
        if len(outcomes.good_s) == outcomes.due and outcomes.ms(0.99) / 1000 < p99_s:
            return round_s - began_s
    return float("inf")


async def overload(
    folder: Path, settings: Mapping[str, str], seconds: float, requests: str, *, retries: int = 0
) -> dict[str, float]:
    """`retries`: at once, by clients that know no better, whenever they get no or no good answer."""
    make, clients = REQUESTS[requests]
    async with Node(folder, settings) as node:
        await peak(node, make, clients, 1.0)
        before_per_s, at_peak = await peak(node, make, clients, seconds / 2)
        kind = make()
        kind.retries = retries
        began_s = time.perf_counter()
        await node.load.open([(kind, before_per_s * OVERLOAD)], seconds)
        loaded_s = time.perf_counter() - began_s
        normal_s = await recovery_s(node, make, before_per_s / 2, DEADLINE_S / 4)
        after_per_s, _ = await peak(node, make, clients, seconds / 2)
    under, lower_per_s = kind.outcomes, min(before_per_s, after_per_s)
    return {
        "peak, per s": before_per_s,
        "peak after / before": after_per_s / before_per_s,
        "attempts / peak": under.attempts / seconds / before_per_s,
        "goodput / lower peak": len(under.good_s) / max(seconds, min(loaded_s, seconds + 0.1)) / lower_per_s,
        "served p99 / at peak": under.ms(0.99) / at_peak.ms(0.99),
        "served p99, ms": under.ms(0.99),
        "shed": len(under.shed_s),
        "shed p50, ms": under.shed_ms(0.5),
        "shed p99, ms": under.shed_ms(0.99),
        "gave up": under.gave_up,
        "normal again after, s": normal_s,
    }
