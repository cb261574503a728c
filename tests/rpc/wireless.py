"""A proven peer and the server's end of its connection in one process, with no network between.

What a hostile peer may send is tried a million times; over sockets that would take hours.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

from kvstore.core.message import Read, Store
from kvstore.rpc import wire
from kvstore.rpc.connection import Connection
from kvstore.rpc.frames import Sealer
from kvstore.rpc.handshake import Handshake, HandshakeFailed
from kvstore.rpc.peer_server import PeerServer
from tests.rpc.support import CARL, KEY, identity

READ, STORE = 2, 3
"""Their numbers on the wire."""


def garbled(chance: random.Random, *, always: bool = False) -> list[bytes]:
    """One to three encoded requests, some of them altered; with `always` at least one."""
    while True:
        messages, changed = _garbled(chance)
        if changed or not always:
            return messages


def _garbled(chance: random.Random) -> tuple[list[bytes], bool]:
    messages, changed = [], False
    for n in range(chance.randint(1, 3)):
        request = Read(1, b"k") if chance.random() < 0.5 else Store(1, b"key", b"state" * 9)
        number = READ if isinstance(request, Read) else STORE
        honest = wire.encode_request(n, number, 5.0, chance.randrange(3), request)
        message = bytearray(honest)
        for _ in range(chance.randint(0, 3)):
            at = chance.randrange(len(message) + 1)
            match chance.randrange(4):
                case 0 if at < len(message):
                    message[at] = chance.randrange(256)
                case 1:
                    message[at:at] = chance.randbytes(chance.randint(1, 9))
                case 2:
                    del message[at : at + chance.randint(1, 9)]
                case _:
                    message = bytearray(chance.randbytes(chance.randint(1, 60)))
        changed = changed or message != honest
        messages.append(bytes(message))
    return messages, changed


class Wireless:
    """`said`: all that the peer has sent on the connection that is open. `heard`: the last answer's bytes."""

    def __init__(self, server: PeerServer, key: bytes = KEY) -> None:
        self._server, self._key = server, key
        self._connection: Connection | None = None
        self.sealer: Sealer
        self.said, self.heard = b"", b""

    def say(self, messages: list[bytes]) -> str:
        """One frame. Returns why the connection ended, "" if it did not."""
        if self._connection is None:
            self.connect()
        return self.feed(self.sealer.seal(messages))

    def feed(self, data: bytes) -> str:
        """Any bytes on the connection that is open, or on a new one without a handshake. Returns as `say`."""
        connection = self._connection or self._accepted()
        self.said += data
        connection.data_received(data)
        self.heard = self._transport.taken()
        if not connection.reason:
            return ""
        self.hang_up()
        return connection.reason

    def hang_up(self) -> None:
        if self._connection is not None:
            self._connection.connection_lost(None)
            self._connection, self.said = None, b""

    def connect(self) -> str:
        """Returns why the handshake failed, "" if it did not."""
        connection = self._accepted()
        handshake = Handshake(identity(CARL, key=self._key), client=True)
        self.said = handshake.start()
        connection.data_received(self.said)
        try:
            proof = handshake.feed(self._transport.taken())
            self.said += proof
            connection.data_received(proof)
            handshake.feed(self._transport.taken())
        except HandshakeFailed as failure:
            self.hang_up()
            return failure.code
        assert handshake.established is not None
        self.sealer = Sealer(handshake.established.send_key)
        return ""

    def _accepted(self) -> Connection:
        self._transport = _Nowhere()
        self._connection = connection = self._server._accept()
        connection.connection_made(self._transport)
        return connection


class _Nowhere(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self._written: list[bytes] = []

    def taken(self) -> bytes:
        data = b"".join(self._written)
        self._written.clear()
        return data

    def write(self, data: Any) -> None:
        self._written.append(bytes(data))

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return _Socket() if name == "socket" else ("127.0.0.1", 1)

    def abort(self) -> None:
        pass

    def close(self) -> None:
        pass


class _Socket:
    def setsockopt(self, *_: Any) -> None:
        pass
