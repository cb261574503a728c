"""Gets and puts per second of a three-node cluster, beside the floor, measured in one run.

    python -m benchmarks.throughput [--rounds 3] [--seconds 5] [--json FILE]

Both run at the same time and are loaded in turn: 63 connections over the three nodes, 10,000 keys,
values of 100 bytes, N=3 R=2 W=2, writes synced before they are acknowledged. Machines drift; the ratio to
the floor of the same round is the figure to compare, not the rate. Exit code 1 if any request failed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.loader import Measured, Paths, Workload, best_tool, fill, load
from benchmarks.processes import Processes, start_cluster, start_floor
from kvstore.bench.result import machine, machine_lines

KEYS, VALUE_BYTES, CONNECTIONS, WARM_UP_S = 10_000, 100, 63, 1


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two that are compared."""

    name: str
    nodes: Processes
    paths: Paths

    @property
    def ports(self) -> list[int]:
        return self.nodes.ports

    def workload(self, operation: str) -> Workload:
        return Workload(self.paths, KEYS, VALUE_BYTES if operation == "put" else 0, CONNECTIONS)


@dataclass(frozen=True, slots=True)
class Round:
    """`cpu_us`: processor time of all three nodes per request; it drifts less than rates do when other
    programs want the processors too."""

    load: Measured
    cpu_us: float


Figures = dict[str, dict[str, list[Round]]]
"""side -> operation -> one measurement per round"""


def measure(sides: list[Side], *, rounds: int, seconds: int, tool: str) -> Figures:
    """Raises SystemExit if a request failed: a rate of errors is no rate."""
    figures: Figures = {side.name: {"put": [], "get": []} for side in sides}
    for side in sides:
        fill(side.ports, side.workload("put"))
    for number in range(rounds):
        for operation in ("put", "get"):
            # Who goes first alternates, so that a machine that slows down does not favour one side.
            for side in sides if number % 2 == 0 else reversed(sides):
                seed = 1000 * number
                load(side.ports, side.workload(operation), WARM_UP_S, tool=tool, seed=seed + 500)
                cpu_s = side.nodes.cpu_s()
                result = load(side.ports, side.workload(operation), seconds, tool=tool, seed=seed)
                cpu_us = (side.nodes.cpu_s() - cpu_s) * 1e6 / max(result.requests, 1)
                _must_be_clean(side, operation, result)
                figures[side.name][operation].append(Round(result, cpu_us))
                print(_line(number, side.name, operation, figures[side.name][operation][-1]), file=sys.stderr)
    return figures


def _must_be_clean(side: Side, operation: str, result: Measured) -> None:
    if result.errors or not result.requests:
        raise SystemExit(f"{side.name} {operation}: {result.errors} of {result.requests} requests failed")


def _line(number: int, side: str, operation: str, result: Round) -> str:
    p50, p99 = result.load.percentile_ms(50), result.load.percentile_ms(99)
    rate, cpu = f"{result.load.per_s:8,.0f}/s", f"{result.cpu_us:4.0f} us of cpu"
    return f"round {number + 1}  {side:<8}{operation}  {rate}  p50 {p50:6.2f} ms  p99 {p99:6.2f} ms  {cpu}"


def report(figures: Figures, settings: dict[str, Any]) -> dict[str, Any]:
    """All figures as plain values; `ratio` is the rate of kvstore over that of the floor, round by round."""
    operations = {}
    for operation in ("put", "get"):
        ours, floor = figures["kvstore"][operation], figures["floor"][operation]
        ratios = [mine.load.per_s / theirs.load.per_s for mine, theirs in zip(ours, floor, strict=True)]
        operations[operation] = {
            "ratio": _spread(ratios),
            **{
                name: {
                    "per_s": _spread([m.load.per_s for m in figures[name][operation]]),
                    "p50_ms": _spread([m.load.percentile_ms(50) for m in figures[name][operation]]),
                    "p99_ms": _spread([m.load.percentile_ms(99) for m in figures[name][operation]]),
                    "cpu_us": _spread([m.cpu_us for m in figures[name][operation]]),
                }
                for name in ("kvstore", "floor")
            },
        }
    return {"settings": settings, "machine": machine(), **operations}


def _spread(values: list[float]) -> dict[str, Any]:
    digits = [round(value, 3) for value in values]
    return {
        "median": round(statistics.median(values), 3),
        "low": min(digits),
        "high": max(digits),
        "all": digits,
    }


def as_text(result: dict[str, Any]) -> str:
    lines = [
        *machine_lines(result["machine"]),
        ", ".join(f"{name}={value}" for name, value in result["settings"].items()),
        "",
        f"{'':12}{'per second':>24}{'p50 ms':>8}{'p99 ms':>8}{'cpu us':>8}   median of the rounds (from, to)",
    ]
    for operation in ("put", "get"):
        for name in ("floor", "kvstore"):
            row = result[operation][name]
            rate = row["per_s"]
            rates = f"{rate['median']:,.0f} ({rate['low']:,.0f} to {rate['high']:,.0f})"
            p50, p99, cpu = (row[column]["median"] for column in ("p50_ms", "p99_ms", "cpu_us"))
            lines.append(f"{operation} {name:<8}{rates:>24}{p50:>8.2f}{p99:>8.2f}{cpu:>8.0f}")
        ratio = result[operation]["ratio"]
        lines.append(f"{operation} ÷ floor {ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})")
    return "\n".join(lines)


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="of one measurement")
    parser.add_argument("--durability", choices=("sync", "async"), default="sync")
    parser.add_argument("--tool", choices=("wrk", "python"), default=best_tool())
    parser.add_argument("--json", type=Path, help="write the figures there too")
    a = parser.parse_args()
    settings = {
        "rounds": a.rounds,
        "seconds": a.seconds,
        "durability": a.durability,
        "load": a.tool,
        "nodes": 3,
        "connections": CONNECTIONS,
        "keys": KEYS,
        "value_bytes": VALUE_BYTES,
        "date": time.strftime("%Y-%m-%d %H:%M %Z"),
    }
    with tempfile.TemporaryDirectory(prefix="kvstore-bench-") as name:
        data_dir = Path(name)
        with (
            start_floor(data_dir, durability=a.durability) as floor,
            start_cluster(data_dir, durability=a.durability) as cluster,
        ):
            floor.wait_ready()
            cluster.wait_ready()
            sides = [
                Side("floor", floor, Paths("/kv/k")),
                Side("kvstore", cluster, Paths("/v1/kv/bench/k")),
            ]
            result = report(measure(sides, rounds=a.rounds, seconds=a.seconds, tool=a.tool), settings)
    print(as_text(result))
    if a.json:
        a.json.parent.mkdir(parents=True, exist_ok=True)
        a.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
