"""A Flush that is answered: what its sender sent before has been read, or never will be."""

from __future__ import annotations

import asyncio
from typing import Any

from kvstore.core.message import Done, Reply, Request, Store, Stored
from kvstore.core.upkeep_message import Flush
from kvstore.rpc.connection import Connection
from kvstore.rpc.peer_server import PeerServer
from kvstore.rpc.wire import REQUESTS, CallClass, encode_request
from tests.rpc.support import BOB, CARL, Network, RawPeer, eventually, identity

BACKGROUND = int(CallClass.BACKGROUND)


class Heard:
    """A handler that notes what it is asked, in order."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def __call__(self, sender: str, request: Request, deadline_s: float) -> Reply:
        self.requests.append(request)
        return Done() if isinstance(request, Flush) else Stored()

    @property
    def stored(self) -> list[bytes]:
        return [request.key for request in self.requests if isinstance(request, Store)]


def encoded(number: int, request: Any) -> bytes:
    return encode_request(number, REQUESTS.index(type(request)), 60.0, BACKGROUND, request)


def connections(server: PeerServer) -> list[Connection]:
    """Those of the proven peers, the oldest first."""
    proven = [session for session in server._sessions if session.node]
    return [session.connection for session in sorted(proven, key=lambda session: session.number)]


async def flushed(peer: RawPeer) -> None:
    peer.send(encoded(9, Flush()))
    assert await peer.receive() == ((9, 0, ()),)


async def test_frames_of_one_connection_are_read_in_order(network: Network) -> None:
    heard = Heard()
    _, address = await network.server(heard)
    client = await network.client()
    client.learn(BOB, address)
    calls = [
        client.call(BOB, Store(1, b"k%d" % i, b"", sync=False), 5.0, background=i % 2 == 0) for i in range(9)
    ]
    await asyncio.sleep(0)
    assert await client.call(BOB, Flush(), 5.0, background=True) == Done()
    assert len(heard.stored) == 9
    await asyncio.gather(*calls)


async def test_what_a_stopped_node_finds_on_an_older_connection_is_not_read_after_a_flush(
    network: Network,
) -> None:
    """A resumed process reads its sockets in any order: a frame of before the stop may come last."""
    heard, carl = Heard(), identity(CARL)
    server, address = await network.server(heard)
    old = await network.raw(address, carl)
    await eventually(lambda: len(connections(server)) == 1)
    transport = connections(server)[0]._transport
    assert transport is not None
    transport.pause_reading()
    old.send(encoded(1, Store(1, b"stale", b"", sync=False)))
    new = await network.raw(address, carl)
    new.send(encoded(1, Store(1, b"fresh", b"", sync=False)))
    assert await new.receive() == ((1, 0, ()),)
    await flushed(new)
    if not transport.is_closing():
        transport.resume_reading()
    assert await old.receive() == ()
    await eventually(lambda: len(connections(server)) == 1)
    assert heard.stored == [b"fresh"]


async def test_a_connection_that_is_older_and_proves_itself_late_is_not_read_either(network: Network) -> None:
    heard, carl = Heard(), identity(CARL)
    server, address = await network.server(heard)
    relay = await network.relay(address)
    relay.hold()
    late = asyncio.ensure_future(network.raw(relay.address, carl))
    await eventually(lambda: server._accepted == 1)
    await flushed(await network.raw(address, carl))
    relay.release()
    old = await late
    old.send(encoded(1, Store(1, b"stale", b"", sync=False)))
    assert await old.receive() == ()
    assert heard.stored == []


async def test_another_node_keeps_its_connection(network: Network) -> None:
    heard, carl = Heard(), identity(CARL)
    server, address = await network.server(heard)
    client = await network.client()  # ANN
    client.learn(BOB, address)
    assert await client.call(BOB, Store(1, b"a", b"", sync=False), 5.0) == Stored()
    await flushed(await network.raw(address, carl))
    assert len(connections(server)) == 2
    assert await client.call(BOB, Store(1, b"b", b"", sync=False), 5.0) == Stored()
    assert heard.stored == [b"a", b"b"]
    assert {session.node for session in server._sessions} >= {CARL}
