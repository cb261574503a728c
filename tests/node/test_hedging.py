"""Reads whose homes are late, and homes that are slow beside the others."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest

from kvstore.core.circuit_breaker import State
from kvstore.core.hedging import SAVED_FIRST
from kvstore.core.limits import Limits
from kvstore.core.message import Get, Read, Scan, Store
from kvstore.core.quorum import Tally
from kvstore.errors import InvalidRequest
from kvstore.node.fan_out import FanOut
from kvstore.node.hedges import Hedges
from kvstore.node.node import Node
from kvstore.node.peer_latency import PeerLatency
from kvstore.node.reach import Reach
from tests.node.world import QUIET, World, get, put, values

KEY = b"k"
LATE_S = 0.06
IMPATIENT = replace(QUIET, slow_peer_answers_min=2)


async def _three(limits: Limits) -> World:
    world = World()
    for name in ("n1", "n2", "n3"):
        await world.start(name, limits=limits)
    world.form_at_once()
    await put(world.named("n1"), KEY, b"v", w=3)
    return world


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = await _three(IMPATIENT)
    yield world
    await world.stop()


def reads_asked(world: World) -> Counter[str]:
    """Of n1, by whom it asked."""
    return Counter(to for who, to, what in world.calls if who == "n1" and isinstance(what, Read))


async def until_read(node: Node, condition: Callable[[], bool]) -> None:
    """Read on until it holds."""
    while not condition():
        assert values(await get(node, KEY)) == [b"v"]


async def test_a_read_whose_home_is_late_is_answered_by_the_next_one(world: World) -> None:
    n1 = world.named("n1")
    world.mute.add("n2")
    for _ in range(4):
        world.calls.clear()
        began_s = world.loop.time()
        got = await get(n1, KEY)
        assert values(got) == [b"v"]
        assert got.receipt.acks == 2
        assert world.loop.time() - began_s < QUIET.peer_deadline_s / 2
    assert 1 <= n1.coordinator.hedges.sent <= 4


async def test_a_hedge_is_another_home_and_votes_are_of_distinct_ones() -> None:
    """R=3 of three homes leaves nobody to hedge to; R=2 leaves one, and the late answer is no third vote."""
    world = await _three(replace(IMPATIENT, hedge_delay_s=0.01))
    n1 = world.named("n1")
    world.slow.update(n2=LATE_S, n3=LATE_S)
    for r in (2, 2, 2, 3):
        world.calls.clear()
        got = await get(n1, KEY, r=r)
        nodes = [node for node, _, _ in got.receipt.replicas]
        assert len(nodes) == len(set(nodes)) == got.receipt.acks == r
        assert reads_asked(world) == {"n2": 1, "n3": 1}
    assert n1.coordinator.hedges.sent == 3
    await world.stop()


async def test_a_read_in_time_asks_r_homes_and_no_more(world: World) -> None:
    for _ in range(20):
        await get(world.named("n1"), KEY)
    assert reads_asked(world).total() == 20
    assert set(reads_asked(world)) == {"n2", "n3"}, "in turn"
    assert world.named("n1").coordinator.hedges.sent == 0


async def test_a_home_that_stands_still_is_asked_last_before_the_first_deadline_has_passed() -> None:
    """Without a budget for hedges each read that asked it waited out its deadline, in a place of its own."""
    world = await _three(replace(IMPATIENT, hedge_delay_s=0.01, hedge_share_max=0.0, peer_deadline_s=5.0))
    n1 = world.named("n1")
    while n1.coordinator.hedges._budget.take():
        pass
    world.mute.add("n2")
    still, waiting = world.named("n2").node_id, []
    async with asyncio.timeout(4.0):
        while n1.reach.latency.state(still) is State.CLOSED:
            waiting.append(asyncio.ensure_future(get(n1, KEY)))
            await asyncio.sleep(0.01)
    assert n1.reach.failures(still) == 0, "no deadline has passed"
    world.calls.clear()
    for _ in range(6):
        await get(n1, KEY)
    assert reads_asked(world) == {"n3": 6}
    for read in waiting:
        read.cancel()
    await world.stop()


async def test_one_answer_in_between_is_no_silence() -> None:
    world = await _three(replace(IMPATIENT, hedge_delay_s=0.01))
    n1 = world.named("n1")
    for number in range(12):
        world.mute.clear()
        if number % 3:
            world.mute.add("n2")
        await get(n1, KEY)
        await get(n1, KEY)
        await asyncio.sleep(0.02)
    assert n1.coordinator.hedges.sent >= 6
    assert n1.reach.latency.opened == 0
    await world.stop()


async def test_what_only_the_hedge_knows_is_shown(world: World) -> None:
    """The late home has missed the write, and so has the coordinator."""
    n1 = world.named("n1")
    world.intercept = lambda who, to, request: (
        None if isinstance(request, Store) and to in ("n1", "n2") else request
    )
    await put(world.named("n3"), KEY, b"new", w=1, sloppy=False)
    assert values(await get(n1, KEY, r=1)) == [b"v"]
    world.intercept = lambda _who, _to, request: request
    world.mute.add("n2")
    for _ in range(2):
        assert values(await get(n1, KEY)) == [b"new"]
    assert reads_asked(world)["n2"] == 1
    assert n1.coordinator.hedges.sent == 1


async def test_hedges_end_with_the_budget() -> None:
    world = await _three(replace(IMPATIENT, hedge_delay_s=0.01, slow_peer_factor=1e9, hedge_share_max=0.001))
    n1 = world.named("n1")
    world.slow.update(n2=0.03, n3=0.03)
    for _ in range(int(SAVED_FIRST) + 5):
        assert values(await get(n1, KEY)) == [b"v"]
    assert n1.coordinator.hedges.sent == SAVED_FIRST
    assert n1.coordinator.hedges.refused == 5
    await world.stop()


async def test_a_delay_beyond_the_deadline_turns_hedges_off() -> None:
    world = await _three(replace(IMPATIENT, hedge_delay_s=10.0, slow_peer_factor=1e9))
    world.slow.update(n2=0.03, n3=0.03)
    for _ in range(3):
        world.calls.clear()
        await get(world.named("n1"), KEY)
        assert reads_asked(world).total() == 1
    assert world.named("n1").coordinator.hedges.sent == 0
    await world.stop()


# --- the timer --------------------------------------------------------------------------------------


class Wheel:
    """Hedges over a loop whose only timer is run by hand. Every home is in reach, none answers."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.timers: list[Callable[[], None]] = []
        self.asked = 0
        limits = Limits(hedge_delay_s=0.01)
        reach = cast(Reach, lambda _node: True)
        latency = PeerLatency(lambda: self.now_s, limits)
        loop = cast(asyncio.AbstractEventLoop, self)
        self.hedges = Hedges(loop, lambda: self.now_s, reach, latency, limits)

    def call_later(self, _wait_s: float, callback: Callable[[], None]) -> SimpleNamespace:
        self.timers.append(callback)
        return SimpleNamespace(cancel=lambda: self.timers.remove(callback))

    def read(self) -> None:
        reads = SimpleNamespace(
            tally=Tally(asked=1, need=1),
            started_s=self.now_s,
            ask_one_more=lambda *_: self._more(),
            answers=[],
            failures=[],
        )
        self.hedges.watch(cast(FanOut, reads), Read(0, b"k"), ["n3"], ["n2"], 0.5)

    def _more(self) -> None:
        self.asked += 1

    def tick(self, *, late_s: float) -> None:
        """The timer, so much after it was due."""
        (timer,) = self.timers
        self.timers.clear()
        self.now_s = self.hedges._due_s + late_s
        timer()


