"""One TCP connection between two nodes: a handshake, then sealed frames both ways.

The two sides differ only in their owner: a Link makes calls, a Session answers them. Lost is lost: a
connection is never repaired, its owner is told once, and everything malformed ends it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Collection
from typing import Any, Protocol, cast

from kvstore.core.limits import Limits
from kvstore.rpc.decoding import ITEMS_MAX, MalformedFrame, messages_of
from kvstore.rpc.frames import Opener, Sealer
from kvstore.rpc.handshake import Established, Handshake, HandshakeFailed

WRITE_BUFFER_BYTES = 256 * 1024
"""What the transport may hold before `writable` is False. Bytes given to it count as sent."""

LINGER_S = 1.0
"""How long a closing connection may take to deliver what it still has."""

_KEEPALIVE = (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 15_000))
"""Half-open connections end within 25 s even where nobody calls (options the platform lacks are left)."""


class Owner(Protocol):
    """Whom a connection works for. All are called from the event loop, one at a time."""

    def established(self, connection: Connection, peer: Established) -> None: ...

    def received(self, messages: tuple[Any, ...]) -> None:
        """The messages of one frame. May raise MalformedFrame."""

    def writable(self) -> None:
        """After a time of not being so."""

    def lost(self, connection: Connection, reason: str, failure: HandshakeFailed | None) -> None:
        """Exactly once, last, also if it was never established; not after `abort`."""


class Connection(asyncio.Protocol):
    """`writable`: established, and the transport wants more. `heard_s`: loop time of the last bytes.

    `violated`: the other side broke the protocol, or did not finish the handshake in time. `address`: of
    the other side.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        handshake: Handshake,
        owner: Owner,
        limits: Limits,
        *,
        handshake_timeout_s: float,
    ) -> None:
        self._loop, self._handshake, self._owner, self._limits = loop, handshake, owner, limits
        self._handshake_timeout_s = handshake_timeout_s
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self._sealer: Sealer | None = None
        self._opener: Opener | None = None
        self._items_max = max(ITEMS_MAX, limits.scan_items_max)
        self._over = False
        self.address = ""
        self.violated = False
        self._failure: HandshakeFailed | None = None
        self.reason = ""
        self.writable = False
        self.heard_s = 0.0
        self.bytes_sent = 0
        self.bytes_received = 0

    # --- for the owner ------------------------------------------------------------------------------

    def send(self, messages: Collection[bytes]) -> None:
        """One frame, one write. Only while `writable`."""
        assert self._sealer is not None, "sent before the handshake"
        self._write(self._sealer.seal(messages))

    def close(self, reason: str) -> None:
        """What was sent still leaves; nothing more is read. `lost` follows."""
        if not self._over:
            self._over, self.writable = True, False
            self.reason = self.reason or reason
            self._stop_timer()
            if self._transport is not None:
                self._transport.close()
                self._timer = self._loop.call_later(LINGER_S, self._transport.abort)

    def abort(self) -> None:
        """At once, and without telling the owner."""
        self._owner = _NOBODY
        self._over, self.writable = True, False
        self._stop_timer()
        if self._transport is not None:
            self._transport.abort()

    # --- for the transport --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._over:
            self._transport.abort()
            return
        self.address = address_of(self._transport.get_extra_info("peername"))
        self._handshake.address = self._handshake.address or self.address
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        _set_options(self._transport.get_extra_info("socket"))
        self._timer = self._loop.call_later(self._handshake_timeout_s, self._handshake_overdue)
        self._write(self._handshake.start())

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        self.bytes_received += len(data)
        self.heard_s = self._loop.time()
        if self._opener is None:
            data = self._shake_hands(data)
        try:
            if data and self._opener is not None:
                for payload in self._opener.feed(data):
                    self._owner.received(messages_of(payload, self._items_max))
                    if self._over:
                        return
        except MalformedFrame as error:
            self._fail(f"malformed: {error}")

    def eof_received(self) -> None:
        self.reason = self.reason or "closed by the peer"

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        if self._sealer is not None and not self._over:
            self.writable = True
            self._owner.writable()

    def connection_lost(self, exc: Exception | None) -> None:
        self._over, self.writable = True, False
        self._stop_timer()
        owner, self._owner = self._owner, _NOBODY
        reason = self.reason or (str(exc) if exc is not None else "closed by the peer")
        owner.lost(self, reason, self._failure)

    # --- handshake ----------------------------------------------------------------------------------

    def _shake_hands(self, data: bytes) -> bytes:
        """Returns what came behind the handshake."""
        try:
            answer = self._handshake.feed(data)
        except HandshakeFailed as failure:
            self._write(failure.farewell)
            self._failure = failure
            self.close(failure.text)
            return b""
        self._write(answer)
        peer = self._handshake.established
        if peer is None:
            return b""
        self._stop_timer()
        self._sealer = Sealer(peer.send_key)
        self._opener = Opener(peer.receive_key, self._limits.frame_bytes_max)
        self.writable = True
        self._owner.established(self, peer)
        return peer.rest

    def _handshake_overdue(self) -> None:
        self._fail(f"no handshake within {self._handshake_timeout_s:g} s")

    def _fail(self, reason: str) -> None:
        self._over, self.writable = True, False
        self.reason, self.violated = reason, True
        if self._transport is not None:
            self._transport.abort()

    def _write(self, data: bytes) -> None:
        if data and self._transport is not None:
            self.bytes_sent += len(data)
            self._transport.write(data)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Nobody:
    """Owner of a connection that was let go."""

    def established(self, connection: Connection, peer: Established) -> None:
        connection.abort()

    def received(self, messages: tuple[Any, ...]) -> None:
        pass

    def writable(self) -> None:
        pass

    def lost(self, connection: Connection, reason: str, failure: HandshakeFailed | None) -> None:
        pass


_NOBODY = _Nobody()


def _set_options(sock: Any) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def split_address(address: str) -> tuple[str, int]:
    """host:port, with brackets around an IPv6 host. Raises ValueError."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise ValueError(f"address {address!r} is not of the form host:port")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError(f"address {address!r}: write an IPv6 host in brackets, [::1]:7000")
    return host.removeprefix("[").removesuffix("]"), int(port)


def address_of(name: Any) -> str:
    """host:port of what sockets call a name."""
    if not name:  # of a connection that was gone before it was looked at
        return "unknown"
    host, port = name[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
