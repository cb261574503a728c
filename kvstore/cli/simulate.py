"""simulate: the nodes as they are shipped, in virtual time, under faults, and judged."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kvstore.cli.output import Exit, emit_json, output_option, say, table
from kvstore.errors import ConfigError

if TYPE_CHECKING:
    from kvstore.simulation.campaign import Report, Summary
    from kvstore.simulation.generator import Shape
    from kvstore.simulation.plan import Plan

SEEDS = 20
_FAILURES_TOLD = 10


@click.command()
@click.option("--seeds", type=click.IntRange(1), metavar="N", help=f"How many runs. [{SEEDS}]")
@click.option("--first", type=int, default=0, metavar="SEED", help="The seed of the first of them. [0]")
@click.option("--seed", type=int, metavar="SEED", help="One run, with a timeline if it fails.")
@click.option("--nodes", type=click.IntRange(1, 50), help="How many nodes; by chance 3 to 7.")
@click.option("--n", type=click.IntRange(1), help="Homes of a key.")
@click.option("--r", type=click.IntRange(1), help="Answers that a read needs.")
@click.option("--w", type=click.IntRange(1), help="Durable copies that a write needs.")
@click.option("--duration", "duration_s", type=click.FloatRange(5, 3600), default=120.0, metavar="S",
              help="Virtual seconds of one run. [120]")  # fmt: skip
@click.option("--faults", metavar="KINDS", help="Kinds by chance, with commas; or none, or list to see them.")
@click.option("--kill", multiple=True, metavar="N2@5S+3S", help="kill -9, and a start 3 s later.")
@click.option("--partition", multiple=True, metavar="N1,N2:N3@8S+4S", help="Nothing passes between these.")
@click.option("--pause", multiple=True, metavar="N1@3S+2S", help="SIGSTOP, and SIGCONT 2 s later.")
@click.option("--cluster", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
              help="Nodes with zones and hosts, n, r and w (TOML).")  # fmt: skip
@click.option("--replay", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
              help="Run a plan that --save has written.")  # fmt: skip
@click.option("--shrink", is_flag=True, help="Make the plan of a failing run as small as it still fails.")
@click.option("--save", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Write the plan: of --seed or --replay, after shrinking.")  # fmt: skip
@click.option("--processes", type=click.IntRange(1), help="Runs at the same time; one per core.")
@output_option
def simulate(output: str, **options: Any) -> None:
    """Run a simulated cluster through faults and check that nothing acknowledged is lost.

    The nodes are those that are shipped; network, disks, clocks and chance are simulated, and time is
    virtual: two minutes pass in about one second. The same seed gives the same run on any machine.
    Without options: 20 runs of 3 to 7 nodes with all kinds of faults. Faults that are named one by
    one replace those by chance, unless --faults asks for these too.

    \b
    Examples:
      kvstore simulate --seeds 2000
      kvstore simulate --seed 7 --nodes 5 --n 3 --r 2 --w 2
      kvstore simulate --kill n2@5s --partition n1,n2:n3@8s+4s --duration 20
      kvstore simulate --cluster cluster.toml --faults crash,split,clock-jump
      kvstore simulate --seed 7 --shrink --save failure.json
      kvstore simulate --replay failure.json

    \b
    A cluster file:
      n = 3
      [[nodes]]
      name = "n1"
      zone = "a"
      host = "rack-7"

    Exit codes: 0 nothing was violated, 1 something was, or no run did enough to prove anything.
    """
    if options["faults"] == "list":
        _list_kinds(output)
        return
    if options["seed"] is not None and options["seeds"] is not None:
        raise click.UsageError("--seed is one run, --seeds are many: give one of them")
    shape = _shape(options)
    if options["seed"] is None and options["replay"] is None:
        if options["shrink"] or options["save"]:
            raise click.UsageError("--shrink and --save take one run: give --seed or --replay")
        ok = _many(options, shape, output)
    else:
        ok = _one(options, shape, output)
    click.get_current_context().exit(Exit.OK if ok else Exit.ERROR)


def _list_kinds(output: str) -> None:
    from kvstore.simulation.faults import KINDS

    if output == "json":
        emit_json({"kinds": list(KINDS)})
        return
    for kind in KINDS:
        click.echo(kind)


def _shape(options: dict[str, Any]) -> Shape:
    from kvstore.simulation.generator import Shape
    from kvstore.simulation.wording import cluster_of, fault_of

    machines, counts = cluster_of(options["cluster"]) if options["cluster"] else ((), {})
    if machines and options["nodes"] is not None:
        raise click.UsageError("--cluster says which nodes there are: leave out --nodes")
    named = [
        fault_of(kind, text)
        for kind, option in (("crash", "kill"), ("split", "partition"), ("pause", "pause"))
        for text in options[option]
    ]
    kinds: tuple[str, ...] | None = () if named else None
    if options["faults"] is not None:
        text = options["faults"]
        kinds = () if text == "none" else tuple(k for part in text.split(",") if (k := part.strip()))
    if named and not machines and options["nodes"] is None:
        options["nodes"] = 5  # the names in the faults must be there
    for name in ("n", "r", "w"):
        if options[name] is not None:
            counts[name] = options[name]
    return Shape(
        duration_s=options["duration_s"],
        machines=machines,
        nodes=options["nodes"],
        kinds=kinds,
        faults=tuple(named),
        **counts,
    )


def _command(options: dict[str, Any]) -> str:
    """What to type so that a seed gives the same run; the seed comes behind it."""
    from kvstore.simulation.campaign import command_line

    words: list[str] = []
    for name in ("cluster", "nodes", "n", "r", "w", "faults"):
        if options[name] is not None and not (name == "nodes" and options["cluster"]):
            words += [f"--{name}", str(options[name])]
    if options["duration_s"] != 120.0:
        words += ["--duration", f"{options['duration_s']:g}"]
    for name in ("kill", "partition", "pause"):
        for text in options[name]:
            words += [f"--{name}", text]
    return command_line(words)


# --- many runs ------------------------------------------------------------------------------------------


def _many(options: dict[str, Any], shape: Shape, output: str) -> bool:
    from kvstore.simulation.campaign import campaign, summarize
    from kvstore.simulation.generator import plan_of

    count = options["seeds"] or SEEDS
    seeds = range(options["first"], options["first"] + count)
    plan_of(seeds[0], shape)  # what is wrong with the options is told here, not by a worker
    reports = campaign(seeds, shape, processes=options["processes"], command=_command(options))
    summary = summarize(_with_progress(reports, count))
    if output == "json":
        emit_json(summary.as_dict())
    else:
        for line in _told(summary):
            click.echo(line)
    return not summary.failures and summary.passed > 0


def _with_progress(reports: Iterator[Report], count: int) -> Iterator[Report]:
    """A bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield from reports
        return
    with click.progressbar(reports, length=count, label="simulating", file=sys.stderr) as shown:
        yield from shown


