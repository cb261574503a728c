"""Links and calls between simulated processes: what the real adapter promises, and what may go wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from kvstore.core.message import Get, Held, Read, Reply, Request
from kvstore.errors import CorruptRecord, PeerRefused, PeerTimeout, PeerUnreachable, QuorumNotMet
from kvstore.simulation.loop import Owner, VirtualTimeLoop
from kvstore.simulation.network import MESSAGE_LIFE_S, SILENCE_S, Effect, Endpoint, Network, SimulatedPeers
from kvstore.simulation.trace import Trace

READ = Read(1, b"k")


class Net:
    """Two processes, a and b; what reached whom, and when. `answers` says what b makes of a request."""

    def __init__(self, loop: VirtualTimeLoop, **settings: float) -> None:
        self.loop = loop
        self.network = Network(loop, 1, Trace(loop), **settings)
        self.served: list[tuple[float, str, float]] = []
        self.answer: Reply | Exception = Held(True)
        self.a, self.b = self.start("a"), self.start("b")
        self.from_a = self.peers(self.a)

    def start(self, name: str) -> Endpoint:
        endpoint = Endpoint(name, f"id-{name}", Owner(name), lambda s, r, d: self._serve(name, s, r, d))
        self.network.attach(endpoint, f"{name}:1")
        return endpoint

    def peers(self, endpoint: Endpoint) -> SimulatedPeers:
        peers = self.network.peers_of(endpoint)
        for name in ("a", "b"):
            peers.learn(f"id-{name}", f"{name}:1")
        return peers

    def _serve(self, name: str, sender: str, request: Request, deadline_s: float) -> Reply:
        self.served.append((self.loop.time(), name, deadline_s))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def call(self, request: Request = READ, deadline_s: float = 0.5) -> asyncio.Future[Reply]:
        future: asyncio.Future[Reply] = self.a.owner.run(self.from_a.call, "id-b", request, deadline_s)
        return future


def simulated(run: Coroutine[Any, Any, Any], loop: VirtualTimeLoop) -> None:
    try:
        loop.run_until_complete(run)
    finally:
        loop.close()


def test_a_call_takes_the_latency_of_two_links() -> None:
    loop = VirtualTimeLoop()

    async def run() -> None:
        net = Net(loop, latency_s=0.01, jitter_s=0.0)
        assert await net.call() == Held(True)
        assert loop.time() == pytest.approx(0.02)
        ((arrived_s, sender, deadline_s),) = net.served
        assert (sender, deadline_s) == ("b", 0.5)
        assert arrived_s == pytest.approx(0.01)

    simulated(run(), loop)


def test_errors_are_those_of_the_real_adapter() -> None:
    loop = VirtualTimeLoop()

    async def run() -> None:
        net = Net(loop)
        net.answer = QuorumNotMet(required=2, received=1, asked=3, outcome="unknown", advice="again")
        with pytest.raises(PeerRefused) as refused:
            await net.call()
        assert (refused.value.code, refused.value.outcome) == ("QuorumNotMet", "unknown")
        assert refused.value.problem == {"required": 2, "received": 1, "asked": 3}
        net.answer = CorruptRecord("rotten")
        with pytest.raises(PeerRefused, match="rotten"):
            await net.call()
        with pytest.raises(PeerUnreachable):
            await net.from_a.call("nobody", READ, 0.5)
        net.network.detach(net.b)
        with pytest.raises(PeerUnreachable):
            await net.call()

    simulated(run(), loop)


def test_behind_a_cut_calls_time_out_until_the_link_counts_as_broken_and_come_back_after_it() -> None:
    loop = VirtualTimeLoop()

    async def run() -> None:
        net, cut = Net(loop), Effect()
        net.network.begin("cuts", cut, [("b", "a")])
        outcomes = []
        while loop.time() < SILENCE_S + 1.0:
            began_s = loop.time()
            with pytest.raises((PeerTimeout, PeerUnreachable)) as failed:
                await net.call()
            outcomes.append((type(failed.value), loop.time() - began_s))
            await asyncio.sleep(0.1)
        kind, took_s = outcomes[0]
        assert kind is PeerTimeout
        assert took_s == pytest.approx(0.5)
        assert outcomes[-1] == (PeerUnreachable, 0.0)
        assert cut.hits >= 2
        assert len(net.served) >= 2, "one direction was open: what b did, nobody knows"
        net.network.end(cut)
        await asyncio.sleep(1.0)
        assert await net.call() == Held(True)

    simulated(run(), loop)


def test_everything_arrives_in_time_or_never() -> None:
    loop = VirtualTimeLoop()

    async def run() -> None:
        net = Net(loop, duplicates=0.5)
        net.network.begin("delays", Effect(10.0), [("a", "b")])
        sent_s = loop.time()
        calls = [net.call() for _ in range(100)]
        await asyncio.sleep(10.0)
        assert 100 < len(net.served) < 200, "all of them, and some twice"
        assert max(at_s for at_s, _, _ in net.served) <= sent_s + MESSAGE_LIFE_S
        assert any(at_s > sent_s + 0.5 for at_s, _, _ in net.served), "late ones are served all the same"
        timeouts = [call for call in calls if isinstance(call.exception(), PeerTimeout)]
        assert timeouts
        assert all(call.done() for call in calls)

    simulated(run(), loop)


def test_loss_loses_about_as_much_as_it_says() -> None:
    loop = VirtualTimeLoop()

    async def run() -> None:
        net, loss = Net(loop), Effect(0.3)
        net.network.begin("losses", loss, [("a", "b")])
        for _ in range(200):
            net.call().add_done_callback(lambda call: call.exception())
        await asyncio.sleep(1.0)
        assert 120 < len(net.served) < 160
        assert loss.hits == 200 - len(net.served)

    simulated(run(), loop)


def test_gossip_passes_a_gray_node_quickly() -> None:
    loop = VirtualTimeLoop()

    async def run() -> None:
        net, slow = Net(loop), Effect(1.0, data_only=True)
        net.network.begin("delays", slow, [("a", "b"), ("b", "a")])
        from kvstore.core.message import FetchCluster

        await net.call(FetchCluster())
        assert loop.time() < 0.05
        await net.call(READ, 5.0)
        assert loop.time() > 0.05

    simulated(run(), loop)


def test_what_reaches_a_stalled_process_waits_for_it_but_not_for_ever() -> None:
    loop = VirtualTimeLoop()

    async def run() -> None:
        net = Net(loop)
        loop.stall(net.b.owner)
        old = net.call()
        await asyncio.sleep(SILENCE_S - 0.1)
        young = net.call(deadline_s=MESSAGE_LIFE_S)
        await asyncio.sleep(MESSAGE_LIFE_S - SILENCE_S + 0.2)
        loop.resume(net.b.owner)
        net.network.release(net.b)
        assert await young == Held(True)
        assert len(net.served) == 1
        assert isinstance(old.exception(), PeerTimeout)

    simulated(run(), loop)


def test_no_message_reaches_the_process_that_comes_after_the_one_it_was_sent_to() -> None:
    loop = VirtualTimeLoop()

    async def run() -> None:
        net = Net(loop, latency_s=0.1)
        call = net.call()
        await asyncio.sleep(0.05)
        loop.end(net.b.owner)
        net.network.detach(net.b)
        net.start("b")
        with pytest.raises(PeerTimeout):
            await call
        assert not net.served
        assert await net.call() == Held(True)

    simulated(run(), loop)


def test_a_process_that_has_ended_sends_nothing_more() -> None:
    loop = VirtualTimeLoop()

    async def run() -> None:
        net = Net(loop)
        loop.end(net.a.owner)
        with pytest.raises(PeerUnreachable):
            await net.call(Get("b", b"k"))
        assert net.network.sent == 0

    simulated(run(), loop)
