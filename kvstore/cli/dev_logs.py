"""dev logs: what the nodes of a local cluster logged."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path

import click

from kvstore.cli.dev_cluster import DIRECTORY, DevCluster, find

LINES = 20
POLL_S = 0.1

directory_option = click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory of the cluster; else .dev here or in the nearest directory above.",
)


def the_cluster(directory: Path | None) -> DevCluster:
    return (None if directory else find(Path.cwd())) or DevCluster.open(directory or DIRECTORY)


@click.command()
@click.argument("name", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option("-n", "--lines", type=click.IntRange(0, 100_000), default=LINES, help="Of each node. [20]")
@directory_option
def logs(name: str | None, follow: bool, lines: int, directory: Path | None) -> None:
    """What the nodes logged, or one of them.

    \b
    Example:
      kvstore dev logs
      kvstore dev logs n3 -f
    """
    cluster = the_cluster(directory)
    nodes = [cluster.node(name)] if name else cluster.nodes
    places = {}
    for node in nodes:
        file = cluster.log(node)
        places[node.name] = file.stat().st_size if file.exists() else 0
        for line in tail(file, lines):
            click.echo(f"{node.name} | {line}")
    while follow:
        for node in nodes:
            places[node.name] = _print_from(cluster.log(node), places[node.name], node.name)
        time.sleep(POLL_S)


def tail(file: Path, count: int) -> list[str]:
    if not file.exists():
        return []
    with file.open(encoding="utf-8", errors="replace") as stream:
        return [line.rstrip("\n") for line in deque(stream, maxlen=count)]


def _print_from(file: Path, place: int, name: str) -> int:
    """Print the whole lines after byte `place`; the place to go on from."""
    if not file.exists():
        return 0
    with file.open("rb") as stream:
        place = 0 if stream.seek(0, 2) < place else place  # the cluster was wiped and made again
        stream.seek(place)
        whole = stream.read().rpartition(b"\n")[0]
    for line in whole.decode("utf-8", "replace").splitlines():
        click.echo(f"{name} | {line}")
    return place + len(whole) + 1 if whole else place
