"""Who is let in, what the others are told, and how a node stops listening."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import Any, cast

import pytest

from kvstore.core.limits import DEFAULT_LIMITS
from kvstore.core.message import Held, Read
from kvstore.errors import ConfigError, PeerRefused, PeerTimeout, PeerUnreachable
from kvstore.rpc.peer_server import STRANGERS_MAX
from tests.rpc.support import (
    ANN,
    BOB,
    CARL,
    Network,
    Slow,
    Told,
    error_of,
    eventually,
    identity,
)

MIB = 1 << 20
READ = Read(1, b"k")
HELD = Held(False, b"k")


# --- refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("who", "text", "code"),
    [
        (identity(ANN, key=b"some other key of 24 byt"), "does not share our cluster key", "cluster-key"),
        (identity(ANN, cluster="red"), "belongs to another cluster (a-cluster against red)", "cluster-id"),
        (identity(BOB), "has the same node id", "twin"),
    ],
    ids=["wrong key", "other cluster", "twin"],
)
async def test_who_is_refused_is_told_why_on_both_sides(
    network: Network, who: Any, text: str, code: str
) -> None:
    server_told, client_told = Told(), Told()
    server, address = await network.server(report=server_told)
    client = await network.client(who, report=client_told)
    error = await error_of(client.call_address(address, READ, 5.0))
    assert isinstance(error, PeerUnreachable)
    assert text in str(error)
    await eventually(lambda: server_told.events)
    ((event, fields),) = server_told.events
    assert (event, fields["code"]) == ("peer refused", code)
    assert text.split(" (")[0] in fields["reason"]
    assert text in client_told.reason("peer lost")
    assert server.peers() == set()


async def test_a_refused_peer_that_comes_again_and_again_is_reported_once(network: Network) -> None:
    told = Told()
    _, address = await network.server(report=told)
    client = await network.client(identity(ANN, key=b"some other key of 24 byt"))
    client.learn(BOB, address)
    await eventually(lambda: client._limited._told.get(("peer lost", address), (0.0, 0))[1] >= 5)
    assert len(told.events) == 1


async def test_another_node_at_the_address_is_not_taken_for_the_one_we_know(network: Network) -> None:
    _, address = await network.server()
    client = await network.client()
    client.learn(CARL, address)
    error = await error_of(client.call(CARL, READ, 5.0))
    assert isinstance(error, PeerUnreachable)
    assert f"is node {BOB}, not {CARL}" in str(error)


async def test_a_node_may_refuse_whom_it_knows_to_be_removed(network: Network) -> None:
    """B19."""
    _, address = await network.server(admit=lambda node, incarnation: "was removed" if node == ANN else "")
    client = await network.client()
    client.learn(BOB, address)
    assert "was removed" in str(await error_of(client.call(BOB, READ, 5.0)))


async def test_an_http_server_at_the_address_is_recognised(network: Network) -> None:
    async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read(1000)
        writer.close()

    server = await asyncio.start_server(http, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    client = await network.client()
    client.learn(BOB, address)
    assert "but HTTP" in str(await error_of(client.call(BOB, READ, 5.0)))
    client.forget(BOB)
    server.close()


# --- the listening side ---------------------------------------------------------------------------------


async def test_a_port_in_use_names_the_address_and_the_remedy(network: Network) -> None:
    _, address = await network.server()
    with pytest.raises(ConfigError) as caught:
        await network.server(address=address)
    assert address in str(caught.value)
    assert "choose another port" in str(caught.value)
    with pytest.raises(ConfigError, match="is not of the form host:port"):
        await network.server(address="7000")
    with pytest.raises(ConfigError, match=r"cannot listen for peers on 192\.0\.2\.1:7000"):
        await network.server(address="192.0.2.1:7000")


async def test_a_stranger_that_says_nothing_is_cut_off(network: Network) -> None:
    told = Told()
    await network.server(report=told, limits=replace(DEFAULT_LIMITS, connect_timeout_s=0.05))
    _, address = await network.server(report=told, limits=replace(DEFAULT_LIMITS, connect_timeout_s=0.05))
    reader, writer = await asyncio.open_connection(*address.split(":"))
    assert await reader.read() == b""
    writer.close()
    assert "no handshake within 0.05 s" in told.reason("peer cut off")


async def test_strangers_are_bounded(network: Network) -> None:
    """They keep new peers out until they leave or their time for the handshake is over, not longer."""
    told = Told()
    limits = replace(DEFAULT_LIMITS, connect_timeout_s=60.0)
    server, address = await network.server(report=told, limits=limits)
    client = await network.client()
    client.learn(BOB, address)
    assert await client.call(BOB, READ, 5.0) == HELD
    async with contextlib.AsyncExitStack() as strangers:
        for _ in range(STRANGERS_MAX + 5):
            _, writer = await asyncio.open_connection(*address.split(":"))
            strangers.callback(writer.close)
        await eventually(lambda: told.events)
        assert told.events[0][0] == "peer not heard"
        assert len(server._sessions) == STRANGERS_MAX + 1
        assert await client.call(BOB, READ, 5.0) == HELD
    later = await network.client(identity(CARL))
    later.learn(BOB, address)
    await eventually(lambda: later.connected(BOB))


async def test_a_stopping_server_finishes_what_it_has_and_takes_no_more(network: Network) -> None:
    slow = Slow()
    server, address = await network.server(slow)
    client = await network.client()
    client.learn(BOB, address)
    in_hand = client.call(BOB, READ, 30.0)
    await eventually(lambda: len(slow.requests) == 1)
    closing = asyncio.create_task(server.close(30.0))
    await eventually(lambda: server.draining)
    error = cast(PeerRefused, await error_of(client.call(BOB, READ, 5.0)))
    assert (error.code, error.outcome) == ("NotReady", "failed")
    assert not closing.done()
    slow.answer(0)
    assert await in_hand == HELD
    await closing
    await eventually(lambda: not client.connected(BOB))
    assert len(slow.requests) == 1
    await server.close()


async def test_a_stopping_server_does_not_wait_for_ever(network: Network) -> None:
    slow = Slow()
    server, address = await network.server(slow)
    client = await network.client()
    client.learn(BOB, address)
    call = client.call(BOB, READ, 30.0)
    await eventually(lambda: len(slow.requests) == 1)
    await server.close(0.05)
    assert isinstance(await error_of(call), PeerTimeout)


async def test_work_cancelled_by_the_server_is_refused_as_not_ready(network: Network) -> None:
    slow = Slow()
    _, address = await network.server(slow)
    client = await network.client()
    client.learn(BOB, address)
    call = client.call(BOB, READ, 30.0)
    await eventually(lambda: len(slow.requests) == 1)
    slow.requests[0][1].cancel()
    error = cast(PeerRefused, await error_of(call))
    assert (error.code, error.outcome) == ("NotReady", "unknown")


async def test_a_peer_that_left_is_not_answered(network: Network) -> None:
    slow = Slow()
    server, address = await network.server(slow)
    client = await network.client()
    client.learn(BOB, address)
    client.call(BOB, READ, 30.0)
    await eventually(lambda: len(slow.requests) == 1)
    await client.close()
    await eventually(lambda: server.peers() == set())
    slow.answer(0)
    await asyncio.sleep(0)
    assert server.stats().in_flight == 0
