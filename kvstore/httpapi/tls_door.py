"""TLS behind the bounds: a connection is counted before its handshake, and one too many is closed at once.

asyncio's own TLS server tells a protocol of its connection only after the handshake. Until then whoever says
nothing at all holds a descriptor that no limit knows of, and as many of them as there are. So connections are
accepted here, and given to the loop for their handshake (`connect_accepted_socket`).
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Iterable

from kvstore.httpapi.connection import ConnectionPool, address_of_host

_ACCEPTS_PER_TURN = 64
_EXHAUSTED_S = 1.0  # as asyncio's own server


class TlsDoor:
    """All connections whose handshake goes on. `accept` makes the protocol of one that is through.

    As many may be here as may be open, in all and from one address. One that is through and one too many
    is told so by what `accept` makes; one too many here is not, since it would take a handshake.
    """

    def __init__(
        self,
        pool: ConnectionPool,
        accept: Callable[[], asyncio.Protocol],
        context: ssl.SSLContext,
        timeout_s: float,
    ) -> None:
        self._pool, self._accept, self._context, self._timeout_s = pool, accept, context, timeout_s
        self._by_address: Counter[str] = Counter()
        self._shaking: dict[asyncio.Task[None], None] = {}
        self._listening: list[socket.socket] = []

    def listen(self, descriptors: Iterable[int], backlog: int) -> None:
        """On sockets that are bound; they are duplicated."""
        for descriptor in descriptors:
            bound = socket.socket(fileno=os.dup(descriptor))
            bound.setblocking(False)
            bound.listen(backlog)
            self._listening.append(bound)
            self._look_again(bound)

    def close(self) -> None:
        """Nobody comes in any more; handshakes that go on are broken off."""
        for bound in self._listening:
            self._pool.loop.remove_reader(bound.fileno())
            bound.close()
        self._listening.clear()
        for task in self._shaking:
            task.cancel()

    def _arrive(self, bound: socket.socket) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                came, peer = bound.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:  # out of descriptors or memory: looking again at once would only burn the loop
                self._pool.loop.remove_reader(bound.fileno())
                self._pool.loop.call_later(_EXHAUSTED_S, self._look_again, bound)
                return
            address = address_of_host(str(peer[0]))
            if self._is_full_for(address):
                self._pool.shed("handshakes")
                came.close()
                continue
            came.setblocking(False)
            self._by_address[address] += 1
            task = self._pool.loop.create_task(self._shake(came, address))
            self._shaking[task] = None
            task.add_done_callback(self._shaking.pop)

    def _look_again(self, bound: socket.socket) -> None:
        if bound in self._listening:
            self._pool.loop.add_reader(bound.fileno(), self._arrive, bound)

    def _is_full_for(self, address: str) -> bool:
        pool = self._pool
        return (
            len(self._shaking) >= pool.connections_max
            or self._by_address[address] >= pool.connections_per_address_max
        )

    async def _shake(self, came: socket.socket, address: str) -> None:
        try:
            await self._pool.loop.connect_accepted_socket(
                self._accept, came, ssl=self._context, ssl_handshake_timeout=self._timeout_s
            )
        except (OSError, TimeoutError):  # ssl.SSLError is one: no TLS, or none that we speak
            came.close()
        finally:
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]
