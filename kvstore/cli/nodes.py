"""Which cluster a verb talks to, and the questions that are not about data."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click

from kvstore.cli.dev_cluster import find
from kvstore.errors import ConnectError, Unavailable

DEFAULT = "http://127.0.0.1:8001"
TIMEOUT_S = 5.0
NOBODY = "start a cluster with `kvstore dev up`, or name its nodes with --nodes or KVSTORE_NODES"
_BODY_BYTES_MAX = 64 << 20

_Command = TypeVar("_Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Target:
    """`nodes`: base URLs, separated by commas. `origin`: who named them. `timeout_s` None: as usual."""

    nodes: str
    origin: str
    timeout_s: float | None

    @property
    def token(self) -> str | None:
        return os.environ.get("KVSTORE_CLIENT_TOKEN") or None

    @property
    def urls(self) -> tuple[str, ...]:
        """Raises ConfigError for what is no URL."""
        from kvstore.client.endpoints import origins

        return origins(self.nodes, {})


def target_options(command: _Command) -> _Command:
    """--nodes and --timeout, which `target` takes."""
    nodes = click.option(
        "--nodes",
        metavar="URLS",
        help="Base URLs, separated by commas. Else KVSTORE_NODES; else the cluster of `kvstore dev` "
        f"in this directory or above; else {DEFAULT}.",
    )
    timeout = click.option(
        "--timeout", "timeout_s", type=click.FloatRange(min=0.001), help="For each request, in seconds."
    )
    return nodes(timeout(command))


def target(nodes: str | None, timeout_s: float | None) -> Target:
    """Raises ConfigError for what is no URL, before anything is done."""
    found = _target(nodes, timeout_s)
    assert found.urls
    return found


def _target(nodes: str | None, timeout_s: float | None) -> Target:
    if nodes:
        return Target(nodes, "--nodes", timeout_s)
    if named := os.environ.get("KVSTORE_NODES"):
        return Target(named, "KVSTORE_NODES", timeout_s)
    if cluster := find(Path.cwd()):
        return Target(cluster.urls, str(cluster.directory), timeout_s)
    return Target(DEFAULT, "default", timeout_s)


@contextmanager
def in_reach(where: Target) -> Iterator[None]:
    """Says of the client's ConnectError where its nodes were named, and what to do."""
    try:
        yield
    except ConnectError as error:
        if not error.advice:
            error.advice = f"nodes named by {where.origin}: {where.nodes}; {NOBODY}"
        raise


def ask(target: Target, method: str, path: str, body: Any = None) -> Any:
    """The JSON that the first node in reach answers with. Raises as `ask_one`."""
    return ask_one(target, method, path, body)[1]


def ask_one(target: Target, method: str, path: str, body: Any = None) -> tuple[str, Any]:
    """(URL of the first node in reach, the JSON it answers with), for what goes on with the same node.

    Raises ConnectError if none is, ConfigError for a URL that is none, and what a node's problem says.
    """
    unreachable: list[str] = []
    not_ready: Unavailable | None = None
    for url in target.urls:
        try:
            timeout_s = target.timeout_s or TIMEOUT_S
            return url, ask_node(url, method, path, body, timeout_s=timeout_s, token=target.token)
        except ConnectError as error:
            unreachable.append(str(error))
        except Unavailable as error:
            if error.outcome == "unknown":
                raise
            not_ready = error
    if not_ready is not None:
        raise not_ready
    named = f"; nodes named by {target.origin}" if target.origin != "default" else ""
    raise ConnectError(f"no node in reach: {'; '.join(unreachable)}{named}", advice=NOBODY)


def ask_node(url: str, method: str, path: str, body: Any, *, timeout_s: float, token: str | None) -> Any:
    """The same of one node."""
    from kvstore.client.problems import failed
    from kvstore.client.retry import Effect

    parts = urlsplit(url)
    assert parts.hostname
    headers = {"Accept": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    content = None
    if body is not None:
        content = json.dumps(body).encode()
        headers["Content-Type"] = "application/json"
    connection = (HTTPSConnection if parts.scheme == "https" else HTTPConnection)(
        parts.hostname, parts.port, timeout=timeout_s
    )
    try:
        connection.connect()
    except OSError as error:
        connection.close()
        raise ConnectError(f"{url}: {error.strerror or error}") from None
    try:
        connection.request(method, path, content, headers)
        answer = connection.getresponse()
        document = answer.read(_BODY_BYTES_MAX)
    except (OSError, HTTPException) as error:
        # Setting properties is an update to fixed values: sent again, it is the same.
        raise Unavailable(
            f"{url} broke off: {str(error) or type(error).__name__}",
            outcome="failed" if method == "GET" else "unknown",
        ) from None
    finally:
        connection.close()
    if answer.status not in (200, 202):
        lower = {name.lower(): value for name, value in answer.getheaders()}
        effect = Effect.READ if method == "GET" else Effect.WRITE
        raise failed(effect, answer.status, lower, document, url).error
    try:
        return json.loads(document)
    except ValueError:
        raise Unavailable(
            f"{url} answered {method} {path} with something else than JSON",
            advice="is this the HTTP address of a kvstore node?",
        ) from None
