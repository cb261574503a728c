"""The command line: `kvstore VERB`, one file per group of verbs, each loaded when it is typed.

app.py          the verbs, and what an error looks like and exits with
output.py       data to stdout as text or JSON, talk to stderr, exit codes
nodes.py        which cluster a verb talks to
data.py         get, put, delete, scan
cluster.py      status, explain
bucket.py       bucket list, show, set
bulk_import.py  import; bulk_export.py export; records.py the lines of both
serve.py        serve; serve_many.py several nodes of one host
bench.py        bench run, compare, report
settings.py     config show, config check, keygen
health.py       healthcheck
dev.py          dev up, down, …; dev_cluster.py what it starts, processes.py how it is sure of them
demo.py         demo
"""

from __future__ import annotations

import sys

NO_CLICK = "kvstore's command line needs the server extra: pip install 'quorum-kvstore[server]'"


def main() -> None:
    """The `kvstore` command. Exits with the codes of output.py."""
    try:
        import click  # noqa: F401
    except ModuleNotFoundError:
        sys.stderr.write(NO_CLICK + "\n")
        sys.exit(2)
    from kvstore.cli.app import app

    app(prog_name="kvstore")
