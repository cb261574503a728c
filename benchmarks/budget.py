"""Processor time of one get and one put, at its coordinator and at a replica, by room, beside the budget.

    python -m benchmarks --only budget

Three nodes, N=3 R=2 W=2, writes synced; all clients ask one of them, so that one is the coordinator of
everything and the others are replicas only. Totals are what the system charges the processes while nothing
watches them. They are split by a sampler in each node, in a second run of the same load. The floor and bare
aiohttp, which answers constant bytes, are charged beside them.
"""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.loader import Paths, Workload, fill, load
from benchmarks.processes import Processes, free_ports, start_cluster, start_floor
from benchmarks.suite import CONNECTIONS, KEYS, VALUE_BYTES, Suite
from kvstore.bench.result import Case

GROUP = "Processor time per operation"
ROOMS = ("core", "node", "rpc", "storage", "httpapi")
OWN = ("core", "node", "rpc", "httpapi")
"""Where our own Python is; with what it calls in C, so the sockets of peers too. The engine is in storage."""

BUDGET_US = {"coordinator": {"get": 25.0, "put": 45.0}, "replica": {"get": 10.0, "put": 10.0}}
CALLS = {"get": 1, "put": 2}
"""To replicas, per operation: R-1 and N-1."""

OURS, FLOOR = Paths("/v1/kv/bench/k"), Paths("/kv/k")
_WARM_UP_S = 1


@dataclass(frozen=True, slots=True)
class Charged:
    """Microseconds of processor time, user and system: of the coordinator per request, of a replica per
    call that it answered."""

    coordinator_us: float
    replica_us: float


def charged(nodes: Processes, paths: Paths, operation: str, seconds: int, tool: str) -> Charged:
    """Every request goes to the first node."""
    first = nodes.ports[0]
    workload = Workload(paths, KEYS, VALUE_BYTES if operation == "put" else 0, CONNECTIONS)
    load([first], workload, _WARM_UP_S, tool=tool, seed=1)
    before = nodes.cpu_s_of(first), nodes.cpu_s()
    measured = load([first], workload, seconds, tool=tool, seed=2)
    if measured.errors or not measured.requests:
        raise SystemExit(f"{operation}: {measured.errors} of {measured.requests} requests failed")
    own_s = nodes.cpu_s_of(first) - before[0]
    others_s = nodes.cpu_s() - before[1] - own_s
    calls = measured.requests * CALLS[operation]
    return Charged(own_s * 1e6 / measured.requests, others_s * 1e6 / calls)


def shares(directory: Path, operation: str, seconds: int, tool: str) -> dict[str, dict[str, float]]:
    """role -> room -> its share of the samples."""
    samples = [directory / f"samples{index}.json" for index in range(3)]
    programs = [["-m", "benchmarks.sampler", str(file), "serve"] for file in samples]
    with start_cluster(directory, programs=programs) as nodes:
        nodes.wait_ready()
        paths = Paths("/v1/kv/bench/k")
        workload = Workload(paths, KEYS, VALUE_BYTES, CONNECTIONS)
        fill(nodes.ports, workload)
        if operation == "get":
            workload = Workload(paths, KEYS, 0, CONNECTIONS)
        load(nodes.ports[:1], workload, _WARM_UP_S, tool=tool, seed=1)
        for port in nodes.ports:
            nodes.send(port, signal.SIGUSR1)
        load(nodes.ports[:1], workload, seconds, tool=tool, seed=2)
    coordinator, *replicas = [json.loads(file.read_text()) for file in samples]
    return {
        "coordinator": by_room(coordinator),
        "replica": by_room([row for rows in replicas for row in rows]),
    }


def by_room(samples: Iterable[tuple[str, str, int]]) -> dict[str, float]:
    """Shares of the rooms of kvstore, of aiohttp, of the loop, and of whatever else there is."""
    found: Counter[str] = Counter()
    for file, _, count in samples:
        found[room_of(file)] += count
    total = max(1, found.total())
    return {room: count / total for room, count in sorted(found.items(), key=lambda item: -item[1])}


def room_of(file: str) -> str:
    parts = Path(file).parts
    if "kvstore" in parts:
        below = parts[len(parts) - parts[::-1].index("kvstore") :]
        if below[0] in ROOMS:
            return below[0]
    if "aiohttp" in parts:
        return "aiohttp"
    return "the loop" if "asyncio" in parts or "uvloop" in parts else "other"


def run(suite: Suite, directory: Path) -> None:
    seconds, tool = suite.budget.peak_s, suite.tool
    with start_cluster(directory) as ours, start_floor(directory, durability="sync") as floor:
        stores = {"kvstore": (ours, OURS), "floor": (floor, FLOOR)}
        for nodes, paths in stores.values():
            nodes.wait_ready()
            fill(nodes.ports, Workload(paths, KEYS, VALUE_BYTES, CONNECTIONS))
        for operation in BUDGET_US["coordinator"]:
            found: dict[str, list[Charged]] = {name: [] for name in stores}
            for number in range(suite.budget.rounds):
                for name in stores if number % 2 == 0 else reversed(stores):
                    found[name].append(charged(*stores[name], operation, seconds, tool))
            place = directory / f"sampled-{operation}"
            place.mkdir()
            _tell(suite, operation, found, shares(place, operation, seconds, tool))
    _bare(suite, directory)


def _tell(
    suite: Suite,
    operation: str,
    found: Mapping[str, list[Charged]],
    split: Mapping[str, Mapping[str, float]],
) -> None:
    for role, budget_us in BUDGET_US.items():
        cases = {name: suite.case(GROUP, f"{operation} at the {role}, {name}") for name in found}
        for name, rounds in found.items():
            for each in rounds:
                total_us = each.coordinator_us if role == "coordinator" else each.replica_us
                parts = split[role] if name == "kvstore" else {}
                figures = {f"{room}_us": round(share * total_us, 1) for room, share in parts.items()}
                own_us = sum(figures.get(f"{room}_us", 0.0) for room in OWN)
                suite.add(
                    cases[name],
                    {"cpu_us": round(total_us, 1)} | ({"own_us": own_us} if parts else {}) | figures,
                )
        budget = Case(
            "budget", GROUP, {}, [{"own_us": budget_us[operation]} for _ in cases["kvstore"].rounds]
        )
        suite.ratio(
            f"own Python of a {operation} at the {role} ÷ budget",
            cases["kvstore"],
            budget,
            "own_us",
            bar=1.0,
            at_least=False,
        )


def _bare(suite: Suite, directory: Path) -> None:
    (port,) = free_ports(1)
    with Processes("/", (200,)) as server:
        server.start(port, ["-m", "benchmarks.limits", str(port)], directory / "http.log", {})
        server.wait_ready()

        def measure(number: int) -> dict[str, Any]:
            workload = Workload(Paths("/"), KEYS, 0, CONNECTIONS)
            load([port], workload, _WARM_UP_S, tool=suite.tool, seed=number)
            before_s = server.cpu_s()
            measured = load([port], workload, suite.budget.peak_s, tool=suite.tool, seed=100 + number)
            return {"cpu_us": round((server.cpu_s() - before_s) * 1e6 / max(1, measured.requests), 1)}

        suite.rounds(GROUP, "a request to bare aiohttp", measure)
