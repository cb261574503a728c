"""Nodes that talk over real loopback TCP, and a relay in between that can misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import strategies as st

from kvstore.core.limits import DEFAULT_LIMITS, Limits
from kvstore.core.message import Held, Read, Reply, Request
from kvstore.errors import PeerError
from kvstore.rpc.decoding import messages_of
from kvstore.rpc.frames import Opener, Sealer
from kvstore.rpc.handshake import Established, Handshake
from kvstore.rpc.identity import Identity
from kvstore.rpc.link import Timing
from kvstore.rpc.peer_client import PeerClient
from kvstore.rpc.peer_server import PeerServer

KEY = b"a cluster key of at least 16 bytes"
ANN, BOB, CARL = "a" * 32, "b" * 32, "c" * 32
CLUSTER = "a-cluster"

QUICK = Timing(stable_s=0.0, backoff_first_s=0.01, backoff_max_s=0.02, silence_s=60.0)
"""For tests of breaking and mending: no pause is longer than 20 ms."""

Handle = Callable[[str, Request, float], Any]


def identity(node: str, *, key: bytes = KEY, cluster: str = CLUSTER, **other: Any) -> Identity:
    return Identity(node, key, other.pop("incarnation", 1), lambda: cluster, **other)


def echo(sender: str, request: Request, deadline_s: float) -> Reply:
    assert isinstance(request, Read)
    return Held(False, request.key)


async def eventually(condition: Callable[[], object], within_s: float = 10.0) -> None:
    """Returns as soon as the condition holds; fails where it never does."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.002)


class Told:
    """What was reported, as (event, fields)."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, event: str, **fields: Any) -> None:
        self.events.append((event, fields))

    def reason(self, event: str) -> str:
        return next((str(fields["reason"]) for name, fields in self.events if name == event), "")


async def unused_address() -> str:
    server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return f"127.0.0.1:{port}"


class Slow:
    """A handler that answers when the test says so."""

    def __init__(self) -> None:
        self.requests: list[tuple[Request, asyncio.Future[Reply]]] = []

    def __call__(self, sender: str, request: Request, deadline_s: float) -> asyncio.Future[Reply]:
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.requests.append((request, future))
        return future

    def answer(self, index: int) -> None:
        request, future = self.requests[index]
        assert isinstance(request, Read)
        future.set_result(Held(False, request.key))


async def error_of(call: Awaitable[Reply]) -> PeerError:
    with pytest.raises(PeerError) as caught:
        await call
    return caught.value


class Network:
    """Starts clients, servers and relays, and stops what it started."""

    def __init__(self) -> None:
        self._started: list[PeerClient | PeerServer | Relay | RawPeer] = []
        self._raw_servers: list[asyncio.Server] = []

    async def __aenter__(self) -> Network:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for part in reversed(self._started):
            if isinstance(part, PeerServer):
                await part.close(0)
            else:
                await part.close()
        for server in self._raw_servers:
            server.close()

    async def server(
        self,
        handler: Handle = echo,
        who: Identity | None = None,
        *,
        address: str = "127.0.0.1:0",
        **options: Any,
    ) -> tuple[PeerServer, str]:
        server = PeerServer(who or identity(BOB), handler, **options)
        self._started.append(server)
        return server, await server.start(address)

    async def client(
        self, who: Identity | None = None, *, limits: Limits = DEFAULT_LIMITS, **options: Any
    ) -> PeerClient:
        options.setdefault("timing", QUICK)
        client = PeerClient(who or identity(ANN), uniform=lambda low, high: high, limits=limits, **options)
        self._started.append(client)
        await client.start()
        return client

    async def raw(self, address: str, who: Identity | None = None) -> RawPeer:
        peer = await RawPeer.connect(address, who)
        self._started.append(peer)
        return peer

    async def raw_server(self, *replies: bytes) -> str:
        """The address of a proven peer that answers every frame with these messages."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            handshake = Handshake(identity(BOB), client=False)
            with suppress(ConnectionError):
                while handshake.established is None:
                    data = await reader.read(4096)
                    assert data, "the client hung up"
                    writer.write(handshake.feed(data))
                sealer = Sealer(handshake.established.send_key)
                while await reader.read(65_536):
                    writer.write(sealer.seal(replies))
            writer.close()

        self._raw_servers.append(server := await asyncio.start_server(serve, "127.0.0.1", 0))
        return f"127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def relay(self, address: str) -> Relay:
        relay = Relay(address)
        self._started.append(relay)
        await relay.start()
        return relay


