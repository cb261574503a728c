"""What clients feel of a flood of background work beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import median

from tests.processes.pressure_load import Outcomes, get, marked, page, put
from tests.processes.pressure_overload import OVERLOAD, peak
from tests.processes.pressure_rig import VALUE, Node

CLIENTS_PER_S = 500.0
ROUNDS = 7


async def flood(folder: Path, settings: Mapping[str, str], seconds: float) -> dict[str, float]:
    """Gets and puts at a quiet rate, alone and beside an export of three times what the node can do.

    Medians of rounds of `seconds` / 4, alone and beside in turn: a pause of the machine is no effect of the
    flood. Node and client have a core each, and requests are sent when they are due: on shared cores, and
    with timers of 2 ms, most of a p99 was that of the client.
    """
    alone: list[float] = []
    beside: list[float] = []
    served: list[float] = []
    async with Node(folder, settings) as node:
        pages_per_s, _ = await peak(node, lambda: page(100), 8, 2.0)
        if why := node.on_cores_of_their_own():
            print(f"the client takes processor time from the node: {why}")
        for _ in range(ROUNDS):
            for with_flood in (False, True):
                reads, writes = get(), put(VALUE)
                pages = marked(page(100), header="KV-Priority: background\r\n")
                rates = [(reads, CLIENTS_PER_S), (writes, CLIENTS_PER_S)]
                if with_flood:
                    rates.append((pages, pages_per_s * OVERLOAD))
                await node.load.open(rates, seconds / 8, own_pace=True)  # the flood has found its level
                for kind in (reads, writes, pages):
                    kind.outcomes = Outcomes()
                await node.load.open(rates, seconds / 4, own_pace=True)
                both = Outcomes(good_s=reads.outcomes.good_s + writes.outcomes.good_s)
                (beside if with_flood else alone).append(both.ms(0.99))
                if with_flood:
                    served.append(pages.outcomes.share)
    return {
        "clients p99 alone, ms": median(alone),
        "clients p99 beside the flood, ms": median(beside),
        "p99 beside / alone": median(one / other for one, other in zip(beside, alone, strict=True)),
        "flood served, share": median(served),
    }
