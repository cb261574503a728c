"""The side that answers: listens, lets peers in that prove themselves, drains before it stops."""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from kvstore.core.generation import is_twin
from kvstore.core.limits import DEFAULT_LIMITS, Limits
from kvstore.core.membership import NodeId
from kvstore.errors import ConfigError
from kvstore.rpc.connection import LINGER_S, Connection, address_of, split_address
from kvstore.rpc.handshake import Admit, Handshake, HandshakeFailed
from kvstore.rpc.identity import Identity
from kvstore.rpc.reporting import RateLimited, Report, report_nothing
from kvstore.rpc.session import Handler, Session

STRANGERS_MAX = 128
"""Connections that have not proved themselves yet; further ones are closed unheard."""

TLS_SLACK_S = 0.5
"""How much later than TLS gave up at the latest its connections are forgotten."""

_REMEDIES = {
    errno.EADDRINUSE: "another process listens there (this node, twice?): stop it or choose another port",
    errno.EADDRNOTAVAIL: "no interface of this machine has that address: choose one that it has",
    errno.EACCES: "ports below 1024 take privileges: choose a higher one",
}


class ServerStats(NamedTuple):
    """`expired`: requests nobody waited for any more. `dropped`: replies to peers that do not read."""

    peers: int
    in_flight: int
    expired: int
    dropped: int


class PeerServer:
    """Calls `handler` for every request of a proven peer.

    A handler answers at once or returns a future; a KVStoreError it raises travels to the caller, any
    other exception becomes InternalError there and is reported here; the connection lives on in both
    cases. A second process of a node is refused while the first is heard. `admit(node, incarnation)` may
    refuse a peer that knows the key, with the reason it returns.
    `report(event, **fields)` is told of trouble, rate limited.
    """

    def __init__(
        self,
        identity: Identity,
        handler: Handler,
        *,
        limits: Limits = DEFAULT_LIMITS,
        admit: Admit | None = None,
        report: Report = report_nothing,
    ) -> None:
        self._identity, self.handler, self._limits = identity, handler, limits
        self._admit, self._report = admit, report
        self._loop: asyncio.AbstractEventLoop
        self._limited: RateLimited
        self._server: asyncio.Server | None = None
        self._sessions: set[Session] = set()
        self._accepted = 0
        self._oldest: dict[NodeId, int] = {}  # connections before this one count no more
        self._changed: asyncio.Future[None] | None = None
        self.draining = False
        self.expired = 0
        self.dropped = 0

    async def start(self, address: str, tls: ssl.SSLContext | None = None) -> str:
        """Listens on host:port and returns where (port 0: any free one). Raises ConfigError."""
        self._loop = asyncio.get_running_loop()
        self._limited = RateLimited(self._report, self._loop.time)
        try:
            host, port = split_address(address)
            accept, options = self._accept, dict[str, Any]()
            if tls is not None:
                accept = self._accept_tls
                options = {"ssl": tls, "ssl_handshake_timeout": self._limits.connect_timeout_s}
            self._server = await self._loop.create_server(accept, host, port, **options)
        except ValueError as error:
            raise ConfigError(f"cannot listen for peers: {error}") from None
        except OSError as error:
            remedy = _REMEDIES.get(error.errno or 0, "check the address for peers")
            raise ConfigError(f"cannot listen for peers on {address}: {error}; {remedy}") from None
        return address_of(self._server.sockets[0].getsockname())

    async def close(self, drain_timeout_s: float | None = None) -> None:
        """Refuses new work, lets work in hand finish for at most so long, then closes. Idempotent."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        self.draining = True
        drain_s = self._limits.drain_timeout_s if drain_timeout_s is None else drain_timeout_s
        await self._until(self._is_idle, drain_s)
        for session in list(self._sessions):
            session.connection.close("this node is stopping")
        await self._until(lambda: not self._sessions, LINGER_S * 2)
        await server.wait_closed()

    def stats(self) -> ServerStats:
        return ServerStats(
            sum(1 for session in self._sessions if session.node),
            sum(session.in_flight for session in self._sessions),
            self.expired,
            self.dropped,
        )

    def peers(self) -> set[NodeId]:
        """Who is connected to this node."""
        return {session.node for session in self._sessions if session.node}

    def _accept(self) -> Connection:
        self._accepted += 1
        session = Session(self, self._loop, self._limits, self._accepted)
        session.connection = Connection(
            self._loop,
            Handshake(self._identity, client=False, admit=self._admit, is_twin=self._is_twin),
            session,
            self._limits,
            handshake_timeout_s=self._limits.connect_timeout_s,
        )
        strangers = sum(1 for known in self._sessions if not known.node)
        if strangers >= STRANGERS_MAX or len(self._sessions) >= self._limits.connections_max:
            session.connection.abort()
            self._limited(
                "peer not heard", "", reason="too many connections", connections=len(self._sessions)
            )
        else:
            self._sessions.add(session)
        return session.connection

    def _accept_tls(self) -> Connection:
        """A connection of which TLS makes nothing is never made, and nobody tells that it is lost."""
        connection = self._accept()
        self._loop.call_later(self._limits.connect_timeout_s + TLS_SLACK_S, self._forget_unmade, connection)
        return connection

    def _forget_unmade(self, connection: Connection) -> None:
        if not connection.address:
            connection.abort()
            for session in [s for s in self._sessions if s.connection is connection]:
                self._sessions.discard(session)
            self._limited("peer refused", "tls", reason="no TLS with a certificate of our CA")
            self.progressed()

    def _is_twin(self, node: NodeId, instance: bytes) -> bool:
        now_s = self._loop.time()
        return any(
            session.node == node and is_twin(instance, session.instance, now_s - session.connection.heard_s)
            for session in self._sessions
        )

    # --- host of the sessions -------------------------------------------------------------------------

    def flushed(self, session: Session) -> None:
        """The peer wants to know that what it sent before is read, or never will be.

        A node that was stopped, or cut off, may find frames of long ago on a connection that the peer has
        given up since: these were sent before, too, and no order holds between two connections.
        """
        self._oldest[session.node] = session.number
        for older in [known for known in self._sessions if self.is_given_up(known)]:
            older.connection.close("the peer uses a newer connection")

    def is_given_up(self, session: Session) -> bool:
        return session.number < self._oldest.get(session.node, 0)

    def broke(self, session: Session, request: str, error: BaseException) -> None:
        self._limited("request failed", request, request=request, peer=session.node, exc_info=error)

    def ended(self, session: Session, reason: str, failure: HandshakeFailed | None) -> None:
        self._sessions.discard(session)
        connection = session.connection
        host = connection.address.rpartition(":")[0]  # a peer comes back from another port
        if failure is not None and failure.code != "self":
            self._limited(
                "peer refused", host, address=connection.address, code=failure.code, reason=failure.text
            )
        elif connection.violated:
            self._limited("peer cut off", host, address=connection.address, peer=session.node, reason=reason)
        self.progressed()

    def progressed(self) -> None:
        """Something ended: `close` looks again whether it was the last."""
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

    def _is_idle(self) -> bool:
        return all(session.is_idle for session in self._sessions)

    async def _until(self, condition: Callable[[], bool], timeout_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not condition():
                    self._changed = self._loop.create_future()
                    await self._changed