class Relay:
    """A TCP relay to `target`. `alter` and `alter_answers` see every chunk and return what is passed on.

    `sent` and `answered` hold what went either way, per connection in order of connecting. While `held`
    is set nothing passes and nothing is read, as if the network had gone.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self.sent: list[bytearray] = []
        self.answered: list[bytearray] = []
        self.alter: Callable[[bytes], bytes] = lambda data: data
        self.alter_answers: Callable[[bytes], bytes] = lambda data: data
        self.address = ""
        self._open = asyncio.Event()
        self._open.set()
        self._writers: list[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def hold(self) -> None:
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    def cut(self) -> None:
        """Resets every connection."""
        for pair in self._writers:
            for writer in pair:
                writer.transport.abort()
        self._writers.clear()

    def inject(self, data: bytes) -> None:
        """Bytes to the server on the latest connection, as if the client had sent them."""
        self._writers[-1][1].write(data)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = self.target.rsplit(":", 1)
        try:
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.transport.abort()
            return
        self._writers.append((writer, far_writer))
        self.sent.append(bytearray())
        self.answered.append(bytearray())
        for source, sink, record, to_server in (
            (reader, far_writer, self.sent[-1], True),
            (far_reader, writer, self.answered[-1], False),
        ):
            task = asyncio.create_task(self._pump(source, sink, record, to_server))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, record: bytearray, to_server: bool
    ) -> None:
        with suppress(OSError):
            while True:
                await self._open.wait()
                data = await source.read(65_536)
                await self._open.wait()
                if not data:
                    break
                record += data
                sink.write(self.alter(data) if to_server else self.alter_answers(data))
                await sink.drain()
        sink.close()


# --- any value of a message class -------------------------------------------------------------------------

_INTEGERS = st.integers(-(2**63), 2**64 - 1)
_LEAVES: dict[Any, st.SearchStrategy[Any]] = {
    int: _INTEGERS,
    bool: st.booleans(),
    float: st.floats(allow_nan=False, allow_infinity=False),
    str: st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    bytes: st.binary(max_size=40),
    type(None): st.none(),
}


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    """Written against the annotations alone, not against the decoder under test."""
    if kind in _LEAVES:
        return _LEAVES[kind]
    if hasattr(kind, "_fields"):
        hints = get_type_hints(kind)
        return st.builds(kind, *(values_of(hints[name]) for name in kind._fields))
    arguments = get_args(kind)
    if get_origin(kind) is tuple:
        if arguments[-1] is Ellipsis:
            return st.lists(values_of(arguments[0]), max_size=3).map(tuple)
        return st.tuples(*map(values_of, arguments))
    return st.one_of(*map(values_of, arguments))


def frames_of(data: bytes | bytearray) -> Iterator[bytes]:
    """Splits what was recorded of one direction: handshake frames have no MAC, sealed ones do.

    The handshake of either direction is a hello and a proof.
    """
    position, index = 0, 0
    while position < len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        end = position + 4 + length + (16 if index >= 2 else 0)
        yield bytes(data[position:end])
        position, index = end, index + 1


class RawPeer:
    """A proven peer that then says whatever a test wants it to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Established) -> None:
        self._reader, self._writer = reader, writer
        self._sealer, self._opener = Sealer(peer.send_key), Opener(peer.receive_key, 1 << 24)

    @classmethod
    async def connect(cls, address: str, who: Identity | None = None) -> RawPeer:
        host, port = address.rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host, int(port))
        handshake = Handshake(who or identity(CARL), client=True, address=address)
        writer.write(handshake.start())
        while handshake.established is None:
            data = await reader.read(4096)
            assert data, "the server hung up"
            writer.write(handshake.feed(data))
        return cls(reader, writer, handshake.established)

    def send(self, *messages: bytes) -> None:
        self._writer.write(self._sealer.seal(messages))

    def send_bytes(self, data: bytes) -> None:
        self._writer.write(data)

    async def receive(self) -> tuple[Any, ...]:
        """The messages of the next chunk of frames; () when the server closed the connection."""
        with suppress(ConnectionError):
            while data := await self._reader.read(65_536):
                if messages := [m for p in self._opener.feed(data) for m in messages_of(p)]:
                    return tuple(messages)
        return ()

    async def close(self) -> None:
        self._writer.transport.abort()
