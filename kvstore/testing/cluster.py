"""A whole cluster in one process: real nodes, real sockets on loopback, ports taken as they are free.

    async with LocalCluster(nodes=3) as cluster:
        async with AsyncClient(cluster.endpoints) as kv:
            await kv.bucket("users").put("ann", {"friends": ["bob"]})
            await cluster.stop("n3")       # and see what your code does with two of three
            await cluster.start("n3")

Data live in memory unless a directory is given; either way a node that is started again finds what it
had synced.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from secrets import token_hex
from types import TracebackType
from typing import Any

from kvstore.config import Config, load
from kvstore.errors import ConfigError
from kvstore.server import NodeServer, memory_storage

START_S = 10.0


class LocalCluster:
    """`nodes` nodes named n1, n2, … in as many zones as `zones`, with N = min(3, nodes).

    Settings are those of the configuration file, for every node: `LocalCluster(nodes=5, r=1)`.
    """

    def __init__(
        self, nodes: int = 3, *, zones: int = 1, data_dir: Path | None = None, **settings: Any
    ) -> None:
        if nodes < 1:
            raise ConfigError(f"nodes={nodes}: a cluster has at least one")
        self.names = [f"n{i + 1}" for i in range(nodes)]
        self._zones = zones
        self._data_dir = data_dir
        self._settings = {"n": min(3, nodes), "cluster_key": token_hex(32), **settings}
        self._storages = {name: memory_storage() for name in self.names}
        self._addresses: dict[str, tuple[str, str]] = {}
        self.running: dict[str, NodeServer] = {}

    @property
    def endpoints(self) -> list[str]:
        """Base URLs of all nodes that run, for AsyncClient and Client."""
        return [server.url for server in self.running.values()]

    async def __aenter__(self) -> LocalCluster:
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self.close)
            for name in self.names:
                await self.start(name)
            await self.ready()
            undo.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self, name: str, **settings: Any) -> NodeServer:
        """Start a node, or start it again at the address it had. `settings`: of this start alone."""
        server = NodeServer(
            self._config(name, settings), storage=None if self._data_dir else self._storages[name]
        )
        await server.start()
        self._addresses[name] = (server.rpc_address, server.http_address)
        self.running[name] = server
        return server

    async def stop(self, name: str) -> None:
        """Stop a node as SIGTERM would: requests in flight end, what is applied is synced."""
        server = self.running.pop(name)
        await server.stop()
        if self._data_dir is None:
            self._storages[name] = memory_storage(self._storages[name].disk)

    async def ready(self) -> None:
        """Returns when every running node serves. Raises TimeoutError with what is missing."""
        try:
            async with asyncio.timeout(START_S):
                while not all(ok for s in self.running.values() for _, ok, _ in s.node.readiness()):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        except TimeoutError:
            missing = {name: server.node.readiness() for name, server in self.running.items()}
            raise TimeoutError(f"not ready after {START_S} s: {missing}") from None

    async def close(self) -> None:
        """Stop what runs. Idempotent."""
        for name in list(self.running):
            await self.stop(name)

    def _config(self, name: str, settings: dict[str, Any]) -> Config:
        index = self.names.index(name)
        rpc, http = self._addresses.get(name, ("127.0.0.1:0", "127.0.0.1:0"))
        seeds = [addresses[0] for other, addresses in self._addresses.items() if other != name]
        values: dict[str, Any] = {
            "name": name,
            "zone": f"z{index % self._zones + 1}",
            "host": name,
            "rpc_listen": rpc,
            "http_listen": http,
            "seeds": seeds,
            "bootstrap_expect": len(self.names),
            "data_dir": str((self._data_dir or Path()) / name),
            **self._settings,
            **settings,
        }
        return load({key: value for key, value in values.items() if value != []})
