"""Rot at rest is found, healed from all other homes, never spread, and never taken for "nothing"."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest

from kvstore.core.encoding import causal_bytes
from kvstore.core.key_exchange import UNREADABLE
from kvstore.core.limits import DEFAULT_LIMITS
from kvstore.core.merkle_tree import item_hash
from kvstore.core.message import Read, Request, Store
from kvstore.core.ring import PARTITIONS, full_key, partition_of
from kvstore.core.upkeep_message import FetchStates, ListKeys, StatesFetched, StoreStates
from kvstore.errors import CorruptRecord
from kvstore.node.node import Node
from kvstore.node.ports import Kind
from kvstore.storage.memory import MemoryStorage
from tests.node.world import World, context, get, put, until, values

SCRUBBING = replace(DEFAULT_LIMITS, anti_entropy_interval_s=86_400.0, scrub_interval_s=0.2)

KEY = b"k"
FULL = full_key("b", KEY)
P = partition_of(FULL)


def damage(world: World, name: str, key: bytes = KEY) -> None:
    full = full_key("b", key)
    world.storages[name].disk.flip_bit(Kind.DATA, partition_of(full), full, bit=200)


def is_readable(node: Node, key: bytes = KEY) -> bool:
    full = full_key("b", key)
    try:
        node.replica.read(partition_of(full), full)
    except CorruptRecord:
        return False
    return True


async def test_a_damaged_record_is_found_and_healed_by_the_scrub_alone() -> None:
    world = World()
    for name in ("n1", "n2", "n3"):
        await world.start(name, limits=SCRUBBING)
    await world.formed()
    for i in range(20):
        await put(world.named("n1"), b"k%d" % i, b"v%d" % i, w=3)
    for i in range(5):
        damage(world, "n2", b"k%d" % i)
    n2 = world.named("n2")
    await until(lambda: n2.upkeep.keys.healed == 5)
    assert (n2.upkeep.keys.found, n2.upkeep.keys.unhealed) == (5, 0)
    assert all(is_readable(n2, b"k%d" % i) for i in range(20))
    for i in range(5):
        assert values(await get(n2, b"k%d" % i, r=1)) == [b"v%d" % i]
    await until(lambda: n2.upkeep.figures().scrub_records >= 20)
    await world.stop()


async def test_a_healed_record_renews_the_replica_id(world: World) -> None:
    """The damaged record may have held dots of this copy that nobody else has seen (B3)."""
    written = await put(world.named("n1"), KEY, b"v", w=3)
    n1 = world.named("n1")
    before = n1.replica.renewed
    damage(world, "n1")
    n1.upkeep.keys.note(P, FULL)
    await until(lambda: n1.upkeep.keys.healed == 1)
    assert n1.replica.renewed == before + 1
    again = await put(n1, KEY, b"w")
    assert again.context != written.context


async def test_what_only_a_home_out_of_reach_has_is_not_replaced_by_less(world: World) -> None:
    """n1 and n2 acknowledge "new"; n1 rots, n2 is away. n3's old state in its place would be a vote."""
    n1 = world.named("n1")
    await put(n1, KEY, b"old", w=3)
    seen = context(await get(n1, KEY))
    world.down.add("n3")
    await put(n1, KEY, b"new", context=seen)
    world.down = {"n2"}
    damage(world, "n1")
    n1.upkeep.keys.note(P, FULL)
    await until(lambda: n1.upkeep.keys.unhealed == 1)
    assert not is_readable(n1)
    world.down.clear()
    n1.upkeep.keys.note(P, FULL)
    await until(lambda: n1.upkeep.keys.healed == 1)
    assert values(await get(n1, KEY, r=1)) == [b"new"]


async def test_a_record_that_nobody_else_has_stays_as_it_is(world: World) -> None:
    world.intercept = lambda _a, _b, request: None if isinstance(request, Store) else request
    n1 = world.named("n1")
    await put(n1, KEY, b"v", w=1)
    world.intercept = lambda _a, _b, request: request
    damage(world, "n1")
    n1.upkeep.keys.note(P, FULL)
    await until(lambda: n1.upkeep.keys.unhealed == 1)
    with pytest.raises(CorruptRecord):
        n1.replica.read(P, FULL)


@pytest.mark.parametrize("damaged", ["n1", "n3"], ids=["of the asker", "of the asked"])
async def test_a_comparison_neither_sends_nor_overwrites_what_is_unreadable(
    world: World, damaged: str
) -> None:
    """Its owner heals it, whoever of the two that is."""
    await put(world.named("n1"), KEY, b"v", w=3)
    await put(world.named("n1"), b"other", b"w", w=3)
    damage(world, damaged)
    said: list[Request] = []

    def listen(_sender: str, _receiver: str, request: Request) -> Request:
        said.append(request)
        return request

    world.intercept = listen
    n1, n3 = world.named("n1"), world.named("n3")
    left = [P]
    async with asyncio.timeout(5):
        while left:
            left = await n1.upkeep.anti_entropy.compare(n3.node_id, left)
            await asyncio.sleep(0)
    owner = world.named(damaged)
    await until(lambda: owner.upkeep.keys.healed == 1)
    assert is_readable(owner)
    assert any(isinstance(request, ListKeys) for request in said)
    assert not [request for request in said if isinstance(request, FetchStates | StoreStates)]
    assert [request for request in said if isinstance(request, Read)]


