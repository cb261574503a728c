"""bench run, compare, report: a load on your own cluster, and what to make of its figures."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kvstore.cli.nodes import target, target_options
from kvstore.cli.output import Exit, emit_json, output_option, say

if TYPE_CHECKING:
    from kvstore.bench.load import Load
    from kvstore.bench.result import Result

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def bench() -> None:
    """Measure a cluster under load, compare results, draw them.

    \b
    Examples:
      kvstore bench run --workload A --rate 2000 --json before.json
      kvstore bench compare before.json after.json
      kvstore bench report before.json --to report
    """


@bench.command()
@click.option("--workload", default="A", metavar="NAME", help="YCSB's A to F; get, put or insert. [A]")
@click.option("--rate", "rate_per_s", type=click.FloatRange(min=0, min_open=True), metavar="N",
              help="Open loop, N operations per second; without, a closed loop finds the peak.")  # fmt: skip
@click.option("--duration", "duration_s", type=click.FloatRange(min=0.1), default=30.0, metavar="S",
              help="Seconds of one round. [30]")  # fmt: skip
@click.option("--warm-up", "warm_up_s", type=click.FloatRange(min=0), default=5.0, metavar="S",
              help="Seconds before each round that do not count. [5]")  # fmt: skip
@click.option("--rounds", type=click.IntRange(1), default=3, metavar="N", help="[3]")
@click.option("--connections", type=click.IntRange(1), default=64, metavar="N",
              help="Together; tasks or threads of the library, with --via. [64]")  # fmt: skip
@click.option("--processes", type=click.IntRange(1), default=1, metavar="N", help="Of the load itself. [1]")
@click.option("--via", type=click.Choice(["http", "client", "sync", "batch"]), default="http",
              help="Plain HTTP, the client library, the synchronous one, batches of it. [http]")  # fmt: skip
@click.option("--batch-items", type=click.IntRange(1, 1000), default=100, metavar="N", help="[100]")
@click.option("--keys", type=click.IntRange(1), default=10_000, metavar="N", help="[10000]")
@click.option("--value-bytes", type=click.IntRange(1), default=1024, metavar="N", help="[1024]")
@click.option("--bucket", default="bench", metavar="NAME", help="What is in it is written over. [bench]")
@click.option("--n", type=click.IntRange(1), help="Homes of a key; as the bucket says.")
@click.option("--r", type=click.IntRange(1), help="Answers that a read needs.")
@click.option("--w", type=click.IntRange(1), help="Durable copies that a write needs.")
@click.option("--dw", type=click.IntRange(0), help="0: acknowledge before the disk has it.")
@click.option("--fill/--no-fill", default=True, help="Write every key first. [fill]")
@click.option("--seed", type=int, default=0, metavar="N", help="The same seed, the same operations. [0]")
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Write the result, with its histograms.")  # fmt: skip
@target_options
@output_option
def run(nodes: str | None, timeout_s: float | None, output: str, **asked: Any) -> None:
    """Put a load on a cluster and measure it.

    The keys are written into a bucket of their own and stay there.

    \b
    Examples:
      kvstore bench run --nodes http://127.0.0.1:8001 --workload A --rate 2000
      kvstore bench run --workload get --connections 128 --processes 2 --r 1
      kvstore bench run --workload B --via client --rounds 5 --json b.json

    Exit codes: 0 everything was answered, 1 some operations failed.
    """
    from kvstore.bench.load import fill
    from kvstore.bench.load import run as run_load
    from kvstore.bench.recording import need_histograms
    from kvstore.bench.result import Case, Result, machine

    need_histograms()
    where = target(nodes, timeout_s)
    load = _load(where.urls, where.token, where.timeout_s, asked)
    if asked["fill"]:
        say(f"writing {load.keys} keys of {load.value_bytes} bytes into bucket {load.bucket}")
        fill(load)
    case = Case(f"{load.workload} via {load.via}", "Load", load.settings())
    for number in range(asked["rounds"]):
        recording = run_load(_with_seed(load, asked["seed"] + number))
        case.rounds.append(recording.as_dict())
        say(f"round {number + 1}: {recording.per_s:,.0f} per s, {recording.failed} failed")
    result = Result({"rounds": asked["rounds"]}, [case], machine=machine())
    result.date = time.strftime("%Y-%m-%d %H:%M %Z")
    if asked["file"] is not None:
        result.write(asked["file"])
    _tell(result, case.rounds, output)
    failed = sum(each["failed"] for each in case.rounds)
    click.get_current_context().exit(Exit.ERROR if failed else Exit.OK)


def _load(urls: tuple[str, ...], token: str | None, timeout_s: float | None, asked: dict[str, Any]) -> Load:
    from kvstore.bench.load import Load, check

    same = ("workload", "rate_per_s", "duration_s", "warm_up_s", "connections", "processes", "via", "bucket")
    load = Load(
        urls,
        **{name: asked[name] for name in (*same, "batch_items", "keys", "value_bytes", "seed")},
        reads=tuple((k, str(asked[k])) for k in ("n", "r") if asked[k] is not None),
        writes=tuple((k, str(asked[k])) for k in ("n", "w", "dw") if asked[k] is not None),
        token=token or "",
        timeout_s=timeout_s or 5.0,
    )
    check(load)
    return load


def _with_seed(load: Load, seed: int) -> Load:
    from dataclasses import replace

    return replace(load, seed=seed)


def _tell(result: Result, rounds: list[dict[str, Any]], output: str) -> None:
    if output == "json":
        emit_json({"machine": result.machine, "settings": result.cases[0].settings, "rounds": rounds})
        return
    from kvstore.bench.report import aligned, kind_table, text_lines

    for line in text_lines(result):
        click.echo(line)
    click.echo()
    for line in aligned(kind_table(result.cases[0])):
        click.echo(line)


@bench.command()
@click.argument("old", type=_FILE)
@click.argument("new", type=_FILE)
@click.option("--tolerance", type=click.FloatRange(0, 1), default=0.1, metavar="X",
              help="How much worse a median may be. [0.1]")  # fmt: skip
@click.option("--all", "everything", is_flag=True, help="Show what did not change, too.")
@output_option
def compare(old: Path, new: Path, tolerance: float, everything: bool, output: str) -> None:
    """Tell what got worse from one result to another.

    Worse is what is worse by more than the tolerance, and outside of what the rounds of the old result
    differ among themselves.

    \b
    Example:
      kvstore bench compare before.json after.json --tolerance 0.05

    Exit codes: 0 nothing got worse, 1 something did.
    """
    from dataclasses import asdict

    from kvstore.bench import compare as rules
    from kvstore.bench.report import aligned, comparison_table
    from kvstore.bench.result import read

    found = rules.compare(read(old), read(new), tolerance=tolerance)
    for note in found.notes:
        say(f"note: {note}")
    if output == "json":
        shown = [c for c in found.changes if everything or c.verdict != "same"]
        emit_json({"regressions": len(found.regressions), "changes": [asdict(c) for c in shown]})
    else:
        for line in aligned(comparison_table(found, everything=everything)):
            click.echo(line)
        click.echo(f"{len(found.changes)} figures compared, {len(found.regressions)} got worse")
    click.get_current_context().exit(Exit.ERROR if found.regressions else Exit.OK)


@bench.command()
@click.argument("files", nargs=-1, required=True, type=_FILE)
@click.option("--to", "directory", type=click.Path(file_okay=False, path_type=Path), required=True,
              metavar="DIR", help="Where index.html, tables.md and the plots go.")  # fmt: skip
def report(files: tuple[Path, ...], directory: Path) -> None:
    """Draw results: one page of HTML with tables and plots, the plots as PNG, the tables as Markdown.

    Several files become one page; cases of one name are told apart by their file.

    \b
    Example:
      kvstore bench report before.json after.json --to report
    """
    from kvstore.bench.report import together, write_report
    from kvstore.bench.result import read

    click.echo(write_report(together({file.stem: read(file) for file in files}), directory))
