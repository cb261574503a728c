"""serve --processes N: N nodes of one host, one process each, under one signal.

A node is one process and uses one core; a machine with more cores runs more nodes. They share the failure
domain `host`, so that no two copies of a key lie on them while there is another host.

The first that ends by itself ends all, with its exit code: restarting is the business of whoever runs this
one process, and loses no more at once than the machine would.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from kvstore.cli.output import say
from kvstore.config import FIELDS, Config, is_wildcard, split_address
from kvstore.config.sources import Settings
from kvstore.errors import ConfigError

PORT_MAX = 65_535
_IN_USE = "process.lock"  # of storage/directory.py
_ADDRESSES = ("http_listen", "rpc_listen", "advertise_http", "advertise_rpc")


def expected(settings: Settings, count: int) -> dict[str, Any]:
    """Flags that follow from there being `count` nodes here, unless somebody set them. Raises ConfigError."""
    if settings["bootstrap_expect"].origin != "default":
        return {}
    if settings["seeds"].value:
        raise ConfigError(
            f"{count} nodes here and seeds elsewhere: how many nodes are there together?",
            advice="set bootstrap_expect to the number of nodes of all hosts",
        )
    return {"bootstrap_expect": count}


def settings_of(config: Config, count: int) -> list[dict[str, Any]]:
    """What each node is told beside the settings of all: name, directory, ports, and the others as seeds.

    Ports are `count` in a row from the configured ones on. Raises ConfigError.
    """
    node = config.node
    if (node.data_dir / _IN_USE).exists():
        raise ConfigError(
            f"data_dir {node.data_dir} is that of one node; each of {count} has its own below it",
            advice=f"move that node's to {node.data_dir / '1'}, or name another directory",
        )
    ranges = {}
    for key in ("http_listen", "rpc_listen"):
        _, port = split_address(getattr(node, key))
        if port == 0:
            raise ConfigError(
                f"{key} has port 0: {count} nodes need ports that they can name to each other",
                advice=f"set {key} to a port; the {count} from there on are taken",
            )
        if port + count - 1 > PORT_MAX:
            raise ConfigError(
                f"{key}: {count} ports from {port} on end above {PORT_MAX}", advice="begin lower"
            )
        ranges[key] = range(port, port + count)
    http, rpc = ranges["http_listen"], ranges["rpc_listen"]
    if http[0] <= rpc[-1] and rpc[0] <= http[-1]:
        raise ConfigError(
            f"http_listen takes the ports {http[0]} to {http[-1]} and rpc_listen {rpc[0]} to {rpc[-1]}",
            advice=f"put {count} ports between them",
        )
    found = []
    for i in range(count):
        own = {
            "name": f"{node.name}-{i + 1}",
            "host": node.host or node.name,
            "data_dir": str(node.data_dir / str(i + 1)),
        }
        found.append(own | {key: _moved(getattr(node, key), i) for key in _ADDRESSES if getattr(node, key)})
    local = [own.get("advertise_rpc") or _reachable(own["rpc_listen"]) for own in found]
    return [own | {"seeds": ",".join([*local, *node.seeds])} for own in found]


def _moved(address: str, by: int) -> str:
    host, _, port = address.rpartition(":")
    return f"{host}:{int(port) + by}"


def _reachable(address: str) -> str:
    host, port = split_address(address)
    return f"127.0.0.1:{port}" if is_wildcard(host) else address


def commands(
    file: Path | None, flags: Mapping[str, Any], own: Sequence[Mapping[str, Any]]
) -> list[list[str]]:
    """One command line per node. Secrets are no flags: they stay in the environment or the file."""
    start = [sys.executable, "-m", "kvstore", "serve"] + (["--config", str(file)] if file else [])
    found = []
    for each in own:
        values = dict(flags) | dict(each)
        found.append(
            [*start, *(word for key, value in values.items() for word in (FIELDS[key].flag, str(value)))]
        )
    return found


def run_all(commands: Sequence[Sequence[str]], names: Sequence[str]) -> int:
    """Until SIGTERM or SIGINT, which all get, or until one ends by itself.

    Returns the exit code of the first that failed, 0 if all were stopped and none did.
    """
    return asyncio.run(_run_all(commands, names))


async def _run_all(commands: Sequence[Sequence[str]], names: Sequence[str]) -> int:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    children: list[asyncio.subprocess.Process] = []
    try:
        for command in commands:
            child = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL)
            children.append(child)  # at once: if a later one cannot be started, this one must be stopped
        ends = [asyncio.ensure_future(child.wait()) for child in children]
        stopped = asyncio.ensure_future(stop.wait())
        await asyncio.wait([stopped, *ends], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        first = next(((n, e.result()) for n, e in zip(names, ends, strict=True) if e.done()), None)
    finally:
        for child in children:
            if child.returncode is None:
                with suppress(ProcessLookupError):
                    child.terminate()
    codes = [_exit_code(code) for code in await asyncio.gather(*ends)]
    if first is not None and not stop.is_set():
        name, code = first
        say(f"error: node {name} ended with exit code {_exit_code(code)}; the others were stopped")
        return _exit_code(code) or 1
    return next((code for code in codes if code), 0)


def _exit_code(code: int) -> int:
    """As a shell has it: 128 and the number of the signal."""
    return 128 - code if code < 0 else code