def _told(summary: Summary) -> Iterable[str]:
    counts, operations = summary.violations, summary.operations
    reads, writes = _ends(operations, ("get",)), _ends(operations, ("put", "delete"))
    yield from table(
        [
            ["", "ok", "unknown", "failed"],
            ["writes", *writes],
            ["reads", *reads],
        ]
    )
    faults = " ".join(f"{kind}:{n}" for kind, n in sorted(summary.faults.items()))
    yield f"faults      {summary.faults.total()} ({summary.faults_per_hour:.0f} per simulated hour) {faults}"
    kinds = ("lost", "resurrected", "phantom", "ghost", "antichain", "divergent", "stale", "session", "bug")
    yield "violations  " + ", ".join(f"{counts[kind]} {kind}" for kind in kinds)
    others = {kind: n for kind, n in sorted(counts.items()) if kind not in kinds}
    if others:
        yield "            " + ", ".join(f"{n} {kind}" for kind, n in others.items())
    yield "reached     " + ", ".join(f"{name}:{n}" for name, n in sorted(summary.probes.items()))
    if summary.probes_missing:
        yield f"never       {', '.join(summary.probes_missing)}"
    yield (
        f"runs        {summary.runs}: {summary.passed} passed, {len(summary.failures)} failed,"
        f" {len(summary.invalid)} invalid; {summary.virtual_s:g} s of virtual time"
        f" in {summary.elapsed_s:.1f} s, {summary.seeds_per_s:.2f} runs/s"
    )
    for report in summary.failures[:_FAILURES_TOLD]:
        kinds_told = ", ".join(f"{n} {kind}" for kind, n in report.violations.items())
        yield f"FAILED   {report.replay}   # {kinds_told}"
    if len(summary.failures) > _FAILURES_TOLD:
        yield f"         and {len(summary.failures) - _FAILURES_TOLD} more: -o json has all of them"
    for report in summary.invalid[:_FAILURES_TOLD]:
        yield f"INVALID  {report.replay}   # {report.invalid[0]}"


