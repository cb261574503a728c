"""The composition root: the only file that knows every part, and the order in which they start and stop.

Start: storage, node, peer socket, client socket, then the node's loops; a node that listens but has no
layout answers 503. Stop: not ready, no new clients, requests in flight end, peers are let go, the loops
end, the storage is synced and marked as cleanly closed.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import secrets
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from kvstore.config import Config, split_address
from kvstore.config.watch import FileWatch
from kvstore.core.membership import Member
from kvstore.core.token import token_key
from kvstore.core.watermarks import Mark
from kvstore.errors import ConfigError, CorruptRecord, KVStoreError
from kvstore.httpapi import HttpServer
from kvstore.logs import audit_log, configure_logging, get_logger
from kvstore.machine import Watch, check_budgets
from kvstore.node.cluster_view import ClusterView
from kvstore.node.node import Node
from kvstore.node.ports import Storage
from kvstore.rpc.identity import Identity
from kvstore.rpc.peer_client import PeerClient
from kvstore.rpc.peer_server import PeerServer
from kvstore.storage.directory import START_EMPTY
from kvstore.storage.memory import MemoryDisk, MemoryStorage
from kvstore.storage.rocksdb import RocksStorage

RELOAD_S = 2.0
LOOK_S = 0.5
EXIT_DISK_FAILED = 74  # EX_IOERR of sysexits.h

# A node allocates few cycles and many short-lived values: the default threshold of 700 spent 4 % of a
# loaded node's time in collections that found nothing. With 50,000 one that found something took 60 ms.
_GC_THRESHOLD = 10_000


# The thread that syncs needs the interpreter twice for each group. While the loop is busy it waits for
# it as long as this each time: with the default of 5 ms a put took 33 ms beside listings instead of 7.
_SWITCH_S = 0.0005


class SystemClock:
    """ports.WallClock of this machine."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    elapsed_s = staticmethod(time.perf_counter)


class SystemRandom:
    """ports.Random of this machine: identities from the kernel, jitter from a generator seeded there."""

    def __init__(self) -> None:
        self._jitter = random.Random(secrets.randbits(64))  # noqa: S311  jitter is no secret

    def bits(self, purpose: str, count: int) -> int:
        return secrets.randbits(count)

    def uniform(self, purpose: str, low: float, high: float) -> float:
        return self._jitter.uniform(low, high)


