"""The whole suite: `make bench` (short) and `make bench-full`.

    python -m benchmarks [--full] [--only peers,shapes] [--to DIR]
    python -m benchmarks --growth 10000000

Writes result.json, tables.md, PNG plots and index.html into a directory, and prints the tables. Every
group starts its own nodes on loopback and stops them. A group that fails is told of, and the others run. Exit
code 1 if one did, or if a request failed where none may.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks import budget, cores, growth, limits, micro, peers, shapes, trouble
from benchmarks.suite import FULL, SHORT, Suite, say
from kvstore.bench.report import text_lines, write_report
from kvstore.bench.result import Result, machine
from kvstore.errors import KVStoreError

GROUPS: dict[str, Callable[[Suite, Path], None]] = {
    "peers": peers.run,
    "budget": budget.run,
    "limits": limits.run,
    "micro": micro.run,
    "shapes": shapes.run,
    "trouble": trouble.run,
    "cores": cores.run,
}
BUSY = 0.5
"""Load average above which figures say more about the neighbours."""

TERMINATED = 128 + signal.SIGTERM
RESULTS = Path("benchmarks/results/local")
NOT_THERE = {"during a transfer, during a snapshot": "this release has neither"}


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="every case, longer rounds")
    parser.add_argument("--only", default=",".join(GROUPS), help=f"groups, of {', '.join(GROUPS)}")
    parser.add_argument("--growth", type=int, metavar="KEYS", help="only this: from 10,000 keys to so many")
    parser.add_argument("--to", type=Path, default=RESULTS, help=f"directory of the report [{RESULTS}]")
    a = parser.parse_args()
    names = [name for name in a.only.split(",") if name]
    if unknown := [name for name in names if name not in GROUPS]:
        parser.error(f"no group {', '.join(unknown)}; there are {', '.join(GROUPS)}")
    groups = {name: GROUPS[name] for name in names}
    if a.growth is not None:
        if a.growth <= growth.FIRST:
            parser.error(f"--growth begins with {growth.FIRST:,} keys")
        groups = {"growth": partial(growth.run, keys=a.growth)}
    suite = Suite(FULL if a.full else SHORT)
    suite.result = Result(machine=machine(), date=time.strftime("%Y-%m-%d %H:%M %Z"))
    suite.result.settings = {
        "rounds": suite.budget.rounds,
        "peak_s": suite.budget.peak_s,
        "open_s": suite.budget.open_s,
        "tool": suite.tool,
        "load_average": round(os.getloadavg()[0], 2),
        "full": a.full,
        "groups": list(groups),
    }
    suite.result.skipped |= NOT_THERE
    busy = suite.result.settings["load_average"]
    if busy > BUSY:
        say(f"warning: others are busy here (load average {busy}): these figures will tell of them")
    # A terminated run leaves no nodes behind: their `with` blocks end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    began_s, broken = time.monotonic(), []
    for name, run in groups.items():
        say(f"{name}, after {time.monotonic() - began_s:.0f} s:")
        with tempfile.TemporaryDirectory(prefix="kvstore-bench-") as directory:
            try:
                run(suite, Path(directory))
            except (KVStoreError, OSError, SystemExit) as error:
                if isinstance(error, SystemExit) and error.code == TERMINATED:
                    raise
                broken.append(name)
                suite.skip(f"the rest of {name}", f"it failed: {error}")
        suite.result.settings["took_s"] = round(time.monotonic() - began_s)
        suite.result.write(a.to / "result.json")  # what comes after may fail
    page = write_report(suite.result, a.to)
    print("\n".join(text_lines(suite.result)))
    say(f"\n{page}, {a.to / 'tables.md'}, {a.to / 'result.json'}: {time.monotonic() - began_s:.0f} s")
    sys.exit(1 if broken or failures(suite.result) else 0)


def failures(result: Result) -> int:
    """Requests that failed, but where nodes were killed and a client without retries was to see it."""
    return sum(
        each.get("failed", 0)
        for case in result.cases
        if not case.settings.get("failures_expected")
        for each in case.rounds
    )


if __name__ == "__main__":
    main()
