"""What a cluster of S nodes says to itself, from 3 to 1,000 nodes: on paper, and checked in the simulator.

    python -m benchmarks.scale [--simulate 3,5,10] [--value-bytes 100] [--json]

Messages and bytes of an operation (N=3, R=2, W=2, the node asked is any), bytes that each node sends per
second for gossip and for comparing equal replicas, and what a node holds in memory because of the others.
Bytes are those of the encoded messages with the frame that each would have alone; under load frames are
shared, so they are an upper bound. The simulator runs the nodes as shipped; the formulas must come within a
tenth of what it counts, or the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from benchmarks.scale_on_paper import Costs, N, R, W, formula, memory_bytes
from benchmarks.scale_simulated import INTERVAL_SIMULATED_S, measured
from kvstore.bench.report import aligned
from kvstore.bench.result import number
from kvstore.core.ring import PARTITIONS

SIZES = (3, 5, 10, 30, 100, 300, 1000)
SIMULATED = (3, 5, 10)
TOLERANCE = 0.1


def deviations(paper: Costs, seen: Costs) -> dict[str, float]:
    """By how much the formula is off, 0.1 for ten percent; of figures that are not zero."""
    return {
        name: getattr(paper, name) / value - 1
        for name in Costs.__slots__
        if (value := getattr(seen, name)) > 0
    }


def table(sizes: Sequence[int], value_bytes: int) -> list[list[str]]:
    rows = [
        [
            "nodes",
            "get msgs",
            "get B",
            "put msgs",
            "put B",
            "gossip B/s",
            "repair B/s",
            "copies",
            "memory KiB",
        ]
    ]
    for nodes in sizes:
        c = formula(nodes, value_bytes)
        figures = (c.get_messages, c.get_bytes, c.put_messages, c.put_bytes, c.gossip_bytes, c.repair_bytes)
        copies, memory = PARTITIONS * N / nodes, memory_bytes(nodes) / 1024
        rows.append([f"{nodes:,}", *map(number, (*figures, copies, memory))])
    return rows


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulate", default=",".join(map(str, SIMULATED)), help="sizes to check, or none")
    parser.add_argument("--value-bytes", type=int, default=100)
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    a = parser.parse_args()
    sizes = [int(size) for size in a.simulate.split(",") if size not in ("", "none")]
    rows = table(SIZES, a.value_bytes)
    off: dict[int, dict[str, float]] = {}
    checked = [["nodes", *(name.replace("_", " ") for name in Costs.__slots__)]]
    for nodes in sizes:
        paper = formula(nodes, a.value_bytes, interval_s=INTERVAL_SIMULATED_S)
        seen = measured(nodes, a.value_bytes)
        off[nodes] = deviations(paper, seen)
        figures = (f"{number(getattr(seen, n))} ({number(getattr(paper, n))})" for n in Costs.__slots__)
        checked.append([str(nodes), *figures])
    if a.json:
        print(json.dumps({"table": rows, "deviations": off}))
    else:
        _print(rows, checked, a.value_bytes)
    wrong = {n: worst for n, found in off.items() if abs(worst := max(found.values(), key=abs)) > TOLERANCE}
    if wrong:
        print(f"the formula is off by more than {TOLERANCE:.0%}: {wrong}", file=sys.stderr)
    sys.exit(1 if wrong else 0)


def _print(rows: list[list[str]], checked: list[list[str]], value_bytes: int) -> None:
    print(f"N={N} R={R} W={W}, values of {value_bytes} bytes; per operation, and sent per node and second:\n")
    print("\n".join(aligned(rows)))
    print("\ncopies: of partitions, per node; below 1 some hold none. memory: members, layout, trees.")
    if len(checked) > 1:
        print(f"\nsimulated (formula); replicas are compared every {INTERVAL_SIMULATED_S:g} s there:\n")
        print("\n".join(aligned(checked)))


if __name__ == "__main__":
    main()
