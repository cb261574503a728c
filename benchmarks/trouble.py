"""Five nodes under a steady load while something happens: a node is killed, comes back and gets its hints,
and all replicas are compared and repaired.

Latency is by half seconds, from when each operation was due. `back_s`: until their p99 stayed within what it
was before.
"""

from __future__ import annotations

import json
import statistics
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

from benchmarks.loader import Paths
from benchmarks.processes import start_cluster
from benchmarks.suite import KEYS, VALUE_BYTES, Store, Suite
from kvstore.bench.load import Load, fill
from kvstore.bench.load import run as run_load
from kvstore.bench.recording import Recording
from kvstore.bench.result import Ratio

NODES, RATE_PER_S = 5, 300.0
STEP_S = 0.5
REPAIR_TIMEOUT_S = 60

Event = tuple[float, str, Callable[[], None]]
"""(seconds after the start, what, how)"""


def run(suite: Suite, directory: Path) -> None:
    with start_cluster(directory, nodes=NODES) as nodes:
        nodes.wait_ready()
        store = Store("kvstore", nodes, Paths("/v1/kv/bench/k"))
        fill(_load(suite, store))
        part_s = 6.0 if suite.budget.full else 3.0
        rounds = 3 if suite.budget.full else 1
        for via, expected in (("client", False), ("http", True)):
            case = suite.case(
                "A node down",
                f"A by {'the client' if via == 'client' else 'plain HTTP'}, n2 killed and started",
                nodes=NODES,
                loop=f"open, {RATE_PER_S:g} per s",
                failures_expected=expected,
            )
            for number in range(rounds):
                suite.add(case, down(suite, store, via, part_s, number))
            if via == "client":
                killed = [each["back_s"] for each in case.rounds]
                suite.result.ratios.append(_bar("seconds until p99 is back after a kill", killed, 2.0))
                failed = [float(each["failed"]) for each in case.rounds]
                suite.result.ratios.append(_bar("operations of the client failed by a kill", failed, 0.0))
            if not suite.budget.full:
                break
        case = suite.case("Repair", "A, all partitions compared", loop=f"open, {RATE_PER_S:g} per s")
        for number in range(rounds):
            suite.add(case, repair(suite, store, part_s, number))


def _bar(name: str, values: list[float], bar: float) -> Ratio:
    return Ratio(name, values, bar, at_least=False)


def down(suite: Suite, store: Store, via: str, part_s: float, number: int) -> dict[str, Any]:
    """Three parts: all well, n2 dead, n2 back and its hints on their way."""
    port = store.nodes.ports[1]
    events: list[Event] = [
        (part_s, "n2 killed", lambda: store.nodes.kill(port)),
        (2 * part_s, "n2 started", lambda: store.nodes.restart(port)),
    ]
    figures = _under_load(_load(suite, store, via=via, duration_s=3 * part_s, seed=number), events)
    store.nodes.wait_ready()
    killed_s, started_s = (event["at_s"] for event in figures["events"])
    back_s = recovery_s([s for s in figures["series"] if s["at_s"] + STEP_S <= started_s], killed_s)
    handoff = [s["p99_ms"] for s in figures["series"] if s["at_s"] >= started_s]
    return figures | {"back_s": back_s, "handoff_p99_ms": round(statistics.median(handoff), 3)}


def repair(suite: Suite, store: Store, part_s: float, number: int) -> dict[str, Any]:
    """Every partition of one node compared with all its homes, at once."""
    took_s: list[float] = []

    def begin() -> None:
        began_s = time.perf_counter()
        url = f"{store.urls[0]}/v1/repair?all=true&wait=true&timeout={REPAIR_TIMEOUT_S}"
        with urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=90) as answer:
            json.load(answer)
        took_s.append(time.perf_counter() - began_s)

    load = _load(suite, store, duration_s=2 * part_s, seed=number)
    figures = _under_load(load, [(part_s, "repair begins", begin)])
    began_s = figures["events"][0]["at_s"]
    during = [s["p99_ms"] for s in figures["series"] if began_s <= s["at_s"] <= began_s + took_s[0]]
    found = {"repair_s": round(took_s[0], 3)}
    return figures | found | ({"repair_p99_ms": round(max(during), 3)} if during else {})


def recovery_s(series: list[dict[str, Any]], event_s: float) -> float:
    """From `event_s` until p99 is within what it was before, and stays so for two seconds.

    That is the worst half second, or twice the median if that is more: a half second has few operations,
    and its p99 is rough. The time until the end of the series if it never is.
    """
    before = [s["p99_ms"] for s in series if s["at_s"] + STEP_S <= event_s]
    most = max(*before, 2 * statistics.median(before))
    after = [s for s in series if s["at_s"] + STEP_S > event_s]
    for i, step in enumerate(after):
        if all(s["p99_ms"] <= most for s in after[i : i + 4]):
            return float(max(0.0, step["at_s"] - event_s))
    return float(after[-1]["at_s"] + STEP_S - event_s)


def _under_load(load: Load, events: list[Event]) -> dict[str, Any]:
    """The load in a thread; events at their time, written down when they had happened."""
    recordings: list[Recording] = []
    thread = Thread(target=lambda: recordings.append(run_load(load)))
    began_s = time.perf_counter()
    thread.start()
    happened = []
    for at_s, what, work in events:
        time.sleep(max(0.0, began_s + load.warm_up_s + at_s - time.perf_counter()))
        happened.append({"at_s": round(time.perf_counter() - began_s - load.warm_up_s, 3), "what": what})
        work()
    thread.join()
    if not recordings:
        raise SystemExit("the load ended with an error; see above")
    return recordings[0].as_dict() | {"events": happened}


def _load(suite: Suite, store: Store, **other: Any) -> Load:
    asked: dict[str, Any] = {"via": "client", "duration_s": 1.0} | other
    return Load(
        store.urls,
        workload="A",
        keys=KEYS,
        value_bytes=VALUE_BYTES,
        connections=32,
        rate_per_s=RATE_PER_S,
        warm_up_s=2.0,
        series=True,
        **asked,
    )