def test_a_process_that_stood_still_looks_into_its_sockets_before_it_hedges() -> None:
    wheel = Wheel()
    wheel.read()
    wheel.tick(late_s=0.2)
    assert wheel.asked == 0
    while not wheel.asked:
        wheel.tick(late_s=0.001)
    assert wheel.now_s < 100.0 + 0.25


def test_a_timer_that_is_always_late_still_lets_go_of_the_reads() -> None:
    """It kept all of them for as long as the loop was overloaded."""
    wheel, kept = Wheel(), []
    for _ in range(200):
        wheel.read()
        wheel.tick(late_s=0.05)
        kept.append(len(wheel.hedges._wheel))
    assert max(kept) < 10
    assert wheel.asked


def test_reads_share_one_timer_and_leave_none_behind() -> None:
    wheel = Wheel()
    for _ in range(10):
        for _ in range(10):
            wheel.read()
        wheel.tick(late_s=0.0)
    assert len(wheel.timers) == 1
    while wheel.hedges._wheel:
        wheel.tick(late_s=0.0)
    assert wheel.asked == SAVED_FIRST + 5, "5 % of a hundred reads"


# --- homes that are slow ------------------------------------------------------------------------------


async def test_a_slow_home_is_asked_last_still_written_to_and_taken_back_when_it_is_quick(
    world: World,
) -> None:
    n1, slow = world.named("n1"), world.named("n2").node_id
    state = n1.reach.latency.state
    world.slow["n2"] = LATE_S
    await until_read(n1, lambda: state(slow) is State.OPEN)
    assert n1.reach.state(slow) is State.CLOSED, "it fails nothing"
    assert n1.reach.latency.state(world.named("n3").node_id) is State.CLOSED

    members = {member["name"]: member for member in n1.cluster()["members"]}
    assert [members[name]["state"] for name in ("n1", "n2", "n3")] == ["up", "slow", "up"]
    assert members["n2"]["read_median_ms"] >= LATE_S * 1000 > members["n3"]["read_median_ms"]
    homes = (await n1.explain("b", KEY))["homes"]
    assert {home["name"]: home["latency_breaker"] for home in homes} == {
        "n1": "self",
        "n2": "open",
        "n3": "closed",
    }
    assert n1.peers()["slow_found"] == 1

    world.calls.clear()
    while reads_asked(world).total() < 40:
        await get(n1, KEY)
    assert reads_asked(world)["n2"] <= 2, "by probes only"
    written = await put(n1, KEY, b"v", w=3)
    assert slow in [node for node, _, _ in written.receipt.replicas]
    assert not written.receipt.hinted
    await n1.scan("b", prefix=b"", after=b"", limit=10, values=False, r=None, timeout_s=1)
    assert {to for who, to, what in world.calls if who == "n1" and isinstance(what, Scan)} == {"n3"}

    del world.slow["n2"]
    await until_read(n1, lambda: state(slow) is State.CLOSED)
    world.calls.clear()
    for _ in range(10):
        await get(n1, KEY)
    assert reads_asked(world) == {"n2": 5, "n3": 5}


