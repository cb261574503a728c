"""More nodes on one machine: `kvstore serve --processes`, one node per core, each key on one of them (N=1).

With the load on the same machine, nodes beyond the cores that the load leaves cannot add anything.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.loader import Paths, Workload, fill, load
from benchmarks.processes import start_host
from benchmarks.suite import CONNECTIONS, KEYS, VALUE_BYTES, Suite, as_round
from kvstore.bench.result import Case

GROUP = "Nodes on one machine, peak"


def run(suite: Suite, directory: Path) -> None:
    counts = (1, 2, 4) if suite.budget.full else (1, 2)
    cases: dict[tuple[str, int], Case] = {}
    for nodes in counts:
        host, ports = start_host(directory, nodes=nodes)
        with host:
            host.wait_ready()
            fill(ports, _workload("put"))
            for operation in ("get", "put"):
                cases[operation, nodes] = suite.rounds(
                    GROUP,
                    f"{operation}, {nodes} node{'s' if nodes > 1 else ''}, N=1",
                    partial(_peak, suite, ports, operation),
                    loop="closed",
                    nodes=nodes,
                    cores=os.cpu_count(),
                )
    for operation in ("get", "put"):
        name = f"{operation}: two nodes ÷ one, on {os.cpu_count()} cores with the load"
        suite.ratio(name, cases[operation, 2], cases[operation, 1])


def _workload(operation: str) -> Workload:
    return Workload(Paths("/v1/kv/bench/k"), KEYS, VALUE_BYTES if operation == "put" else 0, CONNECTIONS)


def _peak(suite: Suite, ports: list[int], operation: str, number: int) -> dict[str, Any]:
    if number == 0:
        load(ports, _workload(operation), suite.budget.warm_up_s, tool=suite.tool, seed=500)
    measured = load(ports, _workload(operation), suite.budget.peak_s, tool=suite.tool, seed=1000 * number)
    return as_round(measured)
