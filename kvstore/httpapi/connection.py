"""One client's connection: what aiohttp's own protocol leaves open.

aiohttp bounds the size of a header, the pipeline and the idle time. It does not bound the time that a
header may take, nor the number of connections, and it answers malformed HTTP with plain text and a
traceback in the log. Those are here; one sweep over all connections replaces a timer for each.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from ipaddress import IPv6Address, IPv6Network
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

from aiohttp import HttpVersion, web
from aiohttp.http import RawRequestMessage
from aiohttp.streams import StreamReader
from multidict import CIMultiDictProxy

from kvstore.core.credential import Credentials, Principal
from kvstore.errors import InvalidRequest, Overloaded
from kvstore.httpapi.status_codes import RequestTooSlow

if TYPE_CHECKING:
    from kvstore.httpapi.reply import Reply

# What `Connection.start` touches of aiohttp's own protocol; a release without it is used as it is.
_INSIDES = ("_messages", "_waiter", "_force_close", "_close", "_keepalive", "_keepalive_handle",
            "_next_keepalive_close_time", "_request_in_progress", "_handler_waiter",
            "_buffer_paused", "_msg_queue_resume_size", "_task_handler")  # fmt: skip
_KNOWS_INSIDES = set(_INSIDES) <= {
    name for base in web.RequestHandler.__mro__ for name in getattr(base, "__slots__", ())
}

_SWEEP_S = 1.0
_REFUSED_MAX = 64
_REFUSED_LINGER_S = 0.5


def address_of(transport: asyncio.BaseTransport) -> str:
    """The peer's IP address, of IPv6 the /64: who has one such address has all of them."""
    peer = transport.get_extra_info("peername")
    return address_of_host(str(peer[0])) if isinstance(peer, tuple) and peer else ""


def address_of_host(host: str) -> str:
    if ":" not in host:
        return host
    address = IPv6Address(host.partition("%")[0])
    mapped = address.ipv4_mapped
    return str(mapped) if mapped is not None else str(IPv6Network((int(address) >> 64 << 64, 64)))


class WholeRequest:
    """A request that arrived with all of its body, as far as this room looks at one."""

    __slots__ = ("content", "headers", "keep_alive", "method", "protocol", "raw_path", "version")

    def __init__(self, message: RawRequestMessage, content: StreamReader, protocol: Connection) -> None:
        self.method: str = message.method
        self.raw_path: str = message.path
        self.headers: CIMultiDictProxy[str] = message.headers
        self.version: HttpVersion = message.version
        self.keep_alive: bool = not message.should_close
        self.content, self.protocol = content, protocol

    @property
    def transport(self) -> asyncio.Transport | None:
        return self.protocol.transport


class Connection(web.RequestHandler):
    """`head_since_s`: `perf_counter` when the first bytes of a request came, 0 while none is incomplete.

    `address`: who connects, as far as limits go. `principal`: who `authorization`, the header as it came
    last, stands for in `known_by`.
    """

    __slots__ = ("_at_rest", "_pool", "address", "authorization", "head_since_s", "known_by", "principal")

    def __init__(self, pool: ConnectionPool, manager: web.Server, **options: Any) -> None:
        super().__init__(manager, loop=pool.loop, **options)
        self._pool = pool
        self._at_rest = True
        self.head_since_s = 0.0
        self.address = self.authorization = ""
        self.known_by: Credentials | None = None
        self.principal: Principal | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        pool = self._pool
        self.address = address = address_of(transport)
        if pool.by_address[address] >= pool.connections_per_address_max:
            taken = cast(asyncio.Transport, transport)
            refusal = Refusal(pool, "connections_per_address")
            taken.set_protocol(refusal)
            refusal.connection_made(taken)
            return
        pool.open.add(self)
        pool.by_address[address] += 1
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        pool, address = self._pool, self.address
        pool.open.discard(self)
        pool.by_address[address] -= 1
        if not pool.by_address[address]:
            del pool.by_address[address]
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._at_rest and not self.head_since_s:
            self.head_since_s = perf_counter()
        super().data_received(data)

    def resume_reading(self, *arguments: Any, **options: Any) -> None:
        """Called by aiohttp after each body, also if reading was never paused: 3 µs for nothing."""
        if not _KNOWS_INSIDES or self._reading_paused or self._buffer_paused:
            super().resume_reading(*arguments, **options)

    async def start(self) -> None:
        """The loop over the requests of this connection; the task of a connection runs it.

        As aiohttp's, for requests that are whole when they arrive, as nearly all are. Theirs makes a
        second task for each and objects that nothing here uses (a put took 35 µs from bytes to bytes,
        this way 24). At the first request of any other kind the connection is theirs for good: a body
        still to come, an upgrade, bytes that are no HTTP.
        """
        while _KNOWS_INSIDES and not self._force_close:
            if not self._messages:
                self._waiter = self._loop.create_future()
                try:
                    await self._waiter
                finally:
                    self._waiter = None
            message, content = self._messages[0]
            if not isinstance(message, RawRequestMessage) or message.upgrade or not content.is_eof():
                break
            self._messages.popleft()
            if self._parser is not None:
                self._parser.message_consumed()
            if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
                self._resume_reading_if_drained()
            if not await self._answer(WholeRequest(message, content, self)):
                self._task_handler = None
                if self.transport is not None:
                    self.transport.close()
                return
        await super().start()

    async def _answer(self, request: WholeRequest) -> bool:
        """Whether the connection goes on."""
        self._request_in_progress = True
        try:
            reply = await self._pool.handle(request)
            if reply.write(request):
                await reply.drain(request)
        except ConnectionError:
            return False
        finally:
            self._request_in_progress = False
            self.rest()
            if self._handler_waiter is not None:
                self._handler_waiter.set_result(None)
        self._keepalive = reply.keep_alive
        if not reply.keep_alive or self._close or self._force_close:
            return False
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(
                self._next_keepalive_close_time, self._process_keepalive
            )
        return True

    async def drain(self) -> None:
        """Until the transport takes more."""
        await self._drain_helper()

    def begin(self) -> float:
        """A header is complete; what follows is its body, which has a deadline of its own.

        Returns `head_since_s`.
        """
        self._at_rest = False
        since_s, self.head_since_s = self.head_since_s, 0.0
        return since_s

    def rest(self) -> None:
        """The request is answered."""
        self._at_rest = True

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Called by aiohttp for what does not parse as HTTP. The connection closes afterwards.

        Of its message only the first line is passed on: further ones quote what was sent, which may be
        a credential.
        """
        why = (message or "").strip().partition("\n")[0].strip().rstrip(":")
        error: BaseException = InvalidRequest(
            f"this is not HTTP, or over a limit of its header: {why[:200]}",
            advice="a line may have 8190 bytes, a header 128 fields; percent-encode what is not ASCII",
        )
        if status >= 500:
            error = exc or RuntimeError(message)
            self._pool.report("connection failed", reason=repr(error))
        reply = self._pool.answer(error)
        reply.keep_alive = False
        return cast(web.StreamResponse, reply)

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Called by aiohttp for a failure outside of our handler."""
        self._pool.report("connection failed", reason=" ".join(map(str, args)), exc_info=kw.get("exc_info"))


