"""Peers and networks that mean harm, over real TCP: nothing they send is worked on, nothing breaks."""

from __future__ import annotations

import asyncio
import random

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.core.limits import DEFAULT_LIMITS
from kvstore.core.message import Held, Read, Reply, Request, Store, Stored
from kvstore.errors import NotReady, PeerTimeout
from kvstore.rpc import wire
from kvstore.rpc.peer_server import PeerServer
from tests.rpc.support import BOB, CARL, Network, Told, echo, error_of, eventually, frames_of, identity
from tests.rpc.wireless import READ, Wireless, garbled


class Counting:
    def __init__(self) -> None:
        self.requests: list[Request] = []

    def __call__(self, sender: str, request: Request, deadline_s: float) -> Reply:
        self.requests.append(request)
        return Stored() if isinstance(request, Store) else echo(sender, request, deadline_s)


# --- on the way -----------------------------------------------------------------------------------------


async def test_a_frame_repeated_on_its_own_connection_is_not_worked_on(network: Network) -> None:
    """I12."""
    handler, told = Counting(), Told()
    _, address = await network.server(handler, report=told)
    relay = await network.relay(address)
    client = await network.client()
    client.learn(BOB, relay.address)
    await client.call(BOB, Store(1, b"k", b"v"), 5.0)
    relay.inject(list(frames_of(relay.sent[0]))[2])
    await eventually(lambda: told.events)
    assert "frame 1 does not verify" in told.reason("peer cut off")
    assert len(handler.requests) == 1
    await eventually(lambda: client.stats()[BOB].connects == 2)
    await client.call(BOB, Store(2, b"k", b"v"), 5.0)


@pytest.mark.parametrize("handshake", [True, False], ids=["handshake and all", "frames alone"])
async def test_a_recorded_connection_replayed_into_a_fresh_one_is_not_worked_on(
    network: Network, handshake: bool
) -> None:
    """I12. The frames are right, and for a key that nobody will ever have again."""
    handler, told = Counting(), Told()
    server, address = await network.server(handler, report=told)
    relay = await network.relay(address)
    client = await network.client()
    client.learn(BOB, relay.address)
    await client.call(BOB, Store(1, b"k", b"v"), 5.0)
    recorded = bytes(relay.sent[0])
    if handshake:
        reader, writer = await asyncio.open_connection(*address.split(":"))
        writer.write(recorded)
        await reader.read()
        writer.close()
    else:
        raw = await network.raw(address)
        raw.send_bytes(b"".join(list(frames_of(recorded))[2:]))
        assert await raw.receive() == ()
    await eventually(lambda: told.events)
    assert len(handler.requests) == 1
    assert CARL not in server.peers()


async def test_a_frame_altered_on_the_way_breaks_the_connection_and_is_not_worked_on(
    network: Network,
) -> None:
    handler, told = Counting(), Told()
    _, address = await network.server(handler, report=told)
    relay = await network.relay(address)
    client = await network.client()
    client.learn(BOB, relay.address)
    await client.call(BOB, Store(1, b"k", b"v"), 5.0)
    relay.alter = lambda data: data.replace(b"v" * 10, b"w" * 10)
    error = await error_of(client.call(BOB, Store(2, b"k", b"v" * 10), 30.0))
    assert isinstance(error, PeerTimeout)
    assert "connection lost" in str(error)
    assert "does not verify" in told.reason("peer cut off")
    relay.alter = lambda data: data
    await eventually(lambda: client.connected(BOB))
    await client.call(BOB, Store(3, b"k", b"v"), 5.0)
    assert [r.partition for r in handler.requests if isinstance(r, Store)] == [1, 3]


async def test_an_altered_answer_is_not_believed(network: Network) -> None:
    _, address = await network.server()
    relay = await network.relay(address)
    client = await network.client()
    client.learn(BOB, relay.address)
    await client.call(BOB, Read(1, b"k"), 5.0)
    relay.alter_answers = lambda data: data.replace(b"true", b"fake")
    error = await error_of(client.call(BOB, Read(1, b"true"), 30.0))
    assert isinstance(error, PeerTimeout)
    assert "does not verify" in str(error)


# --- a peer that knows the key, and is broken or newer ------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        b"\xc0",
        b"\xc1",
        b"\x90",
        msgpack.packb([1, READ, 1000, 0]),
        msgpack.packb([1, READ, 1000, 0, {}]),
        msgpack.packb([1, READ, 1000, 9, [1, b"k"]]),
        msgpack.packb([-1, READ, 1000, 0, [1, b"k"]]),
        msgpack.packb([1 << 40, READ, 1000, 0, [1, b"k"]]),
        msgpack.packb([1, -1, 1000, 0, [1, b"k"]]),
        msgpack.packb([1, READ, 1000, 0, [1]]),
        msgpack.packb([1, READ, 1000, 0, ["1", b"k"]]),
        msgpack.packb([True, READ, 1000, 0, [1, b"k"]]),
        msgpack.packb([1, READ, 10.5, 0, [1, b"k"]]),
        msgpack.packb([1, READ, 1000, 0, [1, msgpack.ExtType(5, b"")]]),
        b"\x91" * 1500,
    ],
)
async def test_malformed_messages_end_their_connection_and_no_other(network: Network, message: bytes) -> None:
    handler, told = Counting(), Told()
    server, address = await network.server(handler, report=told)
    client = await network.client()
    client.learn(BOB, address)
    good = await client.call(BOB, Read(1, b"k"), 5.0)
    raw = await network.raw(address)
    raw.send(message)
    assert await raw.receive() == ()
    assert told.reason("peer cut off").startswith("malformed")
    assert await client.call(BOB, Read(1, b"k"), 5.0) == good
    assert client.stats()[BOB].connects == 1
    assert len(handler.requests) == 2
    await eventually(lambda: server.stats().peers == 1)


