"""The contract of `ports.Peers` over real TCP: what a call ends with, and when."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any, cast

import pytest

from kvstore.core.gossip_message import Gossip, Gossiped
from kvstore.core.limits import DEFAULT_LIMITS
from kvstore.core.membership import Member
from kvstore.core.message import (
    Get,
    Held,
    Read,
    Reply,
    Request,
    Store,
    Stored,
)
from kvstore.errors import (
    InvalidRequest,
    KVStoreError,
    PeerRefused,
    PeerTimeout,
    PeerUnreachable,
    QuorumNotMet,
)
from kvstore.node.ports import Peers
from kvstore.rpc.peer_client import PeerClient
from kvstore.rpc.wire import encode_request
from tests.rpc.support import ANN, BOB, CARL, Network, Slow, echo, error_of, eventually, frames_of

MIB = 1 << 20
GOSSIP = Gossip(Member(ANN, "ann", "a:1", "a:2"), (), 0, b"", 0)


async def pair(network: Network, handler: Any = echo, **options: Any) -> PeerClient:
    _, address = await network.server(handler)
    client = await network.client(**options)
    client.learn(BOB, address)
    return client


# --- answers --------------------------------------------------------------------------------------------


async def test_a_call_is_answered_and_the_handler_knows_who_asks_and_how_long_it_may_take(
    network: Network,
) -> None:
    seen = []

    def handler(sender: str, request: Request, deadline_s: float) -> Reply:
        seen.append((sender, request, deadline_s))
        return Held(True)

    client = await pair(network, handler)
    peers: Peers = client  # fits by shape
    assert await peers.call(BOB, Read(3, b"key", b"digest"), 5.0) == Held(True)
    ((sender, request, deadline_s),) = seen
    assert (sender, request) == (ANN, Read(3, b"key", b"digest"))
    assert type(request) is Read
    assert 4.0 < deadline_s <= 5.0


async def test_answers_come_in_any_order_each_to_its_call(network: Network) -> None:
    slow = Slow()
    client = await pair(network, slow)
    calls = [client.call(BOB, Read(n, b"%d" % n), 30.0) for n in range(200)]
    await eventually(lambda: len(slow.requests) == 200)
    order = sorted(range(200), key=lambda n: n * 7919 % 200)
    for n in order:
        slow.answer(n)
    replies = await asyncio.gather(*calls)
    assert [cast(Held, reply).state for reply in replies] == [b"%d" % n for n in range(200)]


async def test_calls_of_one_turn_leave_in_one_frame_and_so_do_their_answers(network: Network) -> None:
    _, address = await network.server()
    relay = await network.relay(address)
    client = await network.client()
    client.learn(BOB, relay.address)
    await client.call(BOB, Read(0, b"warm"), 5.0)
    before = [len(list(frames_of(way))) for way in (relay.sent[0], relay.answered[0])]
    await asyncio.gather(*(client.call(BOB, Read(n, b"key"), 5.0) for n in range(100)))
    after = [len(list(frames_of(way))) for way in (relay.sent[0], relay.answered[0])]
    assert [now - then for now, then in zip(after, before, strict=True)] == [1, 1]


async def test_a_megabyte_goes_both_ways_among_small_calls(network: Network) -> None:
    client = await pair(network)
    sizes = [10, 3 * MIB, 20, 5 * MIB, 30, 0]
    calls = [client.call(BOB, Read(n, bytes([n]) * size), 30.0) for n, size in enumerate(sizes)]
    for n, reply in enumerate(await asyncio.gather(*calls)):
        assert cast(Held, reply).state == bytes([n]) * sizes[n]


async def test_every_answer_of_another_class_than_asked_is_an_internal_error(network: Network) -> None:
    told: list[str] = []
    _, address = await network.server(lambda *_: Stored(), report=lambda event, **f: told.append(event))
    client = await network.client()
    client.learn(BOB, address)
    assert cast(PeerRefused, await error_of(client.call(BOB, Read(1, b"k"), 5.0))).code == "InternalError"
    assert await client.call(BOB, Store(1, b"k", b"s"), 5.0) == Stored()
    assert told == ["request failed"]


# --- refusals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("later", [False, True])
async def test_an_error_of_the_handler_travels_to_the_caller(network: Network, later: bool) -> None:
    def handler(sender: str, request: Request, deadline_s: float) -> Any:
        error = QuorumNotMet(required=2, received=1, asked=3, advice="wait")
        if not later:
            raise error
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        future.set_exception(error)
        return future

    client = await pair(network, handler)
    error = cast(PeerRefused, await error_of(client.call(BOB, Get("b", b"k"), 5.0)))
    assert isinstance(error, PeerRefused)
    assert (error.code, error.detail) == ("QuorumNotMet", "1 of 3 replicas answered, 2 needed")
    assert (error.outcome, error.advice, error.problem["required"]) == ("unknown", "wait", 2)


async def test_a_bug_in_the_handler_costs_its_call_and_nothing_else(network: Network) -> None:
    told: list[dict[str, Any]] = []

    async def fails() -> Reply:
        raise RuntimeError("a bug, later")

    def handler(sender: str, request: Request, deadline_s: float) -> Any:
        if request == Read(1, b"bug"):
            raise ZeroDivisionError("a bug")
        if request == Read(2, b"bug"):
            return asyncio.ensure_future(fails())
        return Held(True)

    _, address = await network.server(handler, report=lambda event, **fields: told.append(fields))
    client = await network.client()
    client.learn(BOB, address)
    good = client.call(BOB, Read(0, b"k"), 5.0)
    for n in (1, 2):
        error = cast(PeerRefused, await error_of(client.call(BOB, Read(n, b"bug"), 5.0)))
        assert error.code == "InternalError"
        assert "bug" not in str(error), "what went wrong inside is for the log there"
    assert await good == Held(True)
    assert client.stats()[BOB].connects == 1
    assert [type(fields["exc_info"]) for fields in told] == [ZeroDivisionError]  # the second: rate limited
    assert told[0]["peer"] == ANN


@pytest.mark.parametrize(
    "request_",
    [Read(2**70, b"k"), Get("\ud800", b"k"), Read(1, cast(bytes, object()))],
    ids=["a large number", "no text", "no bytes"],
)
async def test_what_cannot_be_encoded_fails_alone(network: Network, request_: Request) -> None:
    client = await pair(network)
    good = client.call(BOB, Read(1, b"k"), 5.0)
    error = cast(PeerRefused, await error_of(client.call(BOB, request_, 5.0)))
    assert error.code == "InvalidRequest"
    assert await good == Held(False, b"k")


async def test_what_does_not_fit_a_frame_is_refused_on_either_side(network: Network) -> None:
    limits = replace(DEFAULT_LIMITS, frame_bytes_max=MIB)
    _, address = await network.server(lambda *_: Held(False, bytes(MIB)), limits=limits)
    client = await network.client(limits=limits)
    client.learn(BOB, address)
    for key in (bytes(MIB), b"its answer is what is too large"):
        error = cast(PeerRefused, await error_of(client.call(BOB, Read(1, key), 5.0)))
        assert error.code == "TooLarge"
        assert "the limit is" in str(error)
    assert client.stats()[BOB].connects == 1


# --- time -----------------------------------------------------------------------------------------------


async def test_a_call_ends_with_its_deadline_and_a_late_answer_is_dropped(network: Network) -> None:
    slow = Slow()
    client = await pair(network, slow)
    await eventually(lambda: client.connected(BOB))
    started_s = time.monotonic()
    error = await error_of(client.call(BOB, Read(1, b"late"), 0.1))
    assert isinstance(error, PeerTimeout)
    assert "no answer within 0.1 s" in str(error)
    assert 0.09 < time.monotonic() - started_s < 5.0
    assert client.stats()[BOB].in_flight == 0
    slow.answer(0)
    again = client.call(BOB, Read(2, b"in time"), 10.0)
    await eventually(lambda: len(slow.requests) == 2)
    slow.answer(1)
    assert await again == Held(False, b"in time")
    assert client.stats()[BOB].connects == 1


async def test_each_call_has_its_own_deadline(network: Network) -> None:
    client = await pair(network, Slow())
    calls = {name: client.call(BOB, Read(1, b"k"), s) for name, s in (("long", 30.0), ("short", 0.05))}
    await error_of(calls["short"])
    assert not calls["long"].done()
    assert client.stats()[BOB].in_flight == 1


async def test_nothing_ticks_while_nothing_is_asked(network: Network) -> None:
    client = await pair(network)
    await client.call(BOB, Read(1, b"k"), 5.0)
    await eventually(lambda: client._timer is None)
    await client.call(BOB, Read(1, b"k"), 5.0)
    assert client._timer is not None


async def test_a_caller_may_give_up(network: Network) -> None:
    slow = Slow()
    client = await pair(network, slow)
    given_up, other = (client.call(BOB, Read(n, b"%d" % n), 10.0) for n in range(2))
    await eventually(lambda: len(slow.requests) == 2)
    given_up.cancel()
    slow.answer(0)
    slow.answer(1)
    assert await other == Held(False, b"1")
    assert given_up.cancelled()
    assert client.stats()[BOB].in_flight == 0
    assert client.stats()[BOB].failures == 0


async def test_a_caller_may_give_up_and_no_answer_comes(network: Network) -> None:
    client = await pair(network, Slow())
    call = client.call(BOB, Read(1, b"k"), 0.05)
    call.cancel()
    await eventually(lambda: client.stats()[BOB].in_flight == 0)


async def test_no_time_left_is_said_before_anything_is_sent(network: Network) -> None:
    client = await pair(network)
    error = await error_of(client.call(BOB, Read(1, b"k"), 0.0))
    assert isinstance(error, PeerUnreachable)
    assert "no time left" in str(error)


async def test_time_spent_waiting_to_be_sent_is_not_given_to_the_peer(network: Network) -> None:
    seen: list[float] = []

    def handler(sender: str, request: Request, deadline_s: float) -> Reply:
        seen.append(deadline_s)
        return Held(True)

    _, address = await network.server(handler)
    relay = await network.relay(address)
    relay.hold()
    client = await network.client()
    client.learn(BOB, relay.address)
    started_s = time.monotonic()
    call = client.call(BOB, Read(1, b"k"), 20.0)
    await eventually(lambda: time.monotonic() - started_s > 0.2)
    relay.release()
    await call
    assert 15.0 < seen[0] <= 19.81


async def test_requests_that_waited_too_long_here_are_not_worked_on(network: Network) -> None:
    """Both arrive in one frame; while the first is worked on, the time of the second runs out."""
    worked_on: list[bytes] = []

    def handler(sender: str, request: Request, deadline_s: float) -> Reply:
        assert isinstance(request, Read)
        worked_on.append(request.key)
        until_s = time.monotonic() + 0.2
        while time.monotonic() < until_s:
            pass
        return Held(True)

    server, address = await network.server(handler)
    client = await network.client()
    client.learn(BOB, address)
    await eventually(lambda: client.connected(BOB))
    first, second = client.call(BOB, Read(1, b"first"), 10.0), client.call(BOB, Read(2, b"second"), 0.1)
    assert await first == Held(True)
    assert isinstance(await error_of(second), PeerTimeout)
    assert worked_on == [b"first"]
    assert server.stats().expired == 1


# --- without a future -----------------------------------------------------------------------------------


async def test_who_asks_is_told_once_and_never_before_the_call_returns(network: Network) -> None:
    client = await pair(network, echo)
    told: list[Reply | KVStoreError] = []
    client.ask(BOB, Read(1, b"k"), 10.0, told.append)
    client.ask("nobody", Read(1, b"k"), 10.0, told.append)
    client.ask(BOB, Read(1, b"k"), 0.0, told.append)
    assert told == []
    await eventually(lambda: len(told) == 3)
    assert sorted(type(outcome).__name__ for outcome in told) == ["Held", *["PeerUnreachable"] * 2]
    await client.call(BOB, Read(1, b"k"), 10.0)
    assert len(told) == 3


async def test_a_fault_of_one_who_is_told_ends_neither_the_connection_nor_other_calls(
    network: Network,
) -> None:
    client = await pair(network, echo)
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    told: list[Reply | KVStoreError] = []

    def broken(outcome: Reply | KVStoreError) -> None:
        raise RuntimeError("a bug")

    client.ask(BOB, Read(1, b"k"), 10.0, broken)
    client.ask(BOB, Read(2, b"k"), 10.0, told.append)
    await eventually(lambda: told)
    assert isinstance(told[0], Held)
    assert [str(fault["exception"]) for fault in faults] == ["a bug"]
    assert client.stats()[BOB].connects == 1


# --- bounds ---------------------------------------------------------------------------------------------


async def test_too_many_calls_fail_at_once_and_control_is_kept_room_for(network: Network) -> None:
    """B23. Data may fill what background may fill half of; the cluster can still talk about itself."""
    answered = Gossiped(*GOSSIP)
    slow = Slow()

    def handler(sender: str, request: Request, deadline_s: float) -> Any:
        return answered if isinstance(request, Gossip) else slow(sender, request, deadline_s)

    client = await pair(network, handler, limits=replace(DEFAULT_LIMITS, peer_in_flight_max=8))
    background = [client.call(BOB, Read(n, b"%d" % n), 10.0, background=True) for n in range(5)]
    data = [client.call(BOB, Read(n, b"%d" % n), 10.0) for n in range(5)]
    for refused in (background[4], data[4]):
        assert refused.done()
        error = await error_of(refused)
        assert isinstance(error, PeerUnreachable)
        assert "too many calls in flight" in str(error)
    assert await client.call(BOB, GOSSIP, 10.0, background=True) == answered
    await eventually(lambda: len(slow.requests) == 8)
    for n in range(8):
        slow.answer(n)
    await asyncio.gather(*background[:4], *data[:4])


async def test_a_peer_that_does_not_read_costs_bounded_memory(network: Network) -> None:
    """B23. What was accepted arrives once it reads again; what was not, was never sent."""
    received: list[int] = []
    deadlines_s: list[float] = []

    def handler(sender: str, request: Request, deadline_s: float) -> Reply:
        assert isinstance(request, Store)
        received.append(request.partition)
        deadlines_s.append(deadline_s)
        return Stored()

    _, address = await network.server(handler)
    relay = await network.relay(address)
    client = await network.client(limits=replace(DEFAULT_LIMITS, peer_outbox_bytes_max=4 * MIB))
    client.learn(BOB, relay.address)
    await eventually(lambda: client.connected(BOB))
    relay.hold()
    calls = []
    for n in range(100):
        calls.append(client.call(BOB, Store(n, b"k", bytes(MIB)), 60.0))
        await asyncio.sleep(0)  # let it be sent as far as it goes
    refused = [n for n, call in enumerate(calls) if call.done()]
    assert 50 < len(refused) < 97, "the kernel takes some, the outbox 4, and no more"
    for n in refused:
        error = await error_of(calls[n])
        assert isinstance(error, PeerUnreachable)
        assert "too many bytes" in str(error)
    held_s = time.monotonic() + 0.2
    await eventually(lambda: time.monotonic() > held_s)
    relay.release()
    await asyncio.gather(*(call for call in calls if not call.done()))
    assert deadlines_s[-1] < 59.81, "what waited here was not given the time it had at first"
    assert received == [n for n in range(100) if n not in refused]


async def test_a_server_works_on_a_bounded_number_of_calls_per_peer(network: Network) -> None:
    slow = Slow()
    _, address = await network.server(slow, limits=replace(DEFAULT_LIMITS, peer_in_flight_max=4))
    client = await network.client()
    client.learn(BOB, address)
    calls = [client.call(BOB, Read(n, b"%d" % n), 10.0) for n in range(6)]
    for n in (4, 5):
        assert cast(PeerRefused, await error_of(calls[n])).code == "Overloaded"
    for n in range(4):
        slow.answer(n)
    await asyncio.gather(*calls[:4])


async def test_replies_to_a_peer_that_does_not_read_are_dropped_in_the_end(network: Network) -> None:
    limits = replace(DEFAULT_LIMITS, peer_outbox_bytes_max=4 * MIB)
    server, address = await network.server(lambda *_: Held(False, bytes(MIB)), limits=limits)
    raw = await network.raw(address)
    for n in range(100):
        raw.send(encode_request(n, 2, 30.0, 0, Read(1, b"k")))
    await eventually(lambda: server.stats().dropped > 0)
    client = await network.client()
    client.learn(BOB, address)
    assert await client.call(BOB, Read(1, b"k"), 10.0) == Held(False, bytes(MIB))


# --- who ------------------------------------------------------------------------------------------------


async def test_a_node_nobody_told_of_is_unreachable_at_once(network: Network) -> None:
    client = await network.client()
    call = client.call(CARL, Read(1, b"k"), 5.0)
    assert call.done()
    error = await error_of(call)
    assert isinstance(error, PeerUnreachable)
    assert not error.sent
    assert f"no address is known of node {CARL}" in str(error)


async def test_failures_that_nobody_looks_at_are_not_logged(
    network: Network, caplog: pytest.LogCaptureFixture
) -> None:
    """A late vote is nobody's business any more."""
    client = await pair(network, lambda *_: (_ for _ in ()).throw(InvalidRequest("no")))
    client.call(CARL, Read(1, b"k"), 5.0)
    client.call(BOB, Read(1, b"k"), 5.0)
    await eventually(lambda: client.stats()[BOB].failures == 1)
    await asyncio.sleep(0)
    assert caplog.records == []


async def test_calls_failures_and_bytes_are_counted(network: Network) -> None:
    _, address = await network.server()
    relay = await network.relay(address)
    client = await network.client()
    client.learn(BOB, relay.address)
    await client.call(BOB, Read(1, b"k"), 5.0)
    client.call(BOB, Read(2**70, b"k"), 5.0)
    stats = client.stats()[BOB]
    assert (stats.connected, stats.calls, stats.failures, stats.connects) == (True, 2, 1, 1)
    assert (stats.bytes_sent, stats.bytes_received) == (len(relay.sent[0]), len(relay.answered[0]))
