"""The clients that the contract runs against: the fake, and the real ones against real nodes.

`client` is an AsyncClient, or the synchronous Client behind the same calls: whatever it is, a test
awaits. Every test has buckets of its own, so that they can share nodes.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from threading import Thread
from typing import Any

import pytest

from kvstore.client import AsyncClient, Client
from kvstore.testing.cluster import LocalCluster
from kvstore.testing.fake import FakeClient

DEADLINE_S = 10.0
_names = itertools.count(1)


class Threaded:
    """A synchronous object whose methods are awaited: each call runs in a thread."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, name)
        if not callable(method):
            return method

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await asyncio.to_thread(method, *args, **kwargs)

        return call


class ThreadedBucket(Threaded):
    async def scan(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        for item in await asyncio.to_thread(lambda: list(self.inner.scan(*args, **kwargs))):
            yield item

    @asynccontextmanager
    async def batch(self, **kwargs: Any) -> AsyncIterator[Any]:
        """Collecting asks nobody; only entering and leaving the block does."""
        batch = self.inner.batch(**kwargs)
        entered = await asyncio.to_thread(batch.__enter__)
        try:
            yield entered
        except BaseException as error:
            await asyncio.to_thread(batch.__exit__, type(error), error, error.__traceback__)
            raise
        await asyncio.to_thread(batch.__exit__, None, None, None)


class ThreadedClient(Threaded):
    def bucket(self, *args: Any, **kwargs: Any) -> ThreadedBucket:
        return ThreadedBucket(self.inner.bucket(*args, **kwargs))


@pytest.fixture(scope="session")
def nodes() -> Iterator[list[str]]:
    """Three real nodes in a thread of their own, so that one start serves tests with loops of their own."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> LocalCluster:
        return await LocalCluster(nodes=3).__aenter__()

    cluster = asyncio.run_coroutine_threadsafe(start(), loop).result(30)
    yield cluster.endpoints
    asyncio.run_coroutine_threadsafe(cluster.close(), loop).result(30)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


@pytest.fixture(params=["fake", "asynchronous", "synchronous"])
async def client(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    if request.param == "fake":
        async with FakeClient() as fake:
            yield fake
        return
    nodes: list[str] = request.getfixturevalue("nodes")
    if request.param == "asynchronous":
        async with AsyncClient(nodes) as real:
            yield real
    else:
        with Client(nodes) as threaded:
            yield ThreadedClient(threaded)


@pytest.fixture
def bucket_name() -> str:
    return f"b{next(_names)}"


Until = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]


@pytest.fixture
def until(client: Any) -> Until:
    """Wait for a condition; for the fake, time passes by being moved."""

    async def wait(condition: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not await condition():
                if isinstance(client, FakeClient):
                    client.advance(0.01)
                await asyncio.sleep(0.01)

    return wait
