"""What the tests of the command line share: a way to type, and a place of its own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import pytest
from click.testing import CliRunner, Result

from kvstore.cli.app import app
from kvstore.testing.cluster import LocalCluster

Type = Callable[..., Result]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """An empty directory, and nothing in the environment that could name a cluster or a setting."""
    before, environment = Path.cwd(), dict(os.environ)
    os.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("KVSTORE_")]:
        del os.environ[name]
    yield tmp_path
    os.chdir(before)
    os.environ.clear()
    os.environ.update(environment)


@pytest.fixture
def type_(place: Path) -> Type:
    """`type_("put", "b", "k", "v", stdin=..., KVSTORE_N="1")`: what a shell would get."""

    def run(*arguments: str, stdin: str | bytes | None = None, **environment: str) -> Result:
        result = CliRunner().invoke(app, arguments, input=stdin, env=environment, prog_name="kvstore")
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return run


@pytest.fixture(scope="session")
def node() -> Iterator[str]:
    """The URL of a node of its own, in a thread of this process: what verbs talk to is the real thing."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever)
    thread.start()

    async def started() -> LocalCluster:
        return await LocalCluster(nodes=1).__aenter__()

    cluster = asyncio.run_coroutine_threadsafe(started(), loop).result(30)
    yield cluster.endpoints[0]
    asyncio.run_coroutine_threadsafe(cluster.close(), loop).result(30)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def kv(type_: Type, node: str) -> Type:
    """`type_` in a shell that knows the node."""

    def run(*arguments: str, **keywords: str) -> Result:
        return type_(*arguments, **{"KVSTORE_NODES": node} | keywords)

    return run
