"""serve: run one node in this process."""

from __future__ import annotations

from typing import Any

import click

from kvstore.cli.options import SettingsCommand, settings_options, sources
from kvstore.cli.output import say
from kvstore.config import load


@click.command(cls=SettingsCommand)
@settings_options
def serve(**values: Any) -> None:
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
    """
    config = load(**sources(values))
    for warning in config.warnings:
        say(f"warning: {warning}")

    from kvstore.server import run  # the engine, the HTTP server and all: only when a node really starts

    click.get_current_context().exit(run(config))
