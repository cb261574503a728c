"""Connections: made, broken, moved, let go; and what becomes of the calls meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from typing import Any

import pytest

from kvstore.core.limits import DEFAULT_LIMITS
from kvstore.core.message import Held, Read, Reply, Request, Store
from kvstore.errors import PeerTimeout, PeerUnreachable
from kvstore.rpc.link import Timing
from kvstore.rpc.peer_client import SEEDS_MAX, PeerClient
from tests.rpc.support import (
    ANN,
    BOB,
    CARL,
    QUICK,
    Network,
    Slow,
    Told,
    error_of,
    eventually,
    identity,
    unused_address,
)

MIB = 1 << 20
READ = Read(1, b"k")
HELD = Held(False, b"k")


# --- made -----------------------------------------------------------------------------------------------


async def test_calls_made_before_the_first_connection_wait_for_it(network: Network) -> None:
    _, address = await network.server()
    client = await network.client()
    client.learn(BOB, address)
    assert not client.connected(BOB)
    assert await client.call(BOB, READ, 5.0) == HELD
    assert client.connected(BOB)


async def test_one_connection_serves_every_call(network: Network) -> None:
    _, address = await network.server()
    relay = await network.relay(address)
    client = await network.client()
    client.learn(BOB, relay.address)
    for _ in range(5):
        await client.call(BOB, READ, 5.0)
    client.learn(BOB, relay.address)  # nothing new
    await client.call(BOB, READ, 5.0)
    assert len(relay.sent) == 1


async def test_a_call_does_not_wait_for_a_silent_host_longer_than_for_a_connection(network: Network) -> None:
    """Something accepts and says nothing: a stopped process looks like that."""
    _, address = await network.server()
    relay = await network.relay(address)
    relay.hold()
    client = await network.client(limits=replace(DEFAULT_LIMITS, connect_timeout_s=0.1))
    client.learn(BOB, relay.address)
    error = await error_of(client.call(BOB, READ, 30.0))
    assert isinstance(error, PeerUnreachable)
    assert "no connection within 0.1 s" in str(error)


async def test_a_deadline_holds_while_connecting_too(network: Network) -> None:
    _, address = await network.server()
    relay = await network.relay(address)
    relay.hold()
    client = await network.client(limits=replace(DEFAULT_LIMITS, connect_timeout_s=30.0))
    client.learn(BOB, relay.address)
    error = await error_of(client.call(BOB, READ, 0.05))
    assert isinstance(error, PeerUnreachable)
    assert "nothing could be sent for 0.05 s" in str(error)


# --- broken ---------------------------------------------------------------------------------------------


async def test_where_nothing_listens_calls_fail_at_once(network: Network) -> None:
    client = await network.client(timing=Timing(backoff_first_s=30.0, backoff_max_s=30.0))
    client.learn(BOB, await unused_address())
    first = await error_of(client.call(BOB, READ, 30.0))
    assert isinstance(first, PeerUnreachable)
    second = client.call(BOB, READ, 30.0)
    assert second.done()
    assert "Connect" in str(await error_of(second)) or "refused" in str(await error_of(second))


async def test_a_broken_connection_ends_the_calls_that_were_sent_at_once(network: Network) -> None:
    slow = Slow()
    _, address = await network.server(slow)
    relay = await network.relay(address)
    client = await network.client()
    client.learn(BOB, relay.address)
    calls = [client.call(BOB, READ, 60.0) for _ in range(3)]
    await eventually(lambda: len(slow.requests) == 3)
    started_s = time.monotonic()
    relay.cut()
    for call in calls:
        error = await error_of(call)
        assert isinstance(error, PeerTimeout)
        assert "connection lost" in str(error)
    assert time.monotonic() - started_s < 5
    again = client.call(BOB, READ, 10.0)
    await eventually(lambda: len(slow.requests) == 4)
    slow.answer(3)
    assert await again == HELD
    assert client.stats()[BOB].connects == 2


async def test_a_broken_connection_tells_what_was_sent_from_what_was_not(network: Network) -> None:
    """`unknown` and `failed` of a write hang on this."""
    _, address = await network.server()
    relay = await network.relay(address)
    limits = replace(DEFAULT_LIMITS, peer_outbox_bytes_max=64 * MIB)
    client = await network.client(limits=limits, timing=replace(QUICK, stable_s=60.0))
    client.learn(BOB, relay.address)
    await eventually(lambda: client.connected(BOB))
    relay.hold()
    calls = []
    for n in range(40):
        calls.append(client.call(BOB, Store(n, b"k", bytes(MIB)), 60.0))
        await asyncio.sleep(0)
    relay.cut()
    relay.release()
    errors = [await error_of(call) for call in calls]
    sent = [error.sent for error in errors]
    assert sent == sorted(sent, reverse=True), "what was sent was sent in order"
    assert {type(error) for error in errors} == {PeerTimeout, PeerUnreachable}
    assert all("connection lost" in str(error) for error in errors)


async def test_a_restarted_peer_is_found_again(network: Network) -> None:
    server, address = await network.server()
    client = await network.client()
    client.learn(BOB, address)
    await client.call(BOB, READ, 5.0)
    await server.close(0)
    await eventually(lambda: not client.connected(BOB))
    await network.server(address=address)
    await eventually(lambda: client.connected(BOB))
    assert await client.call(BOB, READ, 5.0) == HELD


async def test_the_pause_between_attempts_doubles_up_to_its_cap_and_is_drawn(network: Network) -> None:
    """Full jitter: somewhere between nothing and the ceiling."""
    drawn = []

    def uniform(low: float, high: float) -> float:
        drawn.append((low, high))
        return 0.0

    client = PeerClient(identity(ANN), uniform=uniform)
    await client.start()
    client.learn(BOB, await unused_address())
    link = client._links[BOB]
    await eventually(lambda: len(drawn) >= 3)
    await client.close()
    assert set(drawn) == {(0.0, 1.0)}
    link._uniform = lambda low, high: 1.0
    assert [link._pause_s(attempt) for attempt in (0, 1, 2, 9)] == [0.1, 0.2, 0.4, 2.0]


async def test_a_connection_that_breaks_soon_is_not_made_again_at_once(network: Network) -> None:
    """Else a peer that lets us in and fails at once would be called without end."""
    _, address = await network.server()
    relay = await network.relay(address)
    timing = Timing(stable_s=60.0, backoff_first_s=60.0, backoff_max_s=60.0)
    client = await network.client(timing=timing)
    client.learn(BOB, relay.address)
    await client.call(BOB, READ, 5.0)
    relay.cut()
    await eventually(lambda: not client.connected(BOB))
    await error_of(client.call(BOB, READ, 5.0))
    assert client.call(BOB, READ, 5.0).done()
    assert len(relay.sent) == 1


async def test_a_silent_peer_is_given_up_and_found_again(network: Network) -> None:
    """A network that swallows everything breaks no connection; TCP would retry for minutes."""
    _, address = await network.server()
    relay = await network.relay(address)
    limits = replace(DEFAULT_LIMITS, connect_timeout_s=0.2)
    client = await network.client(timing=replace(QUICK, silence_s=0.5), limits=limits)
    client.learn(BOB, relay.address)
    await client.call(BOB, READ, 5.0)
    relay.hold()
    errors = [await error_of(client.call(BOB, READ, 0.05))]
    while client.connected(BOB):
        errors.append(await error_of(client.call(BOB, READ, 0.05)))
    assert isinstance(errors[0], PeerTimeout)
    assert len(errors) > 2, "one lost call is no silence"
    relay.release()
    await eventually(lambda: client.connected(BOB))
    assert await client.call(BOB, READ, 5.0) == HELD


async def test_a_slow_peer_is_not_a_silent_one(network: Network) -> None:
    """It answers one kind of call and not the other."""
    slow = Slow()

    def handler(sender: str, request: Request, deadline_s: float) -> Any:
        return HELD if request == READ else slow(sender, request, deadline_s)

    _, address = await network.server(handler)
    client = await network.client(timing=replace(QUICK, silence_s=0.1))
    client.learn(BOB, address)
    for _ in range(6):
        unanswered = client.call(BOB, Read(2, b"slow"), 0.05)
        assert await client.call(BOB, READ, 5.0) == HELD
        assert isinstance(await error_of(unanswered), PeerTimeout)
    unanswered = client.call(BOB, Read(3, b"slower than silence may be"), 0.3)
    while not unanswered.done():
        assert await client.call(BOB, READ, 5.0) == HELD
    assert isinstance(await error_of(unanswered), PeerTimeout)
    assert client.stats()[BOB].connects == 1


# --- moved, let go --------------------------------------------------------------------------------------


async def test_a_peer_that_moved_is_called_at_its_new_address(network: Network) -> None:
    old_server, old = await network.server(lambda *_: Held(False, b"old"))
    _, new = await network.server(lambda *_: Held(False, b"new"))
    client = await network.client()
    client.learn(BOB, old)
    assert await client.call(BOB, READ, 5.0) == Held(False, b"old")
    client.learn(BOB, new)
    assert await client.call(BOB, READ, 5.0) == Held(False, b"new")
    await eventually(lambda: old_server.peers() == set())


async def test_calls_wait_for_the_new_address_while_the_old_one_does_not_answer(network: Network) -> None:
    _, new = await network.server()
    relay = await network.relay(new)
    relay.hold()
    client = await network.client()
    client.learn(BOB, relay.address)
    call = client.call(BOB, READ, 10.0)
    await asyncio.sleep(0)
    client.learn(BOB, new)
    assert await call == HELD


async def test_a_forgotten_peer_is_let_go(network: Network) -> None:
    server, address = await network.server(Slow())
    client = await network.client()
    client.learn(BOB, address)
    call = client.call(BOB, READ, 60.0)
    await eventually(lambda: server.stats().in_flight == 1)
    client.forget(BOB)
    assert isinstance(await error_of(call), PeerTimeout)
    assert client.stats() == {}
    await eventually(lambda: server.peers() == set())
    assert isinstance(await error_of(client.call(BOB, READ, 1.0)), PeerUnreachable)


async def test_closing_ends_everything_and_may_be_done_twice(network: Network) -> None:
    server, address = await network.server(Slow())
    client = await network.client()
    client.learn(BOB, address)
    client.learn(CARL, await unused_address())
    call = client.call(BOB, READ, 60.0)
    await eventually(lambda: server.stats().in_flight == 1)
    before = asyncio.all_tasks()
    await client.close()
    await client.close()
    assert isinstance(await error_of(call), PeerTimeout)
    assert "this node is stopping" in str(await error_of(client.call(BOB, READ, 1.0)))
    assert "this node is stopping" in str(await error_of(client.call_address(address, READ, 1.0)))
    assert len(asyncio.all_tasks()) == len(before) - 2


# --- addresses of seeds -----------------------------------------------------------------------------------


async def test_a_seed_is_called_by_its_address_and_the_connection_is_kept_when_it_is_known(
    network: Network,
) -> None:
    _, address = await network.server()
    relay = await network.relay(address)
    client = await network.client()
    assert await client.call_address(relay.address, READ, 5.0) == HELD
    client.learn(BOB, relay.address)
    assert client.connected(BOB)
    assert await client.call(BOB, READ, 5.0) == HELD
    assert await client.call_address(relay.address, READ, 5.0) == HELD
    assert len(relay.sent) == 1


async def test_a_seed_known_by_another_spelling_is_not_kept_twice(network: Network) -> None:
    server, address = await network.server()
    client = await network.client()
    seed = address.replace("127.0.0.1", "localhost")
    await client.call_address(seed, READ, 5.0)
    client.learn(BOB, address)
    await client.call(BOB, READ, 5.0)
    await eventually(lambda: server.stats().peers == 1)
    assert client._seeds == {}


async def test_a_seed_is_tried_again_when_it_is_called_again(network: Network) -> None:
    address = await unused_address()
    client = await network.client()
    await error_of(client.call_address(address, READ, 5.0))
    await network.server(address=address)
    replies: list[Reply] = []
    async with asyncio.timeout(10):
        while not replies:
            with contextlib.suppress(PeerUnreachable):
                replies.append(await client.call_address(address, READ, 5.0))
            await asyncio.sleep(0)  # a call that fails at once does not let others run
    assert replies == [HELD]


async def test_ones_own_address_among_the_seeds_is_no_trouble(network: Network) -> None:
    me, told = identity(BOB), Told()
    _, address = await network.server(who=me, report=told)
    client = await network.client(me, report=told)
    error = await error_of(client.call_address(address, READ, 5.0))
    assert isinstance(error, PeerUnreachable)
    assert f"{address} is the address of this node itself" in str(error)
    client.learn(BOB, address)
    assert client.stats() == {}
    assert told.events == []


async def test_the_number_of_seeds_is_bounded(network: Network) -> None:
    client = await network.client()
    for n in range(SEEDS_MAX * 2):
        client.call_address(f"127.0.0.1:x{n}", READ, 5.0)
    assert len(client._seeds) == SEEDS_MAX
    await eventually(lambda: not any(link.calls for link in client._seeds.values()))
    assert "is not of the form host:port" in str(await error_of(client.call_address("one more", READ, 5.0)))
    assert len(client._seeds) == SEEDS_MAX


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:70000", "::1:7000", "host:", ""])
async def test_an_address_that_is_none_says_so(network: Network, address: str) -> None:
    """It may have come from a peer: learning it must not raise."""
    client = await network.client()
    client.learn(BOB, address)
    error = await error_of(client.call(BOB, READ, 5.0))
    assert isinstance(error, PeerUnreachable)
    assert "host:port" in str(error) or "brackets" in str(error)