async def test_a_frame_over_the_limit_is_refused_before_it_is_there(network: Network) -> None:
    """B30."""
    _, address = await network.server()
    raw = await network.raw(address)
    raw.send_bytes((DEFAULT_LIMITS.frame_bytes_max + 1).to_bytes(4, "big"))
    assert await raw.receive() == ()


async def test_a_newer_peer_may_ask_what_this_release_does_not_know(network: Network) -> None:
    """B27."""
    _, address = await network.server()
    raw = await network.raw(address)
    newer_read = [7, READ, 5000, 0, [1, b"k", b"", "a new field"], "a new element"]
    raw.send(msgpack.packb([6, 99, 5000, 0, [1, 2, 3]]), msgpack.packb(newer_read))
    refusal, answer = await raw.receive()
    assert refusal[:2] == (6, 1)
    assert refusal[2][0] == "InvalidRequest"
    assert "of number 99: it is of an older release" in refusal[2][1]
    assert answer == (7, 0, (False, b"k"))


async def test_a_request_that_is_over_its_deadline_is_not_worked_on(network: Network) -> None:
    handler = Counting()
    server, address = await network.server(handler)
    raw = await network.raw(address)
    expired = wire.with_deadline(wire.encode_request(1, READ, 5.0, 0, Read(1, b"expired")), 0.0)
    raw.send(expired, wire.encode_request(2, READ, 5.0, 0, Read(1, b"alive")))
    assert await raw.receive() == ((2, 0, (False, b"alive")),)
    assert handler.requests == [Read(1, b"alive")]
    assert server.stats().expired == 1


async def test_one_call_id_twice_is_answered_twice(network: Network) -> None:
    """Only the peer is confused by it."""
    _, address = await network.server()
    raw = await network.raw(address)
    raw.send(*[wire.encode_request(5, READ, 5.0, 0, Read(1, key)) for key in (b"a", b"b")])
    assert await raw.receive() == ((5, 0, (False, b"a")), (5, 0, (False, b"b")))


@pytest.mark.parametrize(
    "reply", [b"\xc0", msgpack.packb([1, 2, []]), msgpack.packb([1, 0, [1]]), msgpack.packb([1, 1, [5]])]
)
async def test_a_malformed_reply_ends_the_call_and_the_connection(network: Network, reply: bytes) -> None:
    client = await network.client()
    client.learn(BOB, await network.raw_server(reply))
    error = await error_of(client.call(BOB, Read(1, b"k"), 30.0))
    assert isinstance(error, PeerTimeout)
    assert "malformed" in str(error)
    await eventually(lambda: client.stats()[BOB].connects == 2)


async def test_replies_nobody_asked_for_are_ignored(network: Network) -> None:
    client = await network.client()
    unasked, asked = wire.encode_answer(4_000_000_000, Held(True)), wire.encode_answer(1, Held(False))
    client.learn(BOB, await network.raw_server(unasked, asked, asked))
    assert await client.call(BOB, Read(1, b"k"), 5.0) == Held(False)
    assert client.stats()[BOB].connects == 1


# --- fuzz -----------------------------------------------------------------------------------------------


def read_and_store(_sender: str, request: Request, _deadline_s: float) -> Reply:
    if isinstance(request, Read):
        return Held(True)
    if isinstance(request, Store):
        return Stored()
    raise NotReady("garbled into a request of another kind")


def fuzz(seed: int, rounds: int) -> tuple[int, int]:
    """(frames that ended their connection, frames that did not). Raises what the server raises."""

    async def run() -> tuple[int, int]:
        broken: list[object] = []
        server = PeerServer(
            identity(BOB),
            read_and_store,
            report=lambda event, **fields: broken.append(fields) if event == "request failed" else None,
        )
        await server.start("127.0.0.1:0")
        chance, peer = random.Random(seed), Wireless(server)
        ended = 0
        for round_ in range(rounds):
            reason = peer.say(garbled(chance))
            assert reason == "" or reason.startswith("malformed"), f"round {round_}: {reason}"
            ended += bool(reason)
            if round_ % 100 == 0:
                await asyncio.sleep(0)  # timers that were cancelled are let go
        peer.hang_up()
        assert not server._sessions
        assert not broken
        await server.close(0)
        return ended, rounds - ended

    return asyncio.run(run())


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32))
def test_garbled_requests_end_a_connection_or_are_answered(seed: int) -> None:
    fuzz(seed, 20)
