"""What a get and a put cost as the store grows: 10,000 keys, then ten times more at a time.

    python -m benchmarks --growth 10000000

Three nodes that all hold every key: N=3. Cost is processor time of all nodes per request, which drifts less
than rates do. What is beyond the first keys is written into the directories of stopped nodes
(benchmarks/growth_fill.py). What a store of that size costs is measured, not what is left of filling it: the
nodes compact and hash what they found first.
"""

from __future__ import annotations

import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from benchmarks.loader import Paths
from benchmarks.processes import Processes, start_cluster
from benchmarks.suite import CONNECTIONS, VALUE_BYTES, Store, Suite, say
from kvstore.bench.load import Load, fill
from kvstore.bench.result import Case

GROUP, FIRST, FACTOR, BAR = "Growth", 10_000, 10, 1.3
LOOK_S, QUIET_CORES, QUIET_LOOKS, QUIET_DEADLINE_S = 2.0, 0.25, 5, 900.0


def run(suite: Suite, directory: Path, keys: int) -> None:
    with start_cluster(directory) as nodes:
        nodes.wait_ready()
        store = Store("kvstore", nodes, Paths("/v1/kv/bench/user", digits=12))
        cases: dict[str, list[Case]] = {"get": [], "put": []}
        there = 0
        for size in sizes(keys):
            if there:
                grow(nodes, directory, there, size)
            else:
                fill(Load(store.urls, keys=size, value_bytes=VALUE_BYTES, connections=CONNECTIONS))
            there = size
            say(f"  {size:,} keys: {until_quiet(nodes)}")
            for operation, found in cases.items():
                name = f"{operation}, {size:,} keys"
                measure = partial(suite.peak, store, operation, keys=size)
                found.append(suite.rounds(GROUP, name, measure, loop="closed", keys=size))
            resident = suite.case(GROUP, f"memory, {size:,} keys", keys=size)
            for held in nodes.resident_bytes():
                suite.add(resident, {"mib": round(held / 1024**2, 1)})
        for operation, (small, *_, large) in cases.items():
            name = f"{operation}: processor time at {there:,} keys ÷ at {FIRST:,}"
            suite.ratio(name, large, small, "cpu_us", bar=BAR, at_least=False)


def sizes(keys: int) -> list[int]:
    """10,000, 100,000, … and `keys`."""
    found = [FIRST]
    while found[-1] * FACTOR < keys:
        found.append(found[-1] * FACTOR)
    return [*found, keys] if keys > found[-1] else found


def grow(nodes: Processes, directory: Path, there: int, size: int) -> None:
    """Keys from `there` up to `size` on every node. Raises SystemExit if they could not be written."""
    nodes.stop(*nodes.ports)
    program = [sys.executable, "-m", "benchmarks.growth_fill"]
    places = [directory / f"n{number}" for number in range(1, len(nodes.ports) + 1)]
    fillers = [subprocess.Popen([*program, str(place), str(there), str(size)]) for place in places]
    statuses = [filler.wait() for filler in fillers]
    if any(statuses):
        raise SystemExit("the nodes' directories could not be filled")
    for port in nodes.ports:
        nodes.restart(port)
    nodes.wait_ready()


def until_quiet(nodes: Processes) -> str:
    """Waits until the nodes have nothing to do for a while, and says how long it took."""
    began_s, quiet, used_s = time.monotonic(), 0, nodes.cpu_s()
    first_s = used_s
    while quiet < QUIET_LOOKS and time.monotonic() - began_s < QUIET_DEADLINE_S:
        time.sleep(LOOK_S)
        used_s, before_s = nodes.cpu_s(), used_s
        quiet = quiet + 1 if used_s - before_s < QUIET_CORES * LOOK_S else 0
    what = "quiet" if quiet == QUIET_LOOKS else "not quiet"
    return f"{what} after {time.monotonic() - began_s:.0f} s, {used_s - first_s:.0f} s of processor time"
