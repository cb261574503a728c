"""kvstore beside the floor and etcd: the same load, keys and connections, at equal durability, turn by turn.

All are three nodes on one machine and run at the same time; one is loaded, the others idle. A read asks
a quorum, a write is synced on a quorum before it is acknowledged: etcd with its default fsync and
`quorum=true`.
"""

from __future__ import annotations

import shutil
import subprocess
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks.loader import Paths, Workload, fill
from benchmarks.processes import start_cluster, start_etcd, start_floor
from benchmarks.suite import CONNECTIONS, KEYS, VALUE_BYTES, Store, Suite

OPEN_PER_S = 1000.0
GROUP, OPEN = "Peers: peak", "Peers: 50 % reads, 50 % writes at a fixed rate"
BARS = {("get", "floor"): 0.60, ("put", "floor"): 0.75, ("get", "etcd"): 1.5, ("put", "etcd"): 1.0}
OTHERS = (
    "ZooKeeper and Tarantool are packages of Debian 12, but do not speak HTTP: the same loader cannot drive "
    "them; Consul, rqlite, Riak, Cassandra and FoundationDB are no packages there"
)


def run(suite: Suite, directory: Path) -> None:
    with ExitStack() as stack:
        nodes = {
            "kvstore": stack.enter_context(start_cluster(directory)),
            "floor": stack.enter_context(start_floor(directory, durability="sync")),
        }
        paths = {"kvstore": Paths("/v1/kv/bench/k"), "floor": Paths("/kv/k")}
        if shutil.which("etcd"):
            suite.result.settings["etcd"] = etcd_version()
            nodes["etcd"] = stack.enter_context(start_etcd(directory))
            paths["etcd"] = Paths("/v2/keys/k", reads="?quorum=true", field="value")
        else:
            suite.skip("etcd", "not installed; on Debian: apt install etcd-server")
        suite.skip("other quorum stores", OTHERS)
        stores = [Store(name, processes, paths[name]) for name, processes in nodes.items()]
        for store in stores:
            store.nodes.wait_ready()
            fill(store.nodes.ports, Workload(store.paths, KEYS, VALUE_BYTES, CONNECTIONS))
        _peaks(suite, stores)
        _open(suite, stores)


def etcd_version() -> str:
    shown = subprocess.run(["etcd", "--version"], capture_output=True, text=True, check=True).stdout
    return shown.splitlines()[0].rpartition(" ")[2]


def _peaks(suite: Suite, stores: list[Store]) -> None:
    settings = {"connections": CONNECTIONS, "keys": KEYS, "value_bytes": VALUE_BYTES, "loop": "closed"}
    for operation in ("put", "get"):
        cases = {s.name: suite.case(GROUP, f"{operation} {s.name}", **settings) for s in stores}
        measures = [(cases[store.name], partial(suite.peak, store, operation)) for store in stores]
        suite.alternate(measures, suite.budget.peer_rounds)
        for peer in (name for name in cases if name != "kvstore"):
            bar = BARS[operation, peer]
            suite.ratio(f"{operation} ÷ {peer}", cases["kvstore"], cases[peer], bar=bar)
        if "etcd" in cases:
            suite.ratio(
                f"{operation} p99 ÷ etcd", cases["kvstore"], cases["etcd"], "p99_ms", bar=1.0, at_least=False
            )


def _open(suite: Suite, stores: list[Store]) -> None:
    cases = {s.name: suite.case(OPEN, f"A {s.name}", loop=f"open, {OPEN_PER_S:g} per s") for s in stores}
    measures = [
        (cases[s.name], partial(suite.open_loop, s, "A", OPEN_PER_S, dialect=s.paths)) for s in stores
    ]
    suite.alternate(measures, suite.budget.peer_rounds)
    if "etcd" in cases:
        for metric, bar in (("p50_ms", None), ("p99_ms", 1.0)):
            name = f"A at {OPEN_PER_S:g} per s, {metric[:3]} ÷ etcd"
            suite.ratio(name, cases["kvstore"], cases["etcd"], metric, bar=bar, at_least=False)
