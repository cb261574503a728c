"""Tombstones go when nothing older than them is left anywhere, and stay as long as there is any doubt."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from kvstore.core.encoding import decode_state, digest, encode_state
from kvstore.core.ring import full_key, partition_of
from kvstore.core.sibling import KeyState
from kvstore.core.upkeep_message import DropTombstones
from kvstore.node.node import Node
from tests.node.world import QUIET, World, context, get, put, values

KEY = b"k"
FULL = full_key("b", KEY)
PARTITION = partition_of(FULL)
SOON = replace(QUIET, tombstone_interval_s=86_400.0, tombstone_pause_s=0.0, peer_deadline_s=0.1)


@pytest.fixture
async def five() -> AsyncIterator[World]:
    """Five nodes, three homes for each key, and nobody who collects by itself."""
    world = World()
    for name in ("n1", "n2", "n3", "n4", "n5"):
        await world.start(name, expect=5, limits=SOON)
    world.form_at_once()
    yield world
    await world.stop()
    assert not world.fatal


async def deleted(world: World, key: bytes = KEY) -> Node:
    """A key that was written and deleted on all homes. Returns the first one."""
    first = world.homes("b", key)[0]
    await put(first, key, b"old", w=3)
    await put(first, key, b"", tombstone=True, context=context(await get(first, key)), w=3)
    return first


def holders(world: World, key: bytes = KEY) -> list[str]:
    full = full_key("b", key)
    return sorted(n.name for n in world.nodes.values() if n.replica.read(partition_of(full), full))


def older(world: World, key: bytes = KEY) -> bytes:
    """The state as it was before the delete: one value that the tombstone covers."""
    full = full_key("b", key)
    state = decode_state(world.homes("b", key)[0].replica.read(partition_of(full), full))
    (dot,) = state.siblings
    dead = (dot[0], dot[1] - 1)
    version = state.siblings[dot]._replace(value=b"old", tombstone=False, operation_id=b"")
    vector = {replica: counter for replica, counter in state.context.vector.items() if replica != dot[0]}
    return encode_state(KeyState({dead: version}, type(state.context)({**vector, dead[0]: dead[1]})))


async def test_a_tombstone_that_all_homes_hold_is_collected_everywhere(five: World) -> None:
    first = await deleted(five)
    assert len(holders(five)) == 3
    await first.upkeep.tombstones.collect()
    assert holders(five) == []
    assert first.upkeep.tombstones.collected == 1
    assert values(await get(first, KEY, r=3)) == []


async def test_only_the_first_home_collects(five: World) -> None:
    first = await deleted(five)
    for node in five.nodes.values():
        if node is not first:
            await node.upkeep.tombstones.collect()
    assert len(holders(five)) == 3


async def test_a_value_is_never_dropped(five: World) -> None:
    first = five.homes("b", KEY)[0]
    await put(first, KEY, b"value", w=3)
    await first.upkeep.tombstones.collect()
    held = first.replica.read(PARTITION, FULL)
    reply = await first.upkeep.tombstone_answers.drop(DropTombstones(((PARTITION, FULL, digest(held)),)))
    assert reply.dropped == b"\0"
    assert len(holders(five)) == 3
