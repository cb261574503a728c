"""Real processes and disks, broken on purpose: `python -m tests.processes.chaos [SCENARIO ...] [--short]`.

Prints the figures of each scenario as it ends, and a table. Ends with 0 if all passed or were skipped.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple

from tests.processes import disk_faults, forgetful_disks, scenarios
from tests.processes.rig import Outcome


class Scenario(NamedTuple):
    """`run` as it counts; `short`: the arguments of a version that fits into a plain test."""

    run: Callable[..., Coroutine[Any, Any, Outcome]]
    short: dict[str, Any]
    missing: Callable[[], str] = lambda: ""
    """Why it cannot run here, "" if it can."""


SCENARIOS = {
    "kill-loop": Scenario(scenarios.kill_loop, {"kills": 2, "between_s": 0.5}),
    "pauses": Scenario(scenarios.pauses, {"pauses_s": (1.0,)}),
    "kill-all": Scenario(scenarios.kill_all, {"rounds": 1}),
    "hints": Scenario(scenarios.hints_across_restart, {"down_s": 1.0}),
    "down": Scenario(scenarios.down_for_a_minute, {"down_s": 5.0}),
    "disk-full": Scenario(
        disk_faults.disk_full, {"full_s": 2.0, "p99_ms_max": 1000.0}, disk_faults.no_loop_mount
    ),
    "fsync": Scenario(disk_faults.failed_sync, {"rounds": 1, "ended_s_max": 5.0}, disk_faults.no_strace),
    "eio-write": Scenario(disk_faults.failed_write, {"rounds": 1}, disk_faults.no_strace),
    "eio-read": Scenario(disk_faults.failed_reads, {"rounds": 1}, disk_faults.no_strace),
    "bit-flips": Scenario(disk_faults.bit_flips, {"rounds": 2}),
    "amnesia": Scenario(forgetful_disks.amnesia, {"cycles": 2}),
}


async def run(name: str, directory: Path, *, short: bool) -> Outcome:
    scenario = SCENARIOS[name]
    return await scenario.run(directory, **(scenario.short if short else {}))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.processes.chaos", description=__doc__)
    parser.add_argument("scenario", nargs="*", choices=[[], *SCENARIOS], help="default: all")
    parser.add_argument("--short", action="store_true", help="as in the plain tests: seconds, few faults")
    parser.add_argument("--keep", action="store_true", help="keep data and logs of the nodes")
    arguments = parser.parse_args()
    lines, bad = [], 0
    for name in arguments.scenario or SCENARIOS:
        reason = SCENARIOS[name].missing()
        if reason:
            lines.append(f"{name:<14} skipped: {reason}")
            print(lines[-1], flush=True)
            continue
        directory, began_s = Path(tempfile.mkdtemp(prefix=f"kvstore-chaos-{name}-")), time.monotonic()
        try:
            outcome = asyncio.run(run(name, directory, short=arguments.short))
        finally:
            if arguments.keep:
                print(f"kept: {directory}")
            else:
                shutil.rmtree(directory, ignore_errors=True)
        bad += outcome.verdict != "passed"
        print(f"\n{outcome}", flush=True)
        figures = outcome.figures
        lines.append(
            f"{name:<14} {outcome.verdict:<9} {time.monotonic() - began_s:5.0f} s"
            f"  faults {figures['faults confirmed']:>4}  violations {len(outcome.violations)}"
            f"  operations {figures['operations (ok get, put, delete)'].split()[0]:>7}"
            f"  failed {figures['operations failed']}"
        )
    print("\n" + "\n".join(lines))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
