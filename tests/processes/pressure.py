"""make pressure: a node under more than it can bear, each figure beside its control, in one table.

    python -m tests.processes.pressure [--seconds 4] [--only WORD] [--json FILE] [--plot FILE]

Real node processes, loaded from this one. The control is the same run with the mechanism off. What is
asked for in an overload costs a node at least ten times as much as a refusal (about 40 µs of a core):
batches, pages, keys with many siblings. Of single gets and puts three times the capacity would be more than
a node can even refuse; they are the clients beside the flood.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from tests.processes.pressure_flood import flood
from tests.processes.pressure_overload import overload
from tests.processes.pressure_peers import OFF as NO_HEDGES
from tests.processes.pressure_peers import gray, stalled
from tests.processes.pressure_resources import NO_WATERMARK, descriptors, memory
from tests.processes.pressure_retries import naive, retries
from tests.processes.pressure_rig import OFF
from tests.processes.pressure_tiers import tiers

Row = dict[str, float]
Run = Callable[[Path], Awaitable[Row]]
"""In a directory of its own; {} where it cannot be done, and then it has printed why."""


class Line(NamedTuple):
    """`goals`: figure -> (lowest, highest) that the run with the mechanism should have."""

    scenario: str
    with_it: Run
    control: Run | None
    goals: Mapping[str, tuple[float, float]]


ANY = float("inf")
PEERS_LONGER = 2.5  # their p99 is of 200 requests a second
OVERLOADED = {
    "goodput / lower peak": (0.8, ANY),
    "served p99 / at peak": (0.0, 2.0),
    "shed p99, ms": (0.0, 50.0),
    "normal again after, s": (0.0, 10.0),
}


def lines(seconds: float, picture: Path | None) -> list[Line]:
    def run(function: Callable[..., Awaitable[Row]], *arguments: object, **options: object) -> Run:
        return lambda folder: function(folder, *arguments, **options)

    found = [
        Line(
            f"three times the capacity, {requests} (control: nothing is limited)",
            run(overload, {}, seconds, requests),
            run(overload, OFF, seconds, requests),
            OVERLOADED,
        )
        for requests in ("batches of 20", "pages of 100 keys")
    ]
    pages = "pages of 100 keys"
    return [
        *found,
        Line(
            f"the same, {pages}, each asked for up to five times more at once (control: nothing is limited)",
            run(overload, {}, seconds, pages, retries=5),
            run(overload, OFF, seconds, pages, retries=5),
            {"normal again after, s": (0.0, 30.0)},
        ),
        Line(
            "three times the capacity, by the project's client (control: by clients that retry at once)",
            run(retries, seconds=seconds),
            run(naive, seconds=seconds),
            {"requests / operations": (0.0, 1.1)},
        ),
        Line(
            "clients beside an export of three times the capacity, in the background (control: no limits)",
            run(flood, {}, seconds),
            run(flood, OFF, seconds),
            {"p99 beside / alone": (0.0, 1.2)},
        ),
        Line(
            "a load of all tiers that rises step by step (control: nothing is limited)",
            run(tiers, {}, seconds, picture),
            run(tiers, OFF, seconds),
            {"given up in this order": (1.0, 1.0)},
        ),
        Line(
            "one home of three is 200 ms late (control: no hedges, no latency breaker)",
            run(gray, {}, seconds * PEERS_LONGER),
            run(gray, NO_HEDGES, seconds * PEERS_LONGER),
            {"p99 / (2x before + a hedge delay)": (0.0, 1.0), "hedges / read": (0.0, 0.05)},
        ),
        Line(
            "one node of five stands still, again and again (control: the same)",
            run(stalled, {}, seconds * PEERS_LONGER),
            run(stalled, NO_HEDGES, seconds * PEERS_LONGER),
            {"others p99, stopped / going": (0.0, 1.2)},
        ),
        Line(
            "64 descriptors (control: none are kept from clients)",
            run(descriptors, {}, seconds),
            run(descriptors, {"KVSTORE_DESCRIPTORS_KEPT": "1"}, seconds),
            {"crashed": (0.0, 0.0), "normal after release, s": (0.0, 2.0)},
        ),
        Line(
            "256 MiB of memory (control: nothing is limited, and no watermark)",
            run(memory, {}, seconds),
            run(memory, OFF | NO_WATERMARK, seconds),
            {"crashed": (0.0, 0.0), "normal after release, s": (0.0, 2.0)},
        ),
    ]


async def measure(seconds: float, only: str = "", picture: Path | None = None) -> dict[str, list[Row]]:
    """scenario -> [with the mechanism, control]; printed as they come."""
    figures: dict[str, list[Row]] = {}
    for line in lines(seconds, picture):
        if only not in line.scenario:
            continue
        with tempfile.TemporaryDirectory() as place:
            with_it = await line.with_it(Path(place, "with"))
            control = await line.control(Path(place, "control")) if line.control and with_it else {}
        figures[line.scenario] = [with_it, control]
        show(line, with_it, control)
    return figures


def show(line: Line, with_it: Row, control: Row) -> None:
    print(f"\n{line.scenario}\n{'':44}{'with':>10}{'control':>10}   goal")
    for name, figure in with_it.items():
        goal = ""
        if name in line.goals:
            low, high = line.goals[name]
            bound = f"at least {low:g}" if high == ANY else f"at most {high:g}" if low < high else f"{low:g}"
            goal = f"{bound}{'' if low <= figure <= high else '   MISSED'}"
        beside = f"{control[name]:>10.4g}" if name in control else f"{'-':>10}"
        print(f"  {name:42}{figure:>10.4g}{beside}   {goal}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load")
    parser.add_argument("--only", default="", help="scenarios with this word in their name")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    parser.add_argument(
        "--plot",
        type=Path,
        default=Path("benchmarks/results/local/pressure-tiers.png"),
        help="picture of the load that rises",
    )
    arguments = parser.parse_args()
    figures = asyncio.run(measure(arguments.seconds, arguments.only, arguments.plot))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
