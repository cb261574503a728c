"""dev: a cluster of local processes, to try things on. What it starts is in dev_cluster.py."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import Any

import click

from kvstore.cli import processes
from kvstore.cli.dev_cluster import DIRECTORY, SIZE_MAX, DevCluster, DevNode, find, locked
from kvstore.cli.dev_logs import directory_option, logs, tail, the_cluster
from kvstore.cli.output import emit, output_option, say, table
from kvstore.cli.processes import Process, State
from kvstore.errors import ConfigError, NotFound, Unavailable

SIZE = 5
READY_S = 30.0
GRACE_S = 15.0  # above the drain_timeout_s of a node
POLL_S = 0.05


@click.group()
def dev() -> None:
    """A cluster of processes on this machine: five nodes in three zones, data and logs in .dev/.

    \b
    Example:
      kvstore dev up
      kvstore put greetings hello world
      kvstore dev kill n3
      kvstore get greetings hello
    """


@dev.command()
@click.option("--size", type=click.IntRange(1, SIZE_MAX), help=f"Number of nodes of a new cluster. [{SIZE}]")
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(min=1), default=READY_S, help="In seconds. [30]"
)
@directory_option
@output_option
def up(size: int | None, timeout_s: float, directory: Path | None, output: str) -> None:
    """Start the nodes that do not run, and wait until all are ready. Made on first use.

    Prints the line that tells a shell where the cluster is.

    \b
    Example:
      kvstore dev up
      kvstore dev up --size 3 --dir /tmp/three
    """
    found = None if directory else find(Path.cwd())
    where = found.directory if found else (directory or DIRECTORY)
    with locked(where):
        cluster = _opened_or_made(where, size)
        started = [node for node in cluster.nodes if cluster.start(node)]
        try:
            _wait_ready(cluster, cluster.nodes, timeout_s)
        except (Unavailable, KeyboardInterrupt):
            fresh = [p for node in started if (p := cluster.process(node))]
            processes.stop(fresh, grace_s=GRACE_S)
            raise
    say(f"{len(cluster.nodes)} nodes are ready, {len(started)} just started; all is in {cluster.directory}")
    say("next: kvstore demo · kvstore put greetings hello world · kvstore status · kvstore dev down")
    emit(output, _described(cluster), [f"export KVSTORE_NODES={cluster.urls}"])


def _opened_or_made(where: Path, size: int | None) -> DevCluster:
    if not (where / "cluster.json").exists():
        return DevCluster.create(where, size or SIZE)
    cluster = DevCluster.open(where)
    if size not in (None, len(cluster.nodes)):
        raise ConfigError(
            f"the cluster in {where} has {len(cluster.nodes)} nodes, --size is {size}",
            advice="leave --size out, or remove the cluster and its data: kvstore dev down --wipe",
        )
    return cluster


def _wait_ready(cluster: DevCluster, nodes: list[DevNode], timeout_s: float) -> None:
    """Raises Unavailable with the end of a log if a node dies or the time is over."""
    deadline = time.monotonic() + timeout_s
    ready: set[str] = set()
    while True:
        for node in nodes:
            if cluster.state(node) is State.GONE:
                _progress("")
                raise Unavailable(
                    f"{node.name} ended: {_last_words(cluster, node)}", advice=_see_log(cluster, node)
                )
            if node.name not in ready and cluster.ready(node):
                ready.add(node.name)
        _progress(f"{len(ready)} of {len(nodes)} nodes are ready")
        if len(ready) == len(nodes):
            _progress("")
            return
        if time.monotonic() > deadline:
            missing = next(node for node in nodes if node.name not in ready)
            _progress("")
            raise Unavailable(
                f"{len(ready)} of {len(nodes)} nodes ready after {timeout_s:g} s, {missing.name} is not: "
                f"{_last_words(cluster, missing)}",
                advice=_see_log(cluster, missing),
            )
        time.sleep(POLL_S)


def _progress(text: str) -> None:
    """One line that is written over; "" removes it. Nothing where nobody watches."""
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[K{text}", err=True, nl=False)


def _last_words(cluster: DevCluster, node: DevNode) -> str:
    lines = [line for line in tail(cluster.log(node), 3) if line.strip()]
    return " / ".join(lines) or "it said nothing"


def _see_log(cluster: DevCluster, node: DevNode) -> str:
    return f"kvstore dev logs {node.name} --dir {cluster.directory}"


@dev.command()
@click.option("--wipe", is_flag=True, help="Remove the cluster and all its data too.")
@directory_option
def down(wipe: bool, directory: Path | None) -> None:
    """Stop all nodes. Data stay, and `up` finds them again, unless --wipe is given.

    \b
    Example:
      kvstore dev down
      kvstore dev down --wipe
    """
    try:
        cluster = the_cluster(directory)
    except NotFound as error:
        say(f"{error.detail}, nothing to stop")
        return
    with locked(cluster.directory):
        running = cluster.running()
        killed = processes.stop(running, grace_s=GRACE_S)
        say(f"stopped {len(running)} nodes" + (f", {len(killed)} of them with SIGKILL" if killed else ""))
        if wipe:
            cluster.wipe()
            say(f"removed {cluster.directory}")


@dev.command()
@directory_option
@output_option
def status(directory: Path | None, output: str) -> None:
    """The nodes, their processes and addresses.

    \b
    Example:
      kvstore dev status
    """
    described = _described(the_cluster(directory))
    head = ["node", "zone", "state", "pid", "http", "rpc"]
    rows = [[node[column] if node[column] is not None else "-" for column in head] for node in described]
    emit(output, described, table([head, *rows]))


def _described(cluster: DevCluster) -> list[dict[str, Any]]:
    described = []
    for node in cluster.nodes:
        process, state = cluster.process(node), cluster.state(node)
        words = {State.GONE: "stopped", State.PAUSED: "paused"}
        word = words.get(state) or ("ready" if cluster.ready(node) else "not ready")
        described.append(
            {
                "node": node.name,
                "zone": node.zone,
                "state": word,
                "pid": process.pid if process and state is not State.GONE else None,
                "http": node.http,
                "rpc": node.rpc,
            }
        )
    return described


@dev.command()
@click.argument("name")
@directory_option
def kill(name: str, directory: Path | None) -> None:
    """End a node as a power cut would: SIGKILL, no goodbye.

    \b
    Example:
      kvstore dev kill n3 && kvstore get greetings hello
    """
    process = _running(the_cluster(directory), name)
    process.send(signal.SIGKILL)
    if processes.wait_gone([process], 5.0):
        raise Unavailable(f"{name} (process {process.pid}) does not end")
    say(f"killed {name}")


@dev.command()
@click.argument("name")
@directory_option
def pause(name: str, directory: Path | None) -> None:
    """Freeze a node (SIGSTOP): it holds its connections and answers nothing.

    \b
    Example:
      kvstore dev pause n2
    """
    _running(the_cluster(directory), name).send(signal.SIGSTOP)
    say(f"paused {name}; go on: kvstore dev resume {name}")


@dev.command()
@click.argument("name")
@directory_option
def resume(name: str, directory: Path | None) -> None:
    """Let a frozen node go on (SIGCONT).

    \b
    Example:
      kvstore dev resume n2
    """
    _running(the_cluster(directory), name).send(signal.SIGCONT)
    say(f"resumed {name}")


@dev.command()
@click.argument("name")
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(min=1), default=READY_S, help="In seconds. [30]"
)
@directory_option
def start(name: str, timeout_s: float, directory: Path | None) -> None:
    """Start a node that was killed, with the data it had, and wait until it is ready.

    \b
    Example:
      kvstore dev start n3
    """
    cluster = the_cluster(directory)
    node = cluster.node(name)
    with locked(cluster.directory):
        fresh = cluster.start(node)
        _wait_ready(cluster, [node], timeout_s)
    say(f"{name} is ready" if fresh else f"{name} runs already")


def _running(cluster: DevCluster, name: str) -> Process:
    process = cluster.process(cluster.node(name))
    if process is None or process.state() is State.GONE:
        raise Unavailable(f"{name} does not run", advice=f"start it: kvstore dev start {name}")
    return process


dev.add_command(logs)
