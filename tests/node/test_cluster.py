"""Forming a cluster, learning of each other, bucket properties, scans."""

from __future__ import annotations

import asyncio

import pytest

from kvstore.core.layout import Layout, first_layout
from kvstore.core.membership import Member
from kvstore.core.message import Commit, Propose, Request
from kvstore.errors import ConfigError, InvalidRequest, QuorumNotMet, StorageFailed
from kvstore.node.ports import Kind
from kvstore.storage.memory import MemoryStorage
from tests.node.world import World, put, until


async def test_nodes_that_see_each_other_agree_on_one_first_layout(world: World) -> None:
    layouts = {node.view.layout for node in world.nodes.values()}
    assert len(layouts) == 1
    (layout,) = layouts
    assert layout is not None
    assert (layout.version, len(layout.members)) == (1, 3)


async def test_nothing_forms_before_the_expected_number_is_there() -> None:
    world = World()
    node = await world.start("n1")
    await world.start("n2")
    await until(lambda: len(node.view.members) == 2)
    assert node.view.layout is None
    assert node.readiness()[0] == (
        "layout",
        False,
        "waiting for the first layout: 2 of 3 expected nodes seen",
    )
    await world.start("n3")
    await world.formed()
    await world.stop()


async def test_a_member_that_missed_the_commit_learns_the_layout_by_gossip() -> None:
    world = World()
    world.intercept = lambda _a, to, request: None if isinstance(request, Commit) and to == "n3" else request
    for name in ("n1", "n2", "n3"):
        await world.start(name)
    await world.formed()
    await world.stop()


async def test_an_address_that_came_with_a_layout_is_given_to_the_peers(world: World) -> None:
    """Gossip then brings nothing new of that member, and hints for it would wait for ever."""
    n1, newcomer = world.named("n1"), Member("f" * 32, "n9", "n9:1", "n9:2", host="n9")
    layout = n1.view.layout
    assert layout is not None
    n1.view.adopt(layout._replace(version=2, members=(*layout.members, newcomer)))
    await until(lambda: world.learned.get(("n1", newcomer.node_id)) == "n9:1")


async def test_a_proposal_that_one_member_misses_is_released_and_made_again() -> None:
    world = World()
    missed: list[Request] = []

    def miss_the_first(_sender: str, receiver: str, request: Request) -> Request | None:
        if isinstance(request, Propose) and receiver == "n3" and not missed:
            missed.append(request)
            return None
        return request

    world.intercept = miss_the_first
    for name in ("n1", "n2", "n3"):
        await world.start(name)
    await world.formed()
    assert missed
    await world.stop()


async def test_nobody_promises_two_proposers() -> None:
    world = World()
    node = await world.start("n2", expect=2)
    layout = (_layout_of(2), _layout_of(3))
    first = await node._formation.promise(Propose(layout[0], "a" * 32))
    second = await node._formation.promise(Propose(layout[1], "b" * 32))
    again = await node._formation.promise(Propose(layout[0], "a" * 32))
    assert (first.accepted, second.accepted, second.holder, again.accepted) == (True, False, "a" * 32, True)
    await node._formation.release("a" * 32)
    assert (await node._formation.promise(Propose(layout[1], "b" * 32))).accepted
    await world.stop()


async def test_a_layout_survives_a_restart_and_one_of_another_cluster_is_refused(world: World) -> None:
    node = world.named("n1")
    layout = node.view.layout
    assert layout is not None
    with pytest.raises(ConfigError, match="this data directory is of cluster"):
        node.view.adopt(layout._replace(version=2, cluster_id="another"))
    await node.stop()
    world.storages["n1"] = MemoryStorage(world.storages["n1"].disk)
    again = await world.start("n1")
    assert again.view.layout == layout
    assert again.view.me.incarnation == 2


async def test_a_restored_directory_is_noticed_by_what_others_remember(world: World) -> None:
    """The peers have seen a later start of n1 than its disk has."""
    node = world.named("n1")
    later = node.view.me._replace(incarnation=9)
    world.named("n2").view.merge([later])
    before = node.replica.renewed
    await until(lambda: node.view.me.incarnation == 10)
    assert node.replica.renewed > before
    await until(lambda: world.named("n3").view.members[node.node_id].incarnation == 10)


async def test_bucket_properties_reach_every_node_and_survive_a_restart(world: World) -> None:
    await world.named("n2").set_bucket("users", {"w": 3, "conflict": "siblings"})
    await until(lambda: all(node.bucket("users")[0].w == 3 for node in world.nodes.values()))
    node = world.named("n3")
    await node.stop()
    world.storages["n3"] = MemoryStorage(world.storages["n3"].disk)
    again = await world.start("n3")
    assert again.bucket("users") == (world.named("n1").bucket("users")[0], True)