async def test_a_slow_home_whose_answer_is_needed_is_asked(world: World) -> None:
    n1, slow = world.named("n1"), world.named("n2").node_id
    world.slow["n2"] = LATE_S
    await until_read(n1, lambda: n1.reach.latency.state(slow) is State.OPEN)
    assert (await get(n1, KEY, r=3)).receipt.acks == 3
    world.down.add("n3")
    got = await get(n1, KEY)
    assert slow in [node for node, _, _ in got.receipt.replicas]


async def test_where_all_homes_are_slow_none_is_asked_last(world: World) -> None:
    n1 = world.named("n1")
    world.slow.update(n2=0.03, n3=0.03)
    began_s = world.loop.time()
    await until_read(n1, lambda: world.loop.time() - began_s > 0.7)
    assert not n1.reach.latency.slow
    assert n1.reach.latency.delay_s > 0.03, "what is usual has changed"


async def test_a_forwarded_read_whose_home_is_late_goes_to_the_next_one_too(five: World) -> None:
    """By a node that is no home of the key; in time it asks the slow one last."""
    other, homes = five.others("b", KEY)[0], five.homes("b", KEY)
    await put(other, KEY, b"v")
    five.slow[homes[0].name] = 0.2
    for _ in range(6):
        began_s = five.loop.time()
        got = await get(other, KEY)
        assert values(got) == [b"v"]
        assert got.receipt.coordinator in (homes[1].node_id, homes[2].node_id)
        assert five.loop.time() - began_s < 0.2
    assert other.coordinator.forwarding.hedges.sent >= 2
    assert other.coordinator.hedges.sent == 0


async def test_a_forwarded_read_whose_home_is_down_goes_to_the_next_one(five: World) -> None:
    """Also the first one, which nobody has missed yet; and without waiting for a hedge."""
    other, homes = five.others("b", KEY)[0], five.homes("b", KEY)
    await put(other, KEY, b"v")
    five.down.add(homes[0].name)
    for _ in range(len(homes)):  # each home in its turn
        got = await other.get(Get("b", KEY, sloppy=False))
        assert values(got) == [b"v"]
        assert got.receipt.coordinator != homes[0].node_id
    assert other.reach.failures(homes[0].node_id), "it was asked first"
    assert other.coordinator.forwarding.hedges.sent == 0


async def test_a_forwarded_read_that_a_home_refuses_is_not_sent_to_another(five: World) -> None:
    other = five.others("b", KEY)[0]
    five.calls.clear()
    with pytest.raises(InvalidRequest, match="between 1 and n"):
        await five.homes("b", KEY)[0].get(Get("b", KEY, r=9))
    five.intercept = lambda _who, _to, request: request._replace(r=9) if isinstance(request, Get) else request
    with pytest.raises(InvalidRequest, match="between 1 and n"):
        await get(other, KEY)
    assert [type(what) for _, _, what in five.calls] == [Get]


async def test_writes_are_forwarded_to_quick_homes(five: World) -> None:
    other, homes = five.others("b", KEY)[0], five.homes("b", KEY)
    latency, slow = other.reach.latency, homes[0].node_id
    while latency.state(slow) is State.CLOSED:
        for home in homes:
            for _ in range(Limits().slow_peer_answers_min):
                latency.heard(home.node_id, 0.2 if home is homes[0] else 0.001)
        latency.judge(five.loop.time())
    for _ in range(6):
        written = await put(other, KEY, b"v")
        assert written.receipt.coordinator in (homes[1].node_id, homes[2].node_id)
