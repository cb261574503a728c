"""Status, headers and body on their way out.

A reply is written as one piece of bytes, without aiohttp's Response: its header multidict, its
default headers and its coroutines cost more than the rest of a small answer in this room (measured
from bytes to bytes, without sockets: 19 µs a request with all headers this way, 22 µs for a bare
handler that returns a web.Response with two).
aiohttp calls `prepare`, then `write_eof`, then reads `keep_alive`; that is all it asks of a response.
"""

from __future__ import annotations

import asyncio
from functools import lru_cache
from http import HTTPStatus
from time import gmtime

from aiohttp import HttpVersion11, web

from kvstore.httpapi.connection import Connection, WholeRequest

_STATUS_LINES = {status.value: f"{status.value} {status.phrase}\r\n" for status in HTTPStatus}
_WITHOUT_BODY = frozenset((204, 304))
_JOIN_BYTES_MAX = 64 * 1024  # above, a second system call is cheaper than copying the body once more

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("", "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

# A cache between client and cluster must ask again each time, or no quorum promise holds; and no
# browser may guess that a stored value is a page.
_FIXED_LINES = "Cache-Control: no-cache\r\nX-Content-Type-Options: nosniff\r\n"


class Reply:
    """`head`: header lines, each "Name: value\\r\\n", without framing, date and request id.

    Whoever builds `head` from what clients sent has checked it for line ends (options.py).
    """

    __slots__ = ("body", "date_line", "head", "keep_alive", "protocol", "request_id", "status", "timeout_s")

    def __init__(self, status: int, head: str = "", body: bytes = b"") -> None:
        self.status, self.head, self.body = status, head, body
        self.keep_alive = True
        self.request_id = self.date_line = ""
        self.timeout_s = 30.0
        self.protocol: Connection | None = None

    def headers(self) -> dict[str, str]:
        """The same lines by name, for a place inside another body."""
        return dict(line.split(": ", 1) for line in self.head.split("\r\n") if line)

    def encode_head(self, *, http11: bool) -> bytes:
        lines = f"HTTP/1.1 {_STATUS_LINES[self.status]}{self.head}KV-Request-Id: {self.request_id}\r\n"
        if self.status not in _WITHOUT_BODY:
            lines += f"Content-Length: {len(self.body)}\r\n"
        if not self.keep_alive:
            lines += "Connection: close\r\n"
        elif not http11:
            lines += "Connection: keep-alive\r\n"
        return f"{lines}{_FIXED_LINES}{self.date_line}\r\n".encode("latin-1", "replace")

    def write(self, request: web.BaseRequest | WholeRequest) -> bool:
        """Gives everything to the transport; whether it has more than it likes now: `drain`.

        Raises ConnectionError if the client is gone.
        """
        protocol = request.protocol
        assert isinstance(protocol, Connection)
        self.protocol = protocol
        transport = protocol.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client is gone")
        # A body that nobody read would be taken for the next request.
        if not request.keep_alive or not request.content.is_eof():
            self.keep_alive = False
        head = self.encode_head(http11=request.version >= HttpVersion11)
        body = self.body
        if request.method == "HEAD" or self.status in _WITHOUT_BODY:
            transport.write(head)
        elif len(body) < _JOIN_BYTES_MAX:
            transport.write(head + body)
        else:
            transport.write(head)
            transport.write(body)
        return protocol.writing_paused

    async def drain(self, request: web.BaseRequest | WholeRequest) -> None:
        """Raises ConnectionError if the client takes nothing off the wire for `timeout_s`."""
        protocol = request.protocol
        assert isinstance(protocol, Connection)
        try:
            async with asyncio.timeout(self.timeout_s):
                await protocol.drain()
        except TimeoutError:
            if protocol.transport is not None:
                protocol.transport.abort()
            raise ConnectionResetError("the client does not read") from None

    async def prepare(self, request: web.BaseRequest) -> None:
        """Writes everything. Called by aiohttp. Raises ConnectionError, as `write` and `drain`."""
        if self.write(request):
            await self.drain(request)

    async def write_eof(self, data: bytes = b"") -> None:
        """Called by aiohttp after `prepare`."""
        assert self.protocol is not None
        self.protocol.rest()


class DateLine:
    """The Date header, made once a second."""

    def __init__(self) -> None:
        self._second = -1
        self._line = ""

    def at(self, now_ms: int) -> str:
        second = now_ms // 1000
        if second != self._second:
            self._second, self._line = second, f"Date: {http_date(now_ms)}\r\n"
        return self._line


def http_date(unix_ms: int) -> str:
    """IMF-fixdate (RFC 9110 §5.6.7)."""
    return _http_date(unix_ms // 1000)


@lru_cache(maxsize=4096)
def _http_date(unix_s: int) -> str:
    """By hand: email.utils takes five times as long."""
    t = gmtime(unix_s)
    return (
        f"{_DAYS[t.tm_wday]}, {t.tm_mday:02} {_MONTHS[t.tm_mon]} {t.tm_year} "
        f"{t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02} GMT"
    )