async def test_a_node_that_was_away_learns_the_properties_by_gossip(world: World) -> None:
    world.down.add("n3")
    await world.named("n1").set_bucket("users", {"w": 3})
    assert world.named("n3").bucket("users")[1] is False
    world.down.clear()
    await until(lambda: world.named("n3").bucket("users")[0].w == 3)


async def test_later_settings_build_on_the_newest_ones_whoever_sets_them(world: World) -> None:
    world.down.add("n3")
    await world.named("n1").set_bucket("users", {"w": 3})
    world.down.clear()
    world.down.add("n1")
    await world.named("n3").set_bucket("users", {"r": 3})
    world.down.clear()
    await until(lambda: all(node.bucket("users")[0].quorum().w == 3 for node in world.nodes.values()))
    await until(lambda: all(node.bucket("users")[0].quorum().r == 3 for node in world.nodes.values()))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n": 5}, "n=5 is more than the 3 nodes"),
        ({"w": 4}, "w=4 must lie between 1 and n=3"),
        ({"color": 1}, "unknown bucket property"),
        ({"n": "3"}, "must be of type int"),
        ({"blind": "never"}, "must be one of"),
    ],
)
async def test_bad_properties_are_refused_and_change_nothing(
    world: World, values: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        await world.named("n1").set_bucket("users", values)
    assert world.named("n1").bucket("users")[1] is False


async def test_properties_need_a_majority(world: World) -> None:
    world.down.update(("n2", "n3"))
    with pytest.raises(QuorumNotMet):
        await world.named("n1").set_bucket("users", {"w": 3})
    assert world.named("n1").bucket("users")[1] is False


async def test_a_scan_pages_through_all_keys_in_order(world: World) -> None:
    keys = sorted(b"key-%03d" % i for i in range(57))
    for i, key in enumerate(keys):
        await put(world.named(f"n{i % 3 + 1}"), key, b"v%d" % i)
    await put(world.named("n1"), b"other", b"v")
    seen: list[bytes] = []
    after = b""
    while True:
        page = await world.named("n1").scan(
            "b", prefix=b"key-", after=after, limit=10, values=False, r=None, timeout_s=1
        )
        assert page.complete
        assert len(page.items) <= 10
        seen += [key for key, _ in page.items]
        if page.last is None:
            break
        after = page.last
    assert seen == keys


async def test_a_scan_says_when_it_may_miss_keys(world: World) -> None:
    await put(world.named("n1"), b"k", b"v", w=3)
    world.down.update(("n2", "n3"))
    page = await world.named("n1").scan(
        "b", prefix=b"", after=b"", limit=10, values=True, r=None, timeout_s=1
    )
    assert page.complete is False
    assert [v.value for _, state in page.items for v in state.siblings.values()] == [b"v"]


async def test_explain_tells_what_every_home_holds(world: World) -> None:
    await put(world.named("n1"), b"k", b"value", w=3)
    told = await world.named("n2").explain("b", b"k")
    assert told["equal"] is True
    assert [home["siblings"][0]["value_bytes"] for home in told["homes"]] == [5, 5, 5]
    world.down.add("n3")
    told = await world.named("n2").explain("b", b"k")
    assert sorted(home["answer"] for home in told["homes"]) == ["PeerUnreachable", "state", "state"]


async def test_a_failed_disk_stops_the_node_and_acknowledges_nothing() -> None:
    world = World()
    node = await world.start("n1", n=1, expect=1)
    await world.formed()
    world.storages["n1"].disk.fail_syncs = True
    with pytest.raises(QuorumNotMet):
        await put(node, b"k", b"v")
    await until(lambda: bool(world.fatal))
    await asyncio.gather(node.stop(), return_exceptions=True)


@pytest.mark.parametrize("asked", ["as coordinator", "as replica"])
async def test_a_failed_write_stops_the_node_although_it_never_gets_as_far_as_a_sync(asked: str) -> None:
    """It lived on and refused every write: nobody asks for a sync after a write that failed."""
    world = World()
    for name in ("n1", "n2"):
        await world.start(name, n=2, expect=2)
    await world.formed()
    storage = world.storages["n2"]
    await until(lambda: storage.get(Kind.META, 0, b"first-layout-promise") is None)  # its loop has ended
    storage.disk.fail_writes = True
    through = world.named("n2" if asked == "as coordinator" else "n1")
    with pytest.raises((QuorumNotMet, StorageFailed)):
        await put(through, b"k", b"v", w=2)
    await until(lambda: bool(world.fatal))
    assert {name for name, _ in world.fatal} == {"n2"}
    await asyncio.gather(*(node.stop() for node in world.nodes.values()), return_exceptions=True)


def _layout_of(count: int) -> Layout:
    return first_layout(Member(f"{i:032x}", f"m{i}", "a:1", "a:2") for i in range(count))
