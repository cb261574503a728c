"""pytest fixtures: `kv_cluster`, three nodes in this process, and `kv_client`, connected to them.

Both are made anew for each test. They are asynchronous: with pytest-asyncio in auto mode a test just
takes them as arguments. A cluster of another shape is `LocalCluster(...)` in a fixture of your own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest_asyncio

if TYPE_CHECKING:
    from kvstore.client import AsyncClient
    from kvstore.testing.cluster import LocalCluster


@pytest_asyncio.fixture
async def kv_cluster() -> AsyncIterator[LocalCluster]:
    """Three nodes with N=3, in memory."""
    from kvstore.testing.cluster import LocalCluster

    async with LocalCluster(nodes=3) as cluster:
        yield cluster


@pytest_asyncio.fixture
async def kv_client(kv_cluster: LocalCluster) -> AsyncIterator[AsyncClient]:
    """A client of `kv_cluster`."""
    from kvstore.client import AsyncClient

    async with AsyncClient(kv_cluster.endpoints) as client:
        yield client
