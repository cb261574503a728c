"""Two processes with one identity, seen by a third node (B7)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from kvstore.core.message import Read
from kvstore.errors import PeerUnreachable
from kvstore.rpc.handshake import Handshake, HandshakeFailed
from tests.rpc.support import ANN, BOB, Network, error_of, eventually, identity

READ = Read(1, b"k")


@pytest.fixture
async def network() -> AsyncIterator[Network]:
    async with Network() as network:
        yield network


async def test_a_twin_is_refused_and_knows_it_within_five_seconds(network: Network) -> None:
    _, address = await network.server()
    first = await network.client()
    first.learn(BOB, address)
    await first.call(BOB, READ, 5.0)
    told: list[str] = []
    second = await network.client(identity(ANN), on_twin=told.append)
    second.learn(BOB, address)
    assert isinstance(await error_of(second.call(BOB, READ, 5.0)), PeerUnreachable)

    async def talk() -> None:
        while not told:
            await first.call(BOB, READ, 5.0)
            await asyncio.sleep(0.2)

    async with asyncio.timeout(5.0):
        await talk()
    assert "another process that runs with this node's identity" in told[0]
    assert first.connected(BOB)
    assert not second.connected(BOB)


async def test_a_restart_is_let_in_at_once_where_the_old_connection_ended(network: Network) -> None:
    server, address = await network.server()
    first = await network.client()
    first.learn(BOB, address)
    await first.call(BOB, READ, 5.0)
    await first.close()
    await eventually(lambda: not server.peers())
    again = await network.client(identity(ANN, incarnation=2))
    again.learn(BOB, address)
    await again.call(BOB, READ, 1.0)


async def test_a_restart_is_let_in_once_a_connection_that_never_ended_is_silent(network: Network) -> None:
    """As after the power went: nobody closed the old connection."""
    _, address = await network.server()
    relay = await network.relay(address)
    first = await network.client()
    first.learn(BOB, relay.address)
    await first.call(BOB, READ, 5.0)
    relay.hold()
    told: list[str] = []
    again = await network.client(identity(ANN, incarnation=2), on_twin=told.append)
    again.learn(BOB, address)
    assert "another process" in str(await error_of(again.call(BOB, READ, 5.0)))
    await eventually(lambda: again.connected(BOB), within_s=5.0)
    assert told == []


async def test_one_process_may_connect_twice(network: Network) -> None:
    _, address = await network.server()
    me = identity(ANN)
    for _ in range(2):
        client = await network.client(me)
        client.learn(BOB, address)
        await client.call(BOB, READ, 5.0)


def _refused(*, forged: bool) -> HandshakeFailed:
    """What the client makes of a refusal as a twin."""
    client = Handshake(identity(ANN), client=True, address="bob:1")
    server = Handshake(identity(BOB), client=False, is_twin=lambda node, instance: True)
    proof = client.feed(server.feed(client.start()))
    with pytest.raises(HandshakeFailed) as refusal:
        server.feed(proof)
    farewell = bytearray(refusal.value.farewell)
    farewell[-1] ^= forged
    with pytest.raises(HandshakeFailed) as caught:
        client.feed(bytes(farewell))
    return caught.value


def test_a_refusal_as_a_twin_is_proven() -> None:
    failure = _refused(forged=False)
    assert (failure.code, failure.by_peer, failure.proven) == ("twin", True, True)


def test_a_forged_refusal_as_a_twin_proves_nothing() -> None:
    """A node ends itself over it: whoever can write into the connection must not be able to do that."""
    assert not _refused(forged=True).proven