class NodeServer:
    """One node with its sockets. `storage` replaces the engine in `config.node.data_dir`."""

    def __init__(self, config: Config, *, storage: Storage | None = None) -> None:
        self.config = config
        self.rpc_address = self.http_address = ""
        self.failed: asyncio.Future[KVStoreError]
        self.node: Node
        self._storage = storage
        security = config.security
        self._certificates = (security.http_certificates(), security.rpc_certificates())
        self._log = get_logger(node=config.node.name)

    @property
    def url(self) -> str:
        return f"{'https' if self._certificates[0] is not None else 'http'}://{self.http_address}"

    async def start(self) -> None:
        """Returns when both sockets listen. Raises ConfigError, StorageError; then nothing is left open."""
        self.failed = asyncio.get_running_loop().create_future()
        undo: list[Callable[[], Awaitable[Any]]] = []
        try:
            await self._start(undo)
        except BaseException as error:
            for step in reversed(undo):
                await step()
            if isinstance(error, CorruptRecord):  # of the node about itself
                path = self.config.node.data_dir
                raise ConfigError(f"data directory {path} is damaged ({error}): {START_EMPTY}") from None
            raise

    async def _start(self, undo: list[Callable[[], Awaitable[Any]]]) -> None:
        config, limits = self.config, self.config.limits
        http_tls, rpc_tls = self._certificates
        storage = self._storage or RocksStorage(config.node.data_dir, cache_bytes=config.node.cache_bytes)
        undo.append(storage.close)
        chance = SystemRandom()
        view = ClusterView.open(storage, self._describe(), config.node.recover_as)
        identity = Identity(
            view.me.node_id, config.security.cluster_key, view.me.incarnation, lambda: view.cluster_id
        )
        self._peers = PeerClient(
            identity,
            uniform=lambda low, high: chance.uniform("reconnect", low, high),
            limits=limits,
            report=self._report,
            on_twin=self._refused_as_twin,
            tls=rpc_tls.client if rpc_tls is not None else None,
        )
        await self._peers.start()
        undo.append(self._peers.close)
        self.node = Node(
            storage=storage,
            peers=self._peers,
            wall=SystemClock(),
            random=chance,
            view=view,
            signing_key=token_key(config.security.cluster_key),
            defaults=config.bucket,
            limits=limits,
            seeds=config.node.seeds,
            bootstrap_expect=config.node.bootstrap_expect,
            fatal=self._fatal,
            report=self._report,
        )
        self._peer_server = PeerServer(identity, self.node.serve, limits=limits, report=self._report)
        bound_rpc = await self._peer_server.start(
            config.node.rpc_listen, rpc_tls.server if rpc_tls is not None else None
        )
        undo.append(self._peer_server.close)
        self._http = HttpServer(
            self.node,
            credentials=config.security.credentials(),
            report=self._report,
            audit=audit_log(node=config.node.name),
        )
        self.node.pace.foreground = self._http.metrics.served
        self.node.pace.gives_way = self._has_no_room
        host, port = split_address(config.node.http_listen)
        bound_http = join_address(
            *await self._http.start(host, port, http_tls.server if http_tls is not None else None)
        )
        undo.append(self._http.close)
        self.rpc_address = config.node.advertise_rpc or bound_rpc
        self.http_address = config.node.advertise_http or bound_http
        view.announce(self.rpc_address, self.http_address)
        await self.node.start()
        self._loops = [asyncio.ensure_future(self._reload()), asyncio.ensure_future(self._watch())]
        self._log.info(
            "serving",
            node_id=view.me.node_id,
            http=self.http_address,
            rpc=self.rpc_address,
            incarnation=view.me.incarnation,
        )

    def _describe(self) -> Member:
        """Who this node will be if its data directory is new; where it is found is known once it is bound."""
        node = self.config.node
        return Member(
            secrets.token_hex(16), node.name, "", "", node.zone, node.host or node.name, node.weight
        )

    async def stop(self) -> None:
        """Drain, then stop everything in the order of the module's docstring."""
        for loop in self._loops:
            loop.cancel()
        self.node.drain()
        self._http.drain()
        await self._http.close()
        await self._peer_server.close()
        await self.node.stop()
        await self._peers.close()
        self._log.info("stopped")

    def _has_no_room(self) -> bool:
        return self._http.is_degraded or self._http.growth.mark >= Mark.NO_GROWTH

    async def _watch(self) -> None:
        """Descriptors, memory and disk, as long as the node runs."""
        http, config = self._http, self.config
        watch = Watch(config.limits, None if self._storage else config.node.data_dir, self._report)
        while True:
            looked = watch.look(http.connections)
            http.growth.set(looked.marks, looked.whys)
            http.growth.gauges = {
                "descriptors_open": ("Files and sockets that are open", looked.usage.descriptors_open),
                "descriptors_max": ("How many may be", looked.usage.descriptors_max),
                "memory_resident_bytes": ("Memory of the process", looked.usage.memory_bytes),
                "memory_max_bytes": ("How much it may be, 0: any", looked.usage.memory_max_bytes),
                "disk_free_bytes": ("Free on the disk of the data directory", looked.usage.disk_free_bytes),
            }
            http.bound_connections(looked.connections_max)
            await asyncio.sleep(LOOK_S)

    async def _reload(self) -> None:
        """What may change without a restart. A file that is wrong, or away, changes nothing."""
        security = self.config.security
        watched: list[tuple[str, FileWatch, Callable[[], None]]] = []
        if security.client_tokens_file is not None:
            tokens = FileWatch((security.client_tokens_file,))
            watched.append(("client tokens", tokens, lambda: self._http.let_in(security.credentials())))
        with_tls = [c for c in self._certificates if c is not None]
        watched += [("certificates", FileWatch(c.files), c.reload) for c in with_tls]
        while watched:
            await asyncio.sleep(RELOAD_S)
            for what, watch, load in watched:
                if not watch.changed():
                    continue
                try:
                    load()
                except ConfigError as error:
                    self._report(f"{what} not reloaded", reason=error.detail, advice=error.advice)
                else:
                    self._log.info(f"{what} reloaded")

    def _fatal(self, error: KVStoreError) -> None:
        if not self.failed.done():
            self.failed.set_result(error)

    def _refused_as_twin(self, text: str) -> None:
        error = ConfigError(
            f"another process runs with this node's identity: {text}",
            advice="stop it, or start this one with an empty data directory and another address",
        )
        self._fatal(error)

    def _report(self, event: str, **fields: Any) -> None:
        self._log.warning(event, **fields)


def join_address(host: str, port: int) -> str:
    """host:port, IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def memory_storage(disk: MemoryDisk | None = None) -> MemoryStorage:
    """Storage on a disk in memory, which outlives it: for clusters that live as long as a test."""
    return MemoryStorage(disk)


def run(config: Config) -> int:
    """Serve until SIGTERM or SIGINT; the exit code of the process. Raises ConfigError, StorageError."""
    configure_logging(config.log.level, config.log.format)
    for warning in check_budgets(config.limits, config.node.cache_bytes):
        get_logger(node=config.node.name).warning("budget", reason=warning)
    with asyncio.Runner(loop_factory=_loop_factory(config.node.event_loop)) as runner:
        return runner.run(_serve(config))


async def _serve(config: Config) -> int:
    server = NodeServer(config)
    await server.start()
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD, 20, 20)
    sys.setswitchinterval(_SWITCH_S)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait((stopped, server.failed), return_when=asyncio.FIRST_COMPLETED)
    if server.failed.done():
        error = server.failed.result()
        if isinstance(error, ConfigError):
            raise error  # not stopped cleanly: a next run on this directory makes new replica ids
        get_logger(node=config.node.name).critical("disk failed, stopping at once", reason=str(error))
        # Not by way of close(): that would sync again, and a second fsync may claim what the first lost.
        os._exit(EXIT_DISK_FAILED)
    await server.stop()
    return 0


def _loop_factory(wanted: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is installed, unless the settings say otherwise."""
    if wanted == "asyncio":
        return None
    try:
        import uvloop
    except ImportError:
        if wanted == "uvloop":
            raise ConfigError("event_loop=uvloop, but uvloop is not installed: pip install uvloop") from None
        return None
    return uvloop.new_event_loop
