"""One cluster of three nodes under loads of many shapes: YCSB, values, connections, quorums, clients."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.loader import Paths, Workload, fill
from benchmarks.processes import start_cluster
from benchmarks.suite import CONNECTIONS, KEYS, VALUE_BYTES, Store, Suite
from kvstore.bench.load import Load
from kvstore.bench.load import fill as fill_bench
from kvstore.bench.load import run as run_load
from kvstore.bench.result import Case, Ratio

KIB = 1024
PATH = "/v1/kv/bench/k"
YCSB_PER_S = {"A": 500.0, "B": 500.0, "C": 500.0, "D": 500.0, "E": 10.0, "F": 300.0}
"""Well below the peak of two cores, so that latency is that of a store and not of a queue."""

QUORUMS = ((1, 1, 1), (3, 1, 1), (3, 2, 2), (3, 1, 3), (3, 3, 1), (3, 3, 3))
BATCH, SYNC_THREADS = 100, 16


def run(suite: Suite, directory: Path) -> None:
    with start_cluster(directory) as nodes:
        nodes.wait_ready()
        idle = suite.case("Memory", "idle node")
        for resident in nodes.resident_bytes():
            suite.add(idle, {"mib": round(resident / 1024**2, 1)})
        held = [float(each["mib"]) for each in idle.rounds]
        suite.result.ratios.append(Ratio("MiB of an idle node", held, bar=80.0, at_least=False))
        store = Store("kvstore", nodes, Paths(PATH))
        fill(nodes.ports, Workload(store.paths, KEYS, VALUE_BYTES, CONNECTIONS))
        ycsb(suite, store)
        clients(suite, store)
        values(suite, store)
        connections(suite, store)
        quorums(suite, store)
        durability(suite, store)


def ycsb(suite: Suite, store: Store) -> None:
    """Open loops of values of 1 KiB."""
    fill_bench(Load(store.urls, keys=KEYS, value_bytes=KIB))
    for name, rate_per_s in YCSB_PER_S.items():
        suite.rounds(
            "YCSB, open loop",
            f"YCSB {name}",
            partial(suite.open_loop, store, name, rate_per_s, value_bytes=KIB),
            loop=f"open, {rate_per_s:g} per s",
            value_bytes=KIB,
            keys=KEYS,
        )
    if suite.budget.full:
        for name in ("A", "B", "C", "F"):
            _closed(suite, "YCSB, peak", f"YCSB {name} peak", _load(suite, store, name, value_bytes=KIB))


def clients(suite: Suite, store: Store) -> None:
    """The same gets and puts by wrk, the library, its synchronous twin, and in batches."""
    group = "Client library"
    for workload, bar in (("get", 0.5), ("put", None)) if suite.budget.full else (("get", 0.5),):
        asked = _load(suite, store, workload)
        ways: list[tuple[Case, Any]] = []
        for name, load in {
            "asyncio client": replace(asked, via="client"),
            "synchronous client": replace(asked, via="sync", connections=SYNC_THREADS),
            f"batches of {BATCH}": replace(asked, via="batch", connections=4, batch_items=BATCH),
        }.items():
            case = suite.case(group, f"{workload}, {name}", **load.settings())
            ways.append((case, partial(_run, load)))
        plain = suite.case(group, f"{workload}, {suite.tool}", connections=CONNECTIONS, loop="closed")
        suite.alternate([(plain, partial(suite.peak, store, workload)), *ways])
        client, _, batch = (case for case, _ in ways)
        suite.ratio(f"{workload}: asyncio client ÷ {suite.tool}", client, plain, bar=bar)
        name = f"{workload}: keys in batches of {BATCH} ÷ one by one, both by the client"
        suite.ratio(name, batch, client, bar=5.0 if workload == "get" else None)


def values(suite: Suite, store: Store) -> None:
    sizes = ((100, KEYS), (KIB, KEYS), (100 * KIB, 300))
    for size, keys in sizes if suite.budget.full else sizes[1:]:
        # Keys of their own: a get must find the size it is named for.
        sized = replace(store, paths=Paths(f"/v1/kv/sized{size}/k"))
        fill(sized.nodes.ports, Workload(sized.paths, keys, size, CONNECTIONS))
        for operation in ("get", "put"):
            measure = partial(suite.peak, sized, operation, value_bytes=size, keys=keys)
            name = f"{operation}, {size if size < KIB else f'{size // KIB} Ki'}B"
            suite.rounds("Value sizes, peak", name, measure, loop="closed", value_bytes=size, keys=keys)


def connections(suite: Suite, store: Store) -> None:
    for count in (1, 4, 16, 64, 256) if suite.budget.full else (1, 256):
        for operation in ("get", "put"):
            measure = partial(suite.peak, store, operation, connections=count)
            name = f"{operation}, {count} connection{'s' if count > 1 else ''}"
            suite.rounds("Connections, peak", name, measure, loop="closed", connections=count)


def quorums(suite: Suite, store: Store) -> None:
    for n, r, w in QUORUMS if suite.budget.full else ((3, 1, 1),):
        # A bucket each: what lies on n homes is looked for on n homes.
        paths = Paths(f"/v1/kv/n{n}/k", reads=f"?n={n}&r={r}", writes=f"?n={n}&w={w}")
        shaped = replace(store, paths=paths)
        fill(shaped.nodes.ports, Workload(paths, KEYS, VALUE_BYTES, CONNECTIONS))
        for operation in ("get", "put"):
            name = f"{operation}, N={n} R={r} W={w}"
            measure = partial(suite.peak, shaped, operation)
            suite.rounds("Quorums, peak", name, measure, loop="closed", n=n, r=r, w=w)


def durability(suite: Suite, store: Store) -> None:
    for name, writes in (("synced", ""), ("not waiting for the disk", "?dw=0")):
        shaped = replace(store, paths=Paths(PATH, writes=writes))
        suite.rounds("Durability, peak", f"put, {name}", partial(suite.peak, shaped, "put"), loop="closed")


def _load(suite: Suite, store: Store, workload: str, **other: Any) -> Load:
    load = Load(
        store.urls,
        workload=workload,
        keys=KEYS,
        value_bytes=VALUE_BYTES,
        connections=CONNECTIONS,
        duration_s=suite.budget.peak_s,
        warm_up_s=suite.budget.warm_up_s,
    )
    return replace(load, **other)


def _closed(suite: Suite, group: str, name: str, load: Load) -> None:
    suite.rounds(group, name, partial(_run, load), **load.settings())


def _run(load: Load, number: int) -> dict[str, Any]:
    return run_load(replace(load, seed=number)).as_dict()