def _ends(operations: dict[str, int], kinds: tuple[str, ...]) -> list[int]:
    return [sum(operations.get(f"{k} {end}", 0) for k in kinds) for end in ("ok", "unknown", "failed")]


# --- one run --------------------------------------------------------------------------------------------


def _one(options: dict[str, Any], shape: Shape, output: str) -> bool:
    from kvstore.simulation.campaign import FAILED, PASSED, judged
    from kvstore.simulation.generator import plan_of
    from kvstore.simulation.plan import Plan
    from kvstore.simulation.wording import timeline_of

    if options["replay"] is not None:
        try:
            plan = Plan.from_lines(options["replay"].read_text("utf-8").splitlines())
        except UnicodeDecodeError:
            raise ConfigError(f"{options['replay']} is no text") from None
        replay = f"kvstore simulate --replay {options['replay']}"
    else:
        plan = plan_of(options["seed"], shape)
        replay = f"{_command(options)} --seed {options['seed']}"
    if options["shrink"]:
        plan = _shrunk(plan)
    if options["save"] is not None:
        options["save"].write_text("".join(f"{line}\n" for line in plan.lines()), "utf-8")
        say(f"plan: {options['save']}")
    run, report = judged(plan, replay=replay, keep_timeline=True)
    timeline = timeline_of(run, report.keys) if run is not None and report.status == FAILED else []
    if output == "json":
        emit_json(
            {**report.as_dict(), "timeline": timeline, "plan": plan.lines() if options["shrink"] else []}
        )
    else:
        for line in [*_report_lines(report), *timeline]:
            click.echo(line)
        if options["shrink"] and options["save"] is None:
            for line in plan.lines():
                click.echo(line)
    return report.status == PASSED


def _report_lines(report: Report) -> Iterable[str]:
    yield f"seed {report.seed}: {report.status}   trace {report.trace}"
    yield "operations  " + ", ".join(f"{n} {kind}" for kind, n in sorted(report.operations.items()))
    yield "faults      " + (", ".join(f"{n} {kind}" for kind, n in sorted(report.faults.items())) or "none")
    converged = f"after {report.converged_s:.2f} s" if report.converged_s is not None else "never"
    yield f"replicas    equal {converged} when all faults were over"
    yield from (f"invalid     {reason}" for reason in report.invalid)
    yield from (f"violation   {detail}" for detail in report.details)


def _shrunk(plan: Plan) -> Plan:
    """The smallest plan with a violation of a kind that this one has; the plan itself if it has none."""
    from kvstore.simulation.campaign import run_plan
    from kvstore.simulation.shrink import Shrinker

    kinds = set(run_plan(plan).violations)
    if not kinds:
        say("nothing to shrink: this run violates nothing")
        return plan
    terminal = sys.stderr.isatty()

    def told(smaller: Plan, runs: int) -> None:
        if terminal:
            actions = sum(map(len, smaller.clients))
            size = f"{len(smaller.faults)} faults, {len(smaller.clients)} clients, {actions} operations"
            click.echo(f"\r{runs} runs: {size}    ", nl=False, err=True)

    shrinker = Shrinker(plan, lambda smaller: bool(kinds & run_plan(smaller).violations.keys()), told=told)
    small = shrinker.run()
    say(f"{' ' if terminal else ''}shrunk in {shrinker.runs} runs to {len(small.lines())} lines")
    return small
