"""Plain HTTP/1.1 over one connection, in few microseconds per request, so that nodes have the processor.

It knows as much of HTTP as honest servers need: a length or chunks, no redirects, no compression. Nothing is
sent a second time: a broken connection or a status that is no success counts as an error.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import NamedTuple, Protocol, cast
from urllib.parse import urlencode, urlsplit

from kvstore.bench.workload import Kind, Operation, key_text, value_of

VALUES = 64
"""Different values a run writes, in turn."""

_WATCH_S = 0.25


class Answer(NamedTuple):
    status: int
    head: bytes
    body: bytes


class Dialect(Protocol):
    """How a store wants to be asked. Picklable: processes of the load are told of it.

    Paths are bytes; `context` is what `context_of` found in the answer to a read, or b"".
    """

    @property
    def ok(self) -> frozenset[int]:
        """Statuses of operations that are done."""

    def read(self, key: int) -> bytes:
        """The request line and headers but for Host, without the empty line that ends them."""

    def write(self, key: int, value: bytes, context: bytes) -> tuple[bytes, bytes]:
        """The same of a write, and its body."""

    def scan(self, key: int, items: int) -> bytes: ...

    def context_of(self, answer: Answer) -> bytes: ...


@dataclass(frozen=True, slots=True)
class KvDialect:
    """kvstore's own. `reads`, `writes`: options of the query, such as (("r", "1"),)."""

    bucket: str = "bench"
    reads: tuple[tuple[str, str], ...] = ()
    writes: tuple[tuple[str, str], ...] = ()
    token: str = ""
    ok: frozenset[int] = frozenset({200, 204, 300})

    def read(self, key: int) -> bytes:
        return f"GET /v1/kv/{self.bucket}/{key_text(key)}{self._query(self.reads)}{self._auth()}".encode()

    def write(self, key: int, value: bytes, context: bytes) -> tuple[bytes, bytes]:
        seen = f"\r\nKV-Context: {context.decode()}" if context else ""
        path = f"/v1/kv/{self.bucket}/{key_text(key)}{self._query(self.writes)}"
        return f"PUT {path}{self._auth()}{seen}".encode(), value

    def scan(self, key: int, items: int) -> bytes:
        options = [("after", key_text(key)), ("limit", str(items)), ("values", "true")]
        options += [pair for pair in self.reads if pair[0] == "r"]
        auth = self._auth()
        return f"GET /v1/kv/{self.bucket}?{urlencode(options)}{auth}\r\nAccept: application/msgpack".encode()

    def context_of(self, answer: Answer) -> bytes:
        at = answer.head.find(b"\r\nKV-Context: ")
        return answer.head[at + 14 : answer.head.index(b"\r\n", at + 14)] if at >= 0 else b""

    def _query(self, options: tuple[tuple[str, str], ...]) -> str:
        return f"?{urlencode(options)}" if options else ""

    def _auth(self) -> str:
        return " HTTP/1.1" + (f"\r\nAuthorization: Bearer {self.token}" if self.token else "")


