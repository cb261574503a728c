"""serve: run one node in this process, or several of this host, one process each."""

from __future__ import annotations

from typing import Any

import click

from kvstore.cli.options import SettingsCommand, settings_options, sources
from kvstore.cli.output import say
from kvstore.config import load

PROCESSES_MAX = 64


@click.command(cls=SettingsCommand)
@settings_options
@click.option(
    "--processes",
    type=click.IntRange(1, PROCESSES_MAX),
    default=1,
    metavar="N",
    help="Run N nodes of this host, one per core: names, directories and ports are numbered. [1]",
)
def serve(processes: int, **values: Any) -> None:
    """Run one node until SIGTERM or SIGINT.

    Settings come from flags, then KVSTORE_* variables, then the file, then defaults; `kvstore config
    show` tells which. Contradictions are refused before anything is opened.

    \b
    A node of its own, for a look around:
      kvstore keygen cluster.key
      kvstore serve --data-dir data --cluster-key-file cluster.key --n 1 --bootstrap-expect 1
    One of three:
      kvstore serve --config /etc/kvstore.toml --name n1 --seeds n2:9001,n3:9001
    The same after its disk was lost, on an empty data directory; the other nodes know its id:
      kvstore serve --config /etc/kvstore.toml --name n1 --recover-as 6f1c2a90b7d34e5f8a1b2c3d4e5f6071
    Four nodes of one machine, on the ports 8001 to 8004 and 9001 to 9004:
      kvstore serve --data-dir data --cluster-key-file cluster.key --processes 4

    Nodes of one machine are one failure domain: copies of a key go to other hosts while there are any.
    Caches are per node: divide cache_bytes.
    """
    told = sources(values)
    if processes > 1:
        click.get_current_context().exit(_serve_many(processes, told))
    config = load(**told)
    for warning in config.warnings:
        say(f"warning: {warning}")

    from kvstore.server import run  # the engine, the HTTP server and all: only when a node really starts

    click.get_current_context().exit(run(config))


def _serve_many(count: int, told: dict[str, Any]) -> int:
    from kvstore.cli.serve_many import commands, expected, run_all, settings_of
    from kvstore.config.sources import read_settings

    told["flags"] |= expected(read_settings(**told)[0], count)
    config = load(**told)
    for warning in config.warnings:
        say(f"warning: {warning}")
    own = settings_of(config, count)
    return run_all(commands(told["file"], told["flags"], own), [each["name"] for each in own])
