"""One attempt over urllib3, from any thread: a request out, an answer in, or what became of it.

urllib3's own retries and redirects are off: call.py decides what may be sent again.
"""

from __future__ import annotations

import ssl as tls
from collections.abc import Callable
from threading import Lock
from time import monotonic
from typing import Protocol
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    EmptyPoolError,
    HTTPError,
    NewConnectionError,
    ReadTimeoutError,
    SSLError,
)
from urllib3.util import Timeout

from kvstore.client.call import Attempt, NoAnswer
from kvstore.client.protocol import Reply, Request
from kvstore.client.settings import RESPONSE_BYTES_MAX

_CHUNK_BYTES = 256 * 1024


class SyncTransport(Protocol):
    """How an attempt gets to a node and back. Called from several threads."""

    def send(self, request: Request, attempt: Attempt) -> Reply:
        """Raises NoAnswer."""

    def close(self) -> None: ...


class Urllib3Transport:
    def __init__(
        self,
        *,
        connections_max: int,
        ssl: tls.SSLContext | None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """`connections_max`: open at once per node; more threads wait for one."""
        self._connections_max, self._ssl, self._clock = connections_max, ssl, clock
        self._pools: dict[str, urllib3.HTTPConnectionPool] = {}
        self._lock = Lock()
        self._closed = False

    def send(self, request: Request, attempt: Attempt) -> Reply:
        pool = self._pools.get(attempt.node.origin) or self._open(attempt.node.origin)
        deadline_s = self._clock() + attempt.timeout_s
        try:
            response = pool.urlopen(
                request.method,
                request.target,
                body=request.body or None,
                headers=attempt.headers,
                retries=False,
                redirect=False,
                assert_same_host=False,
                timeout=Timeout(connect=attempt.connect_s, read=attempt.timeout_s),
                pool_timeout=attempt.timeout_s,  # type: ignore[arg-type]  # documented as seconds
                preload_content=False,
                decode_content=False,
            )
        except EmptyPoolError as error:
            why = f"all {self._connections_max} connections of this client are in use"
            raise NoAnswer(why, sent=False, blames_node=False) from error
        except (NewConnectionError, ConnectTimeoutError, SSLError) as error:
            raise NoAnswer(_reason(error), sent=False) from error
        except ReadTimeoutError as error:
            raise NoAnswer("", sent=True, timed_out=True) from error
        except (HTTPError, OSError) as error:
            raise NoAnswer(_reason(error), sent=True) from error
        try:
            return Reply(response.status, response.headers, self._read(response, deadline_s))
        except ReadTimeoutError as error:
            response.close()
            raise NoAnswer("", sent=True, timed_out=True) from error
        except (HTTPError, OSError) as error:
            response.close()
            raise NoAnswer(_reason(error), sent=True) from error
        except BaseException:
            response.close()
            raise
        finally:
            response.release_conn()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for pool in self._pools.values():
                pool.close()

    def _open(self, origin: str) -> urllib3.HTTPConnectionPool:
        with self._lock:
            if self._closed:
                raise RuntimeError("this client is closed")
            if origin not in self._pools:
                self._pools[origin] = self._pool(origin)
            return self._pools[origin]

    def _pool(self, origin: str) -> urllib3.HTTPConnectionPool:
        parts = urlsplit(origin)
        assert parts.hostname is not None
        if parts.scheme == "https":
            return urllib3.HTTPSConnectionPool(
                parts.hostname, parts.port, maxsize=self._connections_max, block=True, ssl_context=self._ssl
            )
        return urllib3.HTTPConnectionPool(
            parts.hostname, parts.port, maxsize=self._connections_max, block=True
        )

    def _read(self, response: urllib3.BaseHTTPResponse, deadline_s: float) -> bytes:
        """The whole body, up to a bound in size and in time.

        urllib3 bounds each wait for bytes; a node that sends one now and then would never end.
        """
        body = bytearray()
        while chunk := response.read1(_CHUNK_BYTES):
            body += chunk
            if len(body) > RESPONSE_BYTES_MAX:
                raise HTTPError(f"more than {RESPONSE_BYTES_MAX} bytes")
            if self._clock() > deadline_s:
                raise NoAnswer("", sent=True, timed_out=True)
        return bytes(body)


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
