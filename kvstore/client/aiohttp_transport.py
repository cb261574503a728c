"""One attempt over aiohttp: a request out, an answer in, or what became of it.

aiohttp repeats a PUT or DELETE by itself when a kept connection turns out to be closed. That would
send a conditional write twice; the middleware here takes that decision away from it.
"""

from __future__ import annotations

import asyncio
import ssl as tls
from io import BytesIO
from typing import Protocol

import aiohttp
from yarl import URL

from kvstore.client.call import Attempt, NoAnswer
from kvstore.client.protocol import Reply, Request
from kvstore.client.settings import KEEP_ALIVE_S, RESPONSE_BYTES_MAX

_REMEMBERED_MAX = 1024
_COPIED_BYTES_MAX = 1024 * 1024  # aiohttp sends more than that piece by piece, from a file


class AsyncTransport(Protocol):
    """How an attempt gets to a node and back."""

    async def send(self, request: Request, attempt: Attempt) -> Reply:
        """Raises NoAnswer."""

    async def close(self) -> None: ...


class AiohttpTransport:
    """Opened by its first use, inside a running loop."""

    def __init__(self, *, connections_max: int, ssl: tls.SSLContext | None) -> None:
        """`connections_max`: kept open per node; more requests wait for one."""
        self._connections_max, self._ssl = connections_max, ssl
        self._session: aiohttp.ClientSession | None = None
        self._bases: dict[str, URL] = {}
        self._timeouts: dict[tuple[float, float], aiohttp.ClientTimeout] = {}
        self._closed = False

    async def send(self, request: Request, attempt: Attempt) -> Reply:
        session = self._session or self._open()
        try:
            response = await session.request(
                request.method,
                self._url(attempt.node.origin, request.target),
                data=request.body if len(request.body) <= _COPIED_BYTES_MAX else BytesIO(request.body),
                headers=attempt.headers,
                allow_redirects=False,
                timeout=self._timeout(attempt.timeout_s, attempt.connect_s),
            )
        except (aiohttp.ClientConnectionError, aiohttp.ClientSSLError) as error:
            # What breaks after the connection is made arrives as _Broken, but for its timeout.
            raise NoAnswer(_reason(error), sent=False) from error
        except _Broken as broken:
            raise NoAnswer(_reason(broken.error), sent=True) from broken.error
        except TimeoutError as error:
            raise NoAnswer("", sent=True, timed_out=True) from error
        except aiohttp.ClientError as error:
            raise NoAnswer(_reason(error), sent=True) from error
        try:
            return Reply(response.status, response.headers, await _read(response))
        except TimeoutError as error:
            response.close()
            raise NoAnswer("", sent=True, timed_out=True) from error
        except (aiohttp.ClientError, OSError) as error:
            response.close()
            raise NoAnswer(_reason(error), sent=True) from error
        except asyncio.CancelledError:
            response.close()
            raise

    async def close(self) -> None:
        self._closed = True
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._closed:
            raise RuntimeError("this client is closed")
        connector = aiohttp.TCPConnector(
            limit=0,
            limit_per_host=self._connections_max,
            keepalive_timeout=KEEP_ALIVE_S,
            ssl=self._ssl if self._ssl is not None else True,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            middlewares=(_once,),
        )
        return self._session

    def _url(self, origin: str, target: str) -> URL:
        """Parsing the whole of it takes five times as long as hanging a path to what is parsed."""
        base = self._bases.get(origin)
        if base is None:
            if len(self._bases) >= _REMEMBERED_MAX:
                self._bases.clear()
            base = self._bases[origin] = URL(origin)
        if "?" in target:
            return URL(origin + target, encoded=True)
        return base.with_path(target, encoded=True)

    def _timeout(self, total_s: float, connect_s: float) -> aiohttp.ClientTimeout:
        """One object per pair: most requests of a client have the same."""
        found = self._timeouts.get((total_s, connect_s))
        if found is None:
            if len(self._timeouts) >= _REMEMBERED_MAX:
                self._timeouts.clear()
            found = aiohttp.ClientTimeout(total=total_s, sock_connect=connect_s)
            self._timeouts[total_s, connect_s] = found
        return found


class _Broken(Exception):
    """The connection ended after it was made. No ClientError, so that aiohttp does not send again."""

    def __init__(self, error: Exception) -> None:
        self.error = error


async def _once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    try:
        return await handler(request)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _Broken(error) from error


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The whole body, up to a bound. Raises ClientPayloadError."""
    length = response.content_length
    if length is None:
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > RESPONSE_BYTES_MAX:
                raise aiohttp.ClientPayloadError(f"more than {RESPONSE_BYTES_MAX} bytes")
        return bytes(body)
    if length > RESPONSE_BYTES_MAX:
        raise aiohttp.ClientPayloadError(f"{length} bytes, more than {RESPONSE_BYTES_MAX}")
    return await response.read()


def _reason(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):  # its own text repeats the address
        return error.os_error.strerror or str(error.os_error)
    return str(error) or type(error).__name__