async def test_an_unreadable_state_is_answered_as_none(world: World) -> None:
    await put(world.named("n1"), KEY, b"v", w=3)
    damage(world, "n3")
    n3 = world.named("n3")
    listed = await n3.upkeep.answers.list(ListKeys(n3.trees.terms, 3, P, b"\xff" * 128))
    assert listed.items == ((FULL, UNREADABLE),)
    assert await n3.upkeep.answers.fetch(FetchStates(P, (FULL,))) == StatesFetched((b"",))


@pytest.mark.parametrize("through", ["write", "store"])
async def test_a_tree_forgets_what_nobody_could_read_when_it_is_replaced(world: World, through: str) -> None:
    """Its hash is in the tree and cannot be taken out: the tree is built again, and is right."""
    n1, n2 = world.named("n1"), world.named("n2")
    await put(n1, KEY, b"v", w=3)
    for node in (n1, n2):
        assert await node.trees.build(P)
    damage(world, "n1")
    n1.replica._heads.clear()  # else the write knows what it replaces without reading it
    await put(n1 if through == "write" else n2, KEY, b"w", w=3)
    assert n1.trees.tree(P, 3) is None
    assert await n1.trees.build(P)
    one, other = n1.trees.tree(P, 3), n2.trees.tree(P, 3)
    assert one is not None
    assert other is not None
    assert (one.root == other.root) == (n1.replica.read(P, FULL) == n2.replica.read(P, FULL))
    assert one.root == item_hash(FULL, causal_bytes(n1.replica.read(P, FULL)))


class _Unscannable(MemoryStorage):
    """One partition cannot be read past its first record, as with a damaged block of a real engine."""

    broken: int | None = None

    def scan(self, kind: Kind, partition: int, start: bytes = b"") -> Iterator[tuple[bytes, bytes | None]]:
        records = super().scan(kind, partition, start)
        if kind is Kind.DATA and partition == self.broken:
            return self._cut(records)
        return records

    def _cut(self, records: Iterator[tuple[bytes, bytes | None]]) -> Iterator[tuple[bytes, bytes | None]]:
        yield from [next(records)]
        raise CorruptRecord("a block of the table is damaged")


async def test_a_partition_that_no_scan_gets_through_is_filled_key_by_key() -> None:
    world = World()
    storage = _Unscannable()
    world.storages["n3"] = storage
    for name in ("n1", "n2", "n3"):
        await world.start(name, limits=SCRUBBING)
    await world.formed()
    mine = [key for key in (b"k%d" % i for i in range(8000)) if partition_of(full_key("b", key)) == P][:20]
    for key in mine[:15]:
        await put(world.named("n1"), key, b"v", w=3)
    world.down.add("n3")
    for key in mine[15:]:
        await put(world.named("n1"), key, b"v")
    world.down.clear()
    for key in mine[:5]:
        damage(world, "n3", key)
    storage.broken = P
    n3 = world.named("n3")
    n3.trees.forget(P)
    assert await n3.upkeep.anti_entropy.compare(world.named("n1").node_id, [P]) == [P]
    await until(lambda: all(is_readable(n3, key) for key in mine))
    assert [values(await get(n3, key, r=1)) for key in mine] == [[b"v"]] * 20
    assert n3.upkeep.status()["partitions_damaged"] == [P]
    for begins in ("n1", "n3"):  # on both sides: it is told, and nobody waits for it
        task = world.named(begins).upkeep.begin_repair("", b"", P)
        assert await task.ended(10)
        assert task.result["failed"] == [P]
    assert n3.trees.tree(P, 3) is None
    await until(lambda: n3.upkeep.scrub.unscannable > 0)
    await world.stop()


async def test_the_scrub_reaches_every_partition_and_goes_on_after_a_slice(world: World) -> None:
    n1 = world.named("n1")
    mine = [key for key in (b"k%d" % i for i in range(40_000)) if partition_of(full_key("b", key)) == P]
    storage = world.storages["n1"]
    state = (await put(n1, KEY, b"v"), n1.replica.read(P, FULL))[1]
    count = 0
    while count <= 3000:
        storage.apply([(Kind.DATA, P, full_key("b", b"%s-%d" % (mine[count % len(mine)], count)), state)])
        count += 1
    for partition in range(PARTITIONS):
        await n1.upkeep.scrub.check(partition)
    assert n1.upkeep.scrub.records == count + 1
    last = max(key for key, _ in storage.scan(Kind.DATA, P))
    storage.disk.flip_bit(Kind.DATA, P, last)
    await n1.upkeep.scrub.check(P)
    assert n1.upkeep.keys.found == 1
