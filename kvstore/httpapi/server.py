"""The socket that clients connect to: start, drain, close."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Callable
from typing import Any, cast

from aiohttp import web

from kvstore.core.credential import Credentials
from kvstore.errors import ConfigError
from kvstore.httpapi.app import App
from kvstore.httpapi.connection import Connection, ConnectionPool, Refusal
from kvstore.httpapi.growth import Growth
from kvstore.httpapi.metrics import Metrics
from kvstore.httpapi.node_metrics import NodeMetrics
from kvstore.httpapi.service import Service
from kvstore.httpapi.tls_door import TlsDoor
from kvstore.httpapi.upkeep_metrics import UpkeepMetrics

_LINGER_S = 1.0  # reading on after an early answer, so that closing does not reset it away
_BACKLOG = 1024  # connections the kernel holds while the loop is busy

# libuv accepts one connection per listener and turn of the loop. When turns get long, new clients wait in
# the kernel until they give up, unheard and unshed (measured at three times the capacity: 1,225 of 1,750
# requests). So the one socket is listened to several times.
_ACCEPTS_PER_TURN = 8
_LAST_WRITE_S = 0.2  # for answers that are on their way out when the deadline passes


class HttpServer:
    """`metrics.registry` takes collectors of other rooms. `report`, `audit`: an event and its fields, to log.

    `credentials`: whose bearer tokens are let in; None for everybody.
    """

    def __init__(
        self,
        service: Service,
        *,
        credentials: Credentials | None = None,
        metrics: Metrics | None = None,
        report: Callable[..., None] = lambda event, **fields: None,
        audit: Callable[..., None] = lambda event, **fields: None,
    ) -> None:
        limits = service.limits
        self.metrics = metrics or Metrics()
        self.metrics.registry.register(NodeMetrics(service))
        UpkeepMetrics(service.upkeep.figures, self.metrics.registry)
        self._limits = limits
        self.growth = Growth(self.metrics.registry)
        self._app = App(
            service, self.metrics, self.growth, credentials=credentials, report=report, audit=audit
        )
        self._pool = ConnectionPool(
            connections_max=limits.connections_max,
            connections_per_address_max=limits.connections_per_address_max,
            header_timeout_s=limits.header_timeout_s,
            handle=self._app.handle,
            answer=self._app.answer,
            shed=self._shed_connection,
            swept=self._app.rates.refresh,
            report=report,
        )
        self.metrics.connections = lambda: len(self._pool.open)
        # A Reply is what aiohttp asks of a response, and no subclass of theirs (reply.py says why).
        self._manager = web.Server(cast(Any, self._app.handle), access_log=None)
        self._listeners: list[asyncio.Server] = []
        self._door: TlsDoor | None = None

    async def start(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> tuple[str, int]:
        """Listens; the bound address. Port 0 takes a free one. Raises ConfigError with the remedy."""
        loop = asyncio.get_running_loop()
        try:
            first = await loop.create_server(
                self._accept, host, port, backlog=_BACKLOG, start_serving=tls is None
            )
            self._listeners = [first]
            if tls is not None:
                self._door = TlsDoor(self._pool, self._accept, tls, self._limits.header_timeout_s)
                self._door.listen([bound.fileno() for bound in first.sockets], _BACKLOG)
            elif type(loop).__module__.startswith("uvloop"):
                for listening in first.sockets:
                    for _ in range(_ACCEPTS_PER_TURN - 1):
                        same = socket.socket(fileno=os.dup(listening.fileno()))
                        self._listeners.append(await loop.create_server(self._accept, sock=same))
        except (OSError, OverflowError) as error:
            raise _cannot_listen(host, port, error) from None
        bound = first.sockets[0].getsockname()
        return str(bound[0]), int(bound[1])

    def let_in(self, credentials: Credentials | None) -> None:
        """Holds from the next request on, on every connection."""
        self._app.authentication.credentials = credentials

    @property
    def is_degraded(self) -> bool:
        """Something is refused for want of room."""
        return self._app.admission.level > 0

    @property
    def connections(self) -> int:
        return len(self._pool.open)

    def bound_connections(self, most: int) -> None:
        """From now on no more than so many, and never more than the limits allow."""
        self._pool.connections_max = min(most, self._limits.connections_max)

    def drain(self) -> None:
        """Not ready from now on; each connection closes after its next answer."""
        self._app.draining = True

    async def close(self) -> None:
        """No new connections; what is in flight may finish within `drain_timeout_s`. Idempotent."""
        self.drain()
        if not self._listeners:
            return
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener.close()
        if self._door is not None:
            self._door.close()
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._limits.drain_timeout_s
        await self._app.finish(self._limits.drain_timeout_s)
        # aiohttp stops reading at this point, so it comes after bodies had their time to arrive.
        self._manager.pre_shutdown()
        await self._manager.shutdown(max(_LAST_WRITE_S, deadline_s - loop.time()))
        self._pool.stop()
        self._app.stop()

    def _accept(self) -> asyncio.Protocol:
        """Called for each connection."""
        pool = self._pool
        if pool.is_full:
            return Refusal(pool, "connections")
        return Connection(
            pool,
            self._manager,
            access_log=None,
            keepalive_timeout=self._limits.idle_timeout_s,
            lingering_time=_LINGER_S,
            auto_decompress=False,  # values are stored as sent; and no small body may become a large one
        )

    def _shed_connection(self, reason: str) -> None:
        self.metrics.sheds[reason] += 1


def _cannot_listen(host: str, port: int, error: Exception) -> ConfigError:
    code = error.errno if isinstance(error, OSError) else None
    where = f"{host}:{port}"
    if code == errno.EADDRINUSE:
        return ConfigError(
            f"{where} is in use",
            advice="stop what listens there, or set another http_listen (port 0: a free one)",
        )
    if code == errno.EACCES:
        return ConfigError(f"no permission to listen on {where}", advice="take a port above 1023")
    if code == errno.EADDRNOTAVAIL:
        return ConfigError(f"{where} is no address of this machine", advice="set http_listen to one that is")
    return ConfigError(f"cannot listen on {where}: {error}", advice="check http_listen")