class HttpLane(asyncio.Protocol):
    """One connection to one node; a new one is made after it broke. One request at a time."""

    def __init__(self, url: str, dialect: Dialect, values: list[bytes], timeout_s: float) -> None:
        parts = urlsplit(url)
        self._host, self._tls = parts.hostname or "", parts.scheme == "https"
        self._port = parts.port or (443 if self._tls else 80)
        self._tail = f"\r\nHost: {parts.netloc}\r\n".encode()
        self._dialect, self._values, self.timeout_s = dialect, values, timeout_s
        self._ok, self._turn = dialect.ok, 0
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[Answer] | None = None
        self._buffer, self._whole = bytearray(), -1
        self.sent_s = 0.0

    # --- operations ---------------------------------------------------------------------------------

    async def run(self, operation: Operation) -> str:
        try:
            return await self._run(operation)
        except (OSError, EOFError, TimeoutError) as error:
            return type(error).__name__

    async def _run(self, operation: Operation) -> str:
        kind, key, items = operation
        if kind is Kind.READ:
            answer = await self.ask(self._dialect.read(key))
        elif kind is Kind.SCAN:
            answer = await self.ask(self._dialect.scan(key, items))
        else:
            context = b""
            if kind is Kind.MODIFY:
                answer = await self.ask(self._dialect.read(key))
                if answer.status not in self._ok:
                    return str(answer.status)
                context = self._dialect.context_of(answer)
            self._turn = (self._turn + 1) % len(self._values)
            head, body = self._dialect.write(key, self._values[self._turn], context)
            answer = await self.ask(head, body)
        return "" if answer.status in self._ok else str(answer.status)

    async def ask(self, head: bytes, body: bytes | None = None) -> Answer:
        """Raises OSError, EOFError and TimeoutError."""
        if self._transport is None:
            await self.connect()
        loop = asyncio.get_running_loop()
        self._waiting = loop.create_future()
        self.sent_s = loop.time()
        assert self._transport is not None
        if body is None:
            self._transport.write(b"%b%b\r\n" % (head, self._tail))
        else:
            self._transport.write(b"%b%bContent-Length: %d\r\n\r\n%b" % (head, self._tail, len(body), body))
        return await self._waiting

    async def connect(self) -> None:
        """Raises OSError, TimeoutError."""
        loop = asyncio.get_running_loop()
        context = ssl.create_default_context() if self._tls else None
        async with asyncio.timeout(self.timeout_s):
            await loop.create_connection(lambda: self, self._host, self._port, ssl=context)

    def expire(self) -> None:
        """The answer did not come in time: what comes later must not be taken for the next one's."""
        self._end(TimeoutError())

    def close(self) -> None:
        self._end(EOFError())

    @property
    def is_waiting(self) -> bool:
        return self._waiting is not None

    def _end(self, error: Exception) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()
        self._buffer.clear()
        self._whole = -1
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_exception(error)

    # --- the connection -----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass of it

    def connection_lost(self, error: Exception | None) -> None:
        self._end(error if isinstance(error, OSError) else EOFError("closed"))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._whole < 0:
            head_bytes = self._buffer.find(b"\r\n\r\n") + 4
            if head_bytes < 4:
                return
            self._whole = _whole(bytes(self._buffer[:head_bytes]), head_bytes)
        if self._whole:
            if len(self._buffer) < self._whole:
                return
        elif not self._buffer.endswith(b"0\r\n\r\n"):
            return
        self._answer(bytes(self._buffer))

    def _answer(self, whole: bytes) -> None:
        self._buffer.clear()
        self._whole = -1
        head_bytes = whole.index(b"\r\n\r\n") + 4
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(Answer(int(whole[9:12]), whole[:head_bytes], whole[head_bytes:]))


def _whole(head: bytes, head_bytes: int) -> int:
    """Bytes of the answer with this head; 0 if it comes in chunks."""
    lower = head.lower()
    at = lower.find(b"\r\ncontent-length:")
    if at >= 0:
        return head_bytes + int(lower[at + 17 : lower.index(b"\r\n", at + 17)])
    return 0 if b"\r\ntransfer-encoding: chunked" in lower else head_bytes


def http_lanes(
    urls: Iterable[str],
    connections: int,
    dialect: Dialect,
    *,
    value_bytes: int,
    random: Random,
    timeout_s: float,
) -> list[HttpLane]:
    """Spread over the nodes in turn."""
    nodes = list(urls)
    values = [value_of(value_bytes, random) for _ in range(VALUES)]
    return [HttpLane(nodes[i % len(nodes)], dialect, values, timeout_s) for i in range(connections)]


async def watch(lanes: Iterable[HttpLane]) -> None:
    """Ends requests that wait for too long, until cancelled: one timer for all connections."""
    loop = asyncio.get_running_loop()
    lanes = list(lanes)
    while True:
        await asyncio.sleep(_WATCH_S)
        now_s = loop.time()
        for lane in lanes:
            if lane.is_waiting and now_s - lane.sent_s > lane.timeout_s:
                lane.expire()
