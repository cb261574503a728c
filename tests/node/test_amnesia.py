"""Directories that were emptied, put back to an old copy, or copied: nothing is lost, reused or revived."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from kvstore.core.encoding import decode_state, encode_context
from kvstore.core.generation import Run
from kvstore.core.gossip_message import Gossip, Gossiped
from kvstore.core.membership import Member
from kvstore.core.message import (
    FetchCluster,
    Get,
    Held,
    Put,
    Read,
    Request,
    Store,
    StoreHint,
)
from kvstore.core.ring import PARTITIONS, full_key, partition_of
from kvstore.core.upkeep_message import CompareTrees, FetchStates, StatesFetched, StoreStates
from kvstore.core.vector_clock import CausalContext
from kvstore.errors import ConfigError, NotReady, QuorumNotMet, StorageFull
from kvstore.node.cluster_view import ClusterView
from kvstore.node.node import Node
from kvstore.node.ports import Kind
from kvstore.node.recovery import Recovery
from kvstore.node.replica import _Copy
from kvstore.storage.memory import MemoryDisk, MemoryStorage
from tests.node.world import World, get, put, until, values

KEY = b"k"
FULL = full_key("b", KEY)
P = partition_of(FULL)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """Three nodes that are a cluster at once."""
    made = World()
    for name in ("n1", "n2", "n3"):
        await made.start(name)
    made.form_at_once()
    yield made
    await made.stop()
    assert not made.fatal


def held(node: Node, key: bytes = KEY) -> list[bytes]:
    full = full_key("b", key)
    state = node._storage.get(Kind.DATA, partition_of(full), full)
    return sorted(v.value for v in decode_state(state).siblings.values()) if state else []


def dots(node: Node) -> dict[tuple[int, int], bytes]:
    found = {}
    for partition in range(PARTITIONS):
        for key, state in node._storage.scan(Kind.DATA, partition):
            found.update({dot: key + v.value for dot, v in decode_state(state or b"").siblings.items()})
    return found


def without_comparisons(world: World) -> None:
    """Refused, as between nodes that know other buckets."""
    world.intercept = lambda _a, _b, request: (
        request._replace(terms=b"others") if isinstance(request, CompareTrees) else request
    )


def with_everything(world: World) -> None:
    world.intercept = lambda _a, _b, request: request


async def wiped(world: World, name: str) -> Node:
    node_id = world.named(name).node_id
    return await world.restart(name, crash=True, disk=MemoryDisk(), recover_as=node_id)


async def told_how_far(world: World, name: str) -> None:
    """What this node has written is in its progress, and somebody remembers that."""
    node = world.named(name)
    await node.runs.advance()
    others = [other for other in world.nodes.values() if other is not node]
    await until(lambda: any(other.runs.of(node.node_id) == node.runs.mine for other in others))


async def recovered(node: Node) -> None:
    await until(lambda: not node.replica.recovering, deadline_s=10)


# --- an empty directory -------------------------------------------------------------------------------------


async def test_a_wiped_copy_gives_no_vote_until_it_was_compared_with_every_other_home(world: World) -> None:
    await put(world.named("n1"), KEY, b"v", w=3)
    without_comparisons(world)
    n3 = await wiped(world, "n3")
    assert {check: holds for check, holds, _ in n3.readiness()}["recognition"]
    assert values(await get(n3, KEY)) == [b"v"]  # made of the others

    world.down.add("n2")
    with pytest.raises(QuorumNotMet) as lost:
        await get(world.named("n1"), KEY, r=2)
    assert ("n3", "PeerRefused") in lost.value.replicas
    assert values(await get(world.named("n1"), KEY, r=1)) == [b"v"]

    with_everything(world)  # n2 is a home, too, and was not compared: what it alone has may have been here
    await until(lambda: len(n3.upkeep.recovery._compared) == PARTITIONS)
    assert held(n3) == [b"v"]
    assert len(n3.replica.recovering) == PARTITIONS
    world.down.clear()
    await recovered(n3)
    world.down.add("n2")
    assert values(await get(world.named("n1"), KEY, r=2)) == [b"v"]


async def test_a_wiped_copy_takes_writes_and_its_vote_for_them_counts(world: World) -> None:
    without_comparisons(world)
    n3 = await wiped(world, "n3")
    world.down.add("n2")
    assert (await put(world.named("n1"), KEY, b"v", w=2)).receipt.acks == 2
    assert (await put(n3, b"other", b"v", w=2)).receipt.acks == 2
    assert held(n3) == [b"v"]


async def test_a_listing_does_not_take_a_wiped_copy_for_complete(world: World) -> None:
    without_comparisons(world)
    for number in range(5):
        await put(world.named("n1"), b"k%d" % number, b"v", w=3)
    n3 = await wiped(world, "n3")

    async def listed(node: Node) -> tuple[int, bool]:
        page = await node.scan("b", prefix=b"", after=b"", limit=10, values=False, r=2, timeout_s=1.0)
        return len(page.items), page.complete

    assert await listed(n3) == (5, True)  # of the other two
    world.down.add("n2")
    assert not (await listed(world.named("n1")))[1]


async def test_what_is_unreadable_is_not_replaced_on_the_word_of_a_wiped_copy(world: World) -> None:
    await put(world.named("n1"), KEY, b"v", w=3)
    without_comparisons(world)
    await wiped(world, "n3")
    n1 = world.named("n1")
    repaired = await n1.upkeep.keys.repair(P, FULL)
    assert repaired.missing == (world.named("n3").node_id,)


async def test_a_recovery_that_was_cut_off_goes_on_after_a_restart(world: World) -> None:
    await put(world.named("n1"), KEY, b"v", w=3)
    without_comparisons(world)
    n3 = await wiped(world, "n3")
    await world.storages["n3"].sync()
    n3 = await world.restart("n3", crash=True)
    assert len(n3.replica.recovering) == PARTITIONS
    with_everything(world)
    await recovered(n3)
    n3 = await world.restart("n3")
    assert not n3.replica.recovering
    assert held(n3) == [b"v"]


async def test_a_disk_that_is_full_when_copies_have_recovered_keeps_them_from_nothing(world: World) -> None:
    """On disk they recover until it has room, which costs comparisons after the next start and no more."""
    await put(world.named("n1"), KEY, b"v", w=3)
    without_comparisons(world)
    n3 = await wiped(world, "n3")
    n3.replica.store(P, FULL, world.named("n1").replica.read(P, FULL))
    await world.storages["n3"].sync()
    world.storages["n3"].disk.full = True
    with_everything(world)
    await recovered(n3)
    assert values(await get(n3, KEY, r=1)) == [b"v"]
    world.storages["n3"].disk.full = False
    n3 = await world.restart("n3")
    await recovered(n3)
    assert held(n3) == [b"v"]


async def test_a_disk_that_is_full_at_the_start_keeps_a_node_from_nothing_it_holds_no_copy_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = World()
    for name in ("n1", "n2", "n3", "n4", "n5"):
        await made.start(name, expect=5)
    made.form_at_once()
    ask = Recovery.ask

    def with_a_full_disk(self: Recovery) -> None:
        made.storages["n3"].disk.full = True
        ask(self)

    monkeypatch.setattr(Recovery, "ask", with_a_full_disk)
    await recovered(await wiped(made, "n3"))
    made.storages["n3"].disk.full = False
    await made.stop()
    assert "background task failed" not in made.reports


async def test_a_loop_that_ends_by_itself_is_told_of(world: World) -> None:
    async def full() -> None:
        raise StorageFull("no space")

    world.named("n1").background.start_loop("endless", full())
    await until(lambda: world.reports == ["background task failed"])


async def test_a_wiped_node_makes_no_dot_twice(world: World) -> None:
    seen: dict[tuple[int, int], bytes] = {}
    for number in range(4):
        n3 = world.named("n3") if number == 0 else await wiped(world, "n3")
        await recovered(n3)
        for each in range(3):
            await put(n3, b"k%d" % each, b"%d" % number, mode="sibling")
        for dot, what in dots(n3).items():
            assert seen.setdefault(dot, what) == what
    assert len(seen) == 12


# --- whose place an empty directory takes -------------------------------------------------------------------


async def test_an_empty_directory_at_the_address_of_a_member_is_told_what_to_do() -> None:
    world = World()
    for name in ("n1", "n2", "n3"):
        await world.start(name)
    await world.formed()
    lost = world.named("n3")
    await lost.stop()
    del world.nodes[lost.node_id]
    world.storages["n3"] = MemoryStorage()
    await world.start("n3", node_id="f" * 32)
    await until(lambda: bool(world.fatal))
    name, error = world.fatal[0]
    assert (name, type(error)) == ("n3", ConfigError)
    assert f"n3:1 is the address of n3 ({lost.node_id})" in str(error)
    assert f"recover_as={lost.node_id}" in error.advice
    await world.stop()


async def test_recovering_as_a_node_that_is_no_member_ends_with_the_names_of_those_that_are() -> None:
    world = World()
    for name in ("n1", "n2", "n3"):
        await world.start(name)
    await world.formed()
    await world.start("n9", recover_as="a" * 32)
    await until(lambda: bool(world.fatal))
    assert "is no member of this cluster" in str(world.fatal[0][1])
    assert f"n1 {world.named('n1').node_id}" in world.fatal[0][1].advice
    await world.stop()


def test_a_directory_in_use_recovers_as_nobody_else() -> None:
    storage = MemoryStorage()
    me = Member("1" * 32, "n1", "n1:1", "n1:2")
    assert ClusterView.open(storage, me).is_new
    assert ClusterView.open(storage, me, "1" * 32).me.incarnation == 2  # left in the settings
    with pytest.raises(ConfigError, match="is that of node 1111"):
        ClusterView.open(storage, me, "2" * 32)


# --- an old copy --------------------------------------------------------------------------------------------


async def test_b18_a_copy_of_the_running_directory_is_from_the_past_and_is_not_merged(world: World) -> None:
    """What everybody has deleted and forgotten since stays gone; so do the hints."""
    n1, n3 = world.named("n1"), world.named("n3")
    await put(n1, KEY, b"deleted and collected later", w=3)
    await put(n1, b"kept", b"1", w=3)
    stale = n1._storage.get(Kind.DATA, P, FULL)
    assert stale
    n3.hinting.kept.keep(P, FULL, n1.node_id, stale)
    copy = n3._storage.disk.copy()  # type: ignore[attr-defined]
    for node in world.nodes.values():
        node._storage.apply([(Kind.DATA, P, FULL, None)])
        node.replica._heads.clear()
        node.trees.forget(P)
    n3.hinting.kept.give_up(P, next(n3._storage.scan(Kind.HINT, P))[0])
    await put(n1, b"kept", b"2", w=3)
    await told_how_far(world, "n3")

    n3 = await world.restart("n3", crash=True, disk=copy)
    assert n3.recognition.renewals == 1
    assert n3.hinting.kept.count == 0
    await recovered(n3)
    for node in world.nodes.values():
        assert held(node) == []
        assert held(node, b"kept") == [b"2"]
    (aside,) = copy.checkpoints.values()
    assert aside.record(Kind.DATA, P, FULL) == stale


async def test_a_copy_of_a_clean_stop_makes_no_dot_twice(world: World) -> None:
    """Its ids are on it, and the original goes on with them."""
    await put(world.named("n3"), KEY, b"1")
    await world.named("n3").stop()
    copy = world.storages["n3"].disk.copy()
    n3 = await world.restart("n3")
    assert copy.keys(Kind.COPY)
    for number in range(3):
        await put(n3, b"after-%d" % number, b"original")
    seen = dots(n3)
    n3 = await world.restart("n3", disk=copy)
    assert n3.recognition.renewals == 1
    await recovered(n3)
    for number in range(3):
        await put(n3, b"after-%d" % number, b"copy", mode="sibling")
    found = dots(n3)
    assert all(found.get(dot, what) == what for dot, what in seen.items())
    assert held(n3, b"after-0") == [b"copy", b"original"]


@pytest.mark.parametrize("crash", [False, True])
async def test_a_directory_that_only_stopped_is_never_from_the_past(world: World, crash: bool) -> None:
    for number in range(4):
        await put(world.named("n3"), KEY, b"%d" % number, context=None)
        await told_how_far(world, "n3")
        n3 = await world.restart("n3", crash=crash)
        assert (n3.recognition.renewals, len(n3.replica.recovering)) == (0, 0)
    assert n3.view.me.incarnation == 5


async def test_what_a_peer_that_was_away_remembers_is_heard_later(world: World) -> None:
    """Too late to set anything aside: what was acknowledged since is here, too. But the ids are given up."""
    n1, n2, n3 = map(world.named, ("n1", "n2", "n3"))
    copy = n3._storage.disk.copy()  # type: ignore[attr-defined]
    began = n3.runs.mine
    await put(n1, KEY, b"1", w=3)
    await n3.runs.advance()
    n1.runs.hear(n3.runs.mine)
    world.down.add("n1")
    n2.runs._others[n3.node_id] = began
    n3 = await world.restart("n3", crash=True, disk=copy)
    assert n3.recognition.renewals == 0
    await put(n3, b"since", b"acknowledged", w=2)
    world.down.clear()
    await until(lambda: n3.recognition.renewals == 1)
    await recovered(n3)
    assert held(n3, b"since") == [b"acknowledged"]
    assert held(n3) == [b"1"]


async def test_another_run_that_others_remember_gives_a_running_node_new_ids(world: World) -> None:
    """A twin was let in somewhere: the dots of both must stay apart."""
    n3 = world.named("n3")
    await put(n3, KEY, b"1")
    before = dict(n3.replica._copies)
    twin = Run(n3.node_id, n3.view.me.incarnation + 1, b"twin", 0, 0)
    n3.gossip.learn(Gossip(world.named("n1").view.me, (), 0, b"", 0, runs=(twin,)))
    await put(n3, KEY, b"2")
    assert n3.replica._copies[P].replica_id != before[P].replica_id
    assert n3.view.me.incarnation > twin.incarnation
    await recovered(n3)


# --- recognition --------------------------------------------------------------------------------------------


async def test_who_starts_serves_nobody_until_a_majority_remembers_this_run(world: World) -> None:
    await put(world.named("n1"), KEY, b"v", w=3)
    world.down.update(("n1", "n2"))
    await world.named("n3").stop()
    world.storages["n3"] = MemoryStorage(world.storages["n3"].disk)
    n3, peer = await world.start("n3"), world.named("n1").node_id
    asked: tuple[Request, ...] = (Read(P, KEY), Store(P, KEY, b""), Get("b", KEY), Put("b", KEY, b"v"))
    for request in asked:
        with pytest.raises(NotReady, match="this node starts"):
            n3.serve(peer, request, 1.0)
    for work in (n3.get(Get("b", KEY)), n3.put(Put("b", KEY, b"v"))):
        with pytest.raises(NotReady, match="this node starts"):
            await work
    with pytest.raises(NotReady, match="this node starts"):
        await n3.scan("b", prefix=b"", after=b"", limit=1, values=False, r=None, timeout_s=1.0)
    assert n3.serve(peer, FetchCluster(), 1.0)
    check = next(check for check in n3.readiness() if check[0] == "recognition")
    assert check == ("recognition", False, "a majority of the members has to answer; so far 0 did")
    assert not n3.gossip.mine().recognized

    world.down.remove("n1")  # two of three: its own vote counts
    await until(lambda: n3.recognition.recognized)
    await until(lambda: n3._handlers is n3._answers)
    assert values(await get(n3, KEY, r=1)) == [b"v"]


async def test_ids_of_a_clean_stop_are_kept_only_where_no_twin_can_have_been_recognized_as_well(
    world: World,
) -> None:
    await put(world.named("n3"), KEY, b"1")
    kept = world.named("n3").replica._copies[P].replica_id
    n3 = await world.restart("n3")
    assert n3.replica._copies[P].replica_id == kept  # both others remember it
    world.down.add("n2")
    n3 = await world.restart("n3")
    assert not n3.replica._copies  # n2 may remember another one


async def test_a_grant_is_durable_before_it_is_told(world: World) -> None:
    n1, n3 = world.named("n1"), world.named("n3")
    run = n3.runs.mine._replace(incarnation=9, run=b"new")
    gossip = n3.gossip.mine()._replace(runs=(run,), recognized=False)
    storage = world.storages["n1"]
    storage.sync_delay_s = 0.05
    for _ in range(2):  # who asks again while the disk still works waits as well
        answer = n1.serve(n3.node_id, gossip, 1.0)
        assert isinstance(answer, asyncio.Future)
        assert not answer.done()
    gossiped = await answer  # type: ignore[misc]
    assert isinstance(gossiped, Gossiped)
    assert run in gossiped.runs
    assert any(b"new".hex().encode() in (record or b"") for _, record in storage.scan(Kind.META, 0, b"run\0"))


# --- a counter above ours, in every kind of message ---------------------------------------------------------

Shows = Callable[[World, Node, bytes, CausalContext], Coroutine[Any, Any, None]]


async def _store(world: World, node: Node, state: bytes, _: CausalContext) -> None:
    node.serve(world.named("n2").node_id, Store(P, FULL, state), 1.0)


async def _exchange(world: World, node: Node, state: bytes, _: CausalContext) -> None:
    await node.serve(world.named("n2").node_id, StoreStates(P, ((FULL, state),)), 1.0)  # type: ignore[misc]


async def _handoff(world: World, node: Node, state: bytes, _: CausalContext) -> None:
    await node.serve(world.named("n2").node_id, StoreHint(P, FULL, state, node.node_id, True, 0), 1.0)  # type: ignore[misc]


async def _answer_of_an_exchange(world: World, node: Node, state: bytes, _: CausalContext) -> None:
    fetched: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    fetched.set_result(StatesFetched((state,)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(node._peers, "call", lambda *_, **__: fetched)
        await node.upkeep.exchange._fetch(world.named("n2").node_id, P, [FULL])


async def _reply_to_a_read(world: World, node: Node, state: bytes, _: CausalContext) -> None:
    for name in ("n2", "n3"):
        world.named(name).replica.store(P, FULL, state)
    await get(node, KEY, r=3, monotonic=True)


async def _token(world: World, node: Node, _: bytes, token: CausalContext) -> None:
    await put(node, KEY, b"next", context=encode_context(token))


async def _forwarded_token(world: World, node: Node, _: bytes, token: CausalContext) -> None:
    request = Put("b", KEY, b"next", context=encode_context(token), forwarded=True)
    await node.serve(world.named("n2").node_id, request, 1.0)  # type: ignore[misc]


@pytest.mark.parametrize(
    "show",
    [_store, _exchange, _handoff, _answer_of_an_exchange, _reply_to_a_read, _token, _forwarded_token],
    ids=lambda show: show.__name__.strip("_"),
)
async def test_b4_b5_whatever_shows_a_counter_above_ours_renews_the_id(world: World, show: Shows) -> None:
    n1 = world.named("n1")
    without_comparisons(world)
    await put(n1, KEY, b"v", w=3)
    state = n1.replica.read(P, FULL)
    token = decode_state(state).context
    (dot,) = decode_state(state).siblings
    # As on a copy that has forgotten this write, and makes the next one under the same id.
    for node in world.nodes.values():
        node._storage.apply([(Kind.DATA, P, FULL, None)])
        node.replica._heads.clear()
    n1.replica._copies[P] = _Copy(dot[0], 0)
    await show(world, n1, state, token)
    assert n1.replica._copies[P].replica_id != dot[0]


def test_the_messages_that_carry_states_are_those_above() -> None:
    """A new one has to be shown to renew the id, too."""
    from kvstore.core.message import REPLY_OF

    carrying = {
        cls.__name__
        for pair in REPLY_OF.items()
        for cls in pair
        if {"state", "states", "items", "context"} & set(cls._fields)
    }
    assert carrying == {
        "Put", "Written", "Got", "Held", "Store", "StoreHint", "HintsHeld", "Scanned", "KeysListed",
        "StatesFetched", "StoreStates",
        "ProveTombstones", "DropTombstones",  # digests, which name no dot
    }  # fmt: skip
    assert Held._fields == ("same", "state")
    assert FetchStates._fields == ("partition", "keys")


async def test_who_is_not_recognized_is_not_looked_for_at_the_address_it_names(world: World) -> None:
    """A twin must not draw away what is meant for the original."""
    n1, n3 = world.named("n1"), world.named("n3")
    twin = n3.view.me._replace(rpc_address="elsewhere:1", incarnation=n3.view.me.incarnation + 1)
    n1.gossip.learn(n3.gossip.mine()._replace(sender=twin, recognized=False, members=()))
    assert n1.view.members[n3.node_id].rpc_address == "n3:1"
    n1.gossip.learn(n3.gossip.mine()._replace(sender=twin, members=()))
    assert n1.view.members[n3.node_id].rpc_address == "elsewhere:1"
