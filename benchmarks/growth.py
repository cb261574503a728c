"""What a get and a put cost as the store grows: 10,000 keys, then ten times more at a time.

    python -m benchmarks --growth 10000000

Three nodes that all hold every key: N=3. Cost is processor time of all nodes per request, which drifts less
than rates do. Writing 10,000,000 keys takes tens of minutes and some GB of disk; a bar shows how far it is.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path

from benchmarks.loader import Paths
from benchmarks.processes import start_cluster
from benchmarks.suite import CONNECTIONS, VALUE_BYTES, Store, Suite, say
from kvstore.bench.load import Load, fill
from kvstore.bench.result import Case

GROUP, FIRST, FACTOR, BAR = "Growth", 10_000, 10, 1.3
_WIDTH = 40


def run(suite: Suite, directory: Path, keys: int) -> None:
    with start_cluster(directory) as nodes:
        nodes.wait_ready()
        store = Store("kvstore", nodes, Paths("/v1/kv/bench/user", digits=12))
        cases: dict[str, list[Case]] = {"get": [], "put": []}
        there = 0
        for size in sizes(keys):
            _grow(store, there, size)
            there = size
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


def _grow(store: Store, there: int, size: int) -> None:
    progress = Progress(size - there)
    load = Load(store.urls, keys=size, value_bytes=VALUE_BYTES, connections=CONNECTIONS)
    fill(load, first=there, told=progress)
    progress.end()


class Progress:
    """A bar on a terminal, a line every ten percent elsewhere."""

    def __init__(self, total: int) -> None:
        self._total, self._began_s, self._next_s, self._told = total, time.monotonic(), 0.0, 0
        self._terminal = sys.stderr.isatty()

    def __call__(self, done: int) -> None:
        now_s = time.monotonic()
        if self._terminal and now_s >= self._next_s:
            self._next_s = now_s + 0.2
            print(f"\r{self.line(done, now_s - self._began_s)}", end="", file=sys.stderr, flush=True)
        elif not self._terminal and done * 10 // self._total > self._told:
            self._told = done * 10 // self._total
            say(self.line(done, now_s - self._began_s))

    def line(self, done: int, elapsed_s: float) -> str:
        filled = _WIDTH * done // self._total
        per_s = done / max(elapsed_s, 1e-9)
        left_s = (self._total - done) / max(per_s, 1e-9)
        bar = "#" * filled + "." * (_WIDTH - filled)
        return f"  [{bar}] {done:,} of {self._total:,} keys, {per_s:,.0f} per s, {left_s:.0f} s left"

    def end(self) -> None:
        if self._terminal:
            print(file=sys.stderr)