class ConnectionPool:
    """The open connections: how many may be, and how long a header may take.

    `handle` answers a request, `answer` makes the problem document for an error, `shed` is told why a
    connection is refused, `swept` is called about once a second.
    """

    def __init__(
        self,
        *,
        connections_max: int,
        connections_per_address_max: int,
        header_timeout_s: float,
        handle: Callable[[WholeRequest], Coroutine[Any, Any, Reply]],
        answer: Callable[[BaseException], Reply],
        shed: Callable[[str], None],
        swept: Callable[[], None],
        report: Callable[..., None],
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.handle, self.answer, self.shed, self.report = handle, answer, shed, report
        self.open: set[Connection] = set()
        self.by_address: Counter[str] = Counter()
        self.refused: set[asyncio.Transport] = set()
        self.connections_max, self.connections_per_address_max = connections_max, connections_per_address_max
        self._header_timeout_s, self._swept = header_timeout_s, swept
        self._timer = self.loop.call_later(0, self._sweep)

    @property
    def is_full(self) -> bool:
        return len(self.open) >= self.connections_max

    def stop(self) -> None:
        self._timer.cancel()
        for transport in list(self.refused):
            transport.abort()

    def farewell(self, error: BaseException) -> bytes:
        """The last answer on a connection, outside of any request."""
        reply = self.answer(error)
        reply.keep_alive = False
        return reply.encode_head(http11=True) + reply.body

    def _sweep(self) -> None:
        self._timer = self.loop.call_later(min(_SWEEP_S, self._header_timeout_s / 2), self._sweep)
        self._swept()
        oldest_s = perf_counter() - self._header_timeout_s
        for connection in [c for c in self.open if 0 < c.head_since_s <= oldest_s]:
            if connection.transport is not None:
                error = RequestTooSlow(f"no complete header within {self._header_timeout_s:g} s")
                connection.transport.write(self.farewell(error))
            connection.force_close()


class Refusal(asyncio.Protocol):
    """One connection too many: it is told so, and closed.

    It lingers for a moment, because closing with unread bytes resets the connection and may take the
    answer with it (RFC 9112 §9.6). How many may linger is bounded too.
    """

    def __init__(self, pool: ConnectionPool, reason: str) -> None:
        self._pool, self._reason = pool, reason
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        pool = self._pool
        self._transport = taken = cast(asyncio.Transport, transport)
        pool.shed(self._reason)
        if len(pool.refused) >= _REFUSED_MAX:
            taken.abort()
            return
        pool.refused.add(taken)
        whole = self._reason == "connections"
        count, whose = (
            (pool.connections_max, "") if whole else (pool.connections_per_address_max, " from there")
        )
        error = Overloaded(
            f"this node has {count} connections{whose}, more it does not take",
            reason=self._reason,
            advice="reuse connections, or go to another node",
        )
        taken.write(pool.farewell(error))
        if taken.can_write_eof():  # TLS cannot
            taken.write_eof()
        pool.loop.call_later(_REFUSED_LINGER_S, taken.close)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._pool.refused.discard(self._transport)
