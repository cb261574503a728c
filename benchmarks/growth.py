"""What a get and a put cost as the store grows: 10,000 keys, then ten times more at a time.

    python -m benchmarks --growth 10000000

Three nodes that all hold every key: N=3. Cost is processor time of all nodes per request, in turns with a
second cluster that keeps the first 10,000 keys: filling takes minutes, and a shared machine is another one
then. What is beyond the first keys is written into the directories of stopped nodes (growth_fill.py). What a
store of that size costs is measured, not what is left of filling it, nor the disk: the nodes compact and hash
what they found first, the kernel is given the tables to keep, and reads warm up the caches.
"""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from pathlib import Path

from benchmarks.loader import Paths, Workload, load
from benchmarks.processes import Processes, start_cluster
from benchmarks.suite import CONNECTIONS, VALUE_BYTES, Store, Suite, say
from kvstore.bench.load import Load, fill

GROUP, FIRST, FACTOR, BAR = "Growth", 10_000, 10, 1.3
ROUNDS, WARM_UP_S = 7, 10
LOOK_S, QUIET_CORES, QUIET_LOOKS, QUIET_DEADLINE_S = 2.0, 0.25, 5, 900.0


def run(suite: Suite, directory: Path, keys: int) -> None:
    places = [directory / "few", directory / "many"]
    for place in places:
        place.mkdir()
    with ExitStack() as stack:
        few, many = (_filled(stack.enter_context(start_cluster(place))) for place in places)
        for there, size in pairwise([0, *sizes(keys)]):
            if there:
                grow(many.nodes, places[1], there, size)
            say(f"  {size:,} keys: {until_quiet(many.nodes)}")
            read_through(places[1])
            for operation in ("get", "put"):
                _measure(suite, few, many, operation, size, BAR if size == keys else None)
            resident = suite.case(GROUP, f"memory, {size:,} keys", keys=size)
            for held in many.nodes.resident_bytes():
                suite.add(resident, {"mib": round(held / 1024**2, 1)})


def _filled(nodes: Processes) -> Store:
    nodes.wait_ready()
    store = Store("kvstore", nodes, Paths("/v1/kv/bench/user", digits=12))
    fill(Load(store.urls, keys=FIRST, value_bytes=VALUE_BYTES, connections=CONNECTIONS))
    return store


def _measure(suite: Suite, few: Store, many: Store, operation: str, size: int, bar: float | None) -> None:
    """The first size is measured beside itself, too: what that ratio is off 1 is what the machine adds."""
    load(many.nodes.ports, Workload(many.paths, size, 0, CONNECTIONS), WARM_UP_S, tool=suite.tool, seed=1)
    grown = suite.case(GROUP, f"{operation}, {size:,} keys", loop="closed", keys=size)
    first = suite.case(GROUP, f"{operation}, {FIRST:,} keys, in turns with {size:,}", loop="closed")
    pair = ((first, few, FIRST), (grown, many, size))
    suite.alternate(
        [(case, partial(suite.peak, store, operation, keys=held)) for case, store, held in pair], ROUNDS
    )
    name = f"{operation}: processor time at {size:,} keys ÷ at {FIRST:,}"
    suite.ratio(name, grown, first, "cpu_us", bar=bar, at_least=False)


def sizes(keys: int) -> list[int]:
    """10,000, 100,000, … and `keys`."""
    found = [FIRST]
    while found[-1] * FACTOR < keys:
        found.append(found[-1] * FACTOR)
    return [*found, keys] if keys > found[-1] else found


def grow(nodes: Processes, directory: Path, there: int, size: int) -> None:
    """Keys from `there` up to `size` on every node, side by side; the first tells how far they all are.

    Raises SystemExit if they could not be written.
    """
    nodes.stop(*nodes.ports)
    fillers = []
    for number in range(1, len(nodes.ports) + 1):
        silent = ["--silent"] if number > 1 else []
        arguments = [str(directory / f"n{number}"), str(there), str(size), *silent]
        fillers.append(subprocess.Popen([sys.executable, "-m", "benchmarks.growth_fill", *arguments]))
    statuses = [filler.wait() for filler in fillers]
    if any(statuses):
        raise SystemExit("the nodes' directories could not be filled")
    for port in nodes.ports:
        nodes.restart(port)
    nodes.wait_ready()


def read_through(directory: Path) -> None:
    """Every table, for the kernel to keep in memory; a virtual machine loses what was not read lately."""
    for table in sorted(directory.glob("*/*.sst")):
        with table.open("rb") as file:
            while file.read(1 << 20):
                pass


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
