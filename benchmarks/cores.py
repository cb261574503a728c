"""More nodes on one machine: `kvstore serve --processes`, one node per core.

`N=1`: each key is on one node, and a request that reaches another one is forwarded: with two nodes every
second request costs both. `on all`: every node has every key and answers alone (R=1, W=1). With the load on
the same machine, nodes beyond the cores that it leaves cannot add anything.
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
    cases: dict[tuple[str, str, int], Case] = {}
    for nodes in (1, 2, 4) if suite.budget.full else (1, 2):
        host, ports = start_host(directory, nodes=nodes)
        with host:
            host.wait_ready()
            for copies, paths in _placements(nodes).items():
                fill(ports, _workload("put", paths))
                for operation in ("get", "put"):
                    cases[operation, copies, nodes] = suite.rounds(
                        GROUP,
                        f"{operation}, {nodes} node{'s' if nodes > 1 else ''}, {copies}",
                        partial(_peak, suite, ports, operation, paths),
                        loop="closed",
                        nodes=nodes,
                        cores=os.cpu_count(),
                    )
    for copies in ("N=1", "on all"):
        for operation in ("get", "put"):
            two, one = cases[operation, copies, 2], cases[operation, "N=1", 1]
            name = f"{operation}: two nodes, {copies} ÷ one, on {os.cpu_count()} cores with the load"
            suite.ratio(name, two, one)


def _placements(nodes: int) -> dict[str, Paths]:
    found = {"N=1": Paths("/v1/kv/one/k", reads="?n=1&r=1", writes="?n=1&w=1")}
    if nodes > 1:
        found["on all"] = Paths("/v1/kv/all/k", reads="?r=1", writes="?w=1")
    return found


def _workload(operation: str, paths: Paths) -> Workload:
    return Workload(paths, KEYS, VALUE_BYTES if operation == "put" else 0, CONNECTIONS)


def _peak(suite: Suite, ports: list[int], operation: str, paths: Paths, number: int) -> dict[str, Any]:
    workload = _workload(operation, paths)
    if number == 0:
        load(ports, workload, suite.budget.warm_up_s, tool=suite.tool, seed=500)
    return as_round(load(ports, workload, suite.budget.peak_s, tool=suite.tool, seed=1000 * number))
