"""What clients feel of a flood of background work beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.processes.pressure_load import get, marked, page, put
from tests.processes.pressure_overload import OVERLOAD, peak
from tests.processes.pressure_rig import VALUE, Node

CLIENTS_PER_S = 500.0


async def flood(folder: Path, settings: Mapping[str, str], seconds: float) -> dict[str, float]:
    """Gets and puts at a quiet rate, alone and beside an export of three times what the node can do.

    The median of three rounds each, in turn: one pause of the machine is no effect of the flood.
    """
    alone: list[float] = []
    beside: list[float] = []
    served: list[float] = []
    async with Node(folder, settings) as node:
        pages_per_s, _ = await peak(node, lambda: page(100), 8, 2.0)
        for _ in range(3):
            for with_flood in (False, True):
                reads, writes = get(), put(VALUE)
                pages = marked(page(100), header="KV-Priority: background\r\n")
                rates = [(reads, CLIENTS_PER_S), (writes, CLIENTS_PER_S)]
                await node.load.open(rates, 0.5)
                reads.outcomes.good_s.clear()
                writes.outcomes.good_s.clear()
                if with_flood:
                    rates.append((pages, pages_per_s * OVERLOAD))
                await node.load.open(rates, seconds / 2)
                both = get().outcomes
                both.good_s = reads.outcomes.good_s + writes.outcomes.good_s
                (beside if with_flood else alone).append(both.ms(0.99))
                if with_flood:
                    served.append(pages.outcomes.share)
    p99_alone, p99_beside = sorted(alone)[1], sorted(beside)[1]
    return {
        "clients p99 alone, ms": p99_alone,
        "clients p99 beside the flood, ms": p99_beside,
        "p99 beside / alone": p99_beside / p99_alone,
        "flood served, share": sorted(served)[1],
    }
