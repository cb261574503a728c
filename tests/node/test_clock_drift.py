"""Clocks that differ: measured between peers, told of, and no time from too far ahead is taken."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from kvstore.errors import KVStoreError
from tests.node.world import QUIET, World, get, put, until, values


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    for name in ("n1", "n2", "n3"):
        await made.start(name, limits=replace(QUIET, clock_drift_warn_s=1.0))
    await made.formed()
    yield made
    await made.stop()


def told(world: World) -> int:
    return world.reports.count("clocks differ")


async def test_a_clock_that_differs_is_measured_and_told_of_once_by_each_peer(world: World) -> None:
    n1, n3 = world.named("n1"), world.named("n3")
    world.clocks["n3"].ms += 5000
    await until(lambda: n1.clocks()[0].get("n3", 0) >= 4000)
    await until(lambda: n3.clocks()[0].get("n1", 0) <= -4000)
    shown = {member["name"]: member["clock_drift_ms"] for member in n1.cluster()["members"]}
    assert shown["n3"] >= 4000
    assert abs(shown["n2"]) < 1000
    await until(lambda: told(world) == 4)
    for _ in range(6):
        await n1.gossip.round()
        await n3.gossip.round()
    assert told(world) == 4, "both sides of both pairs, once"
    world.clocks["n3"].ms -= 5000
    await until(lambda: abs(n1.clocks()[0]["n3"]) < 400 and abs(n3.clocks()[0]["n1"]) < 400)
    world.clocks["n3"].ms += 5000
    await until(lambda: told(world) > 4)  # and when it begins again


async def test_a_time_from_too_far_ahead_is_refused_and_counted(world: World) -> None:
    """A write of a last-write-wins bucket by a node whose clock runs a day ahead reaches no other node."""
    n1, n3 = world.named("n1"), world.named("n3")
    await n1.set_bucket("b", {"conflict": "last-write-wins", "n": 3})
    await until(lambda: all(node.bucket("b")[0].last_write_wins for node in (n1, n3)))
    world.clocks["n3"].ms += 86_400_000
    with pytest.raises(KVStoreError):
        await put(n3, b"k", b"v", w=3, timeout_ms=500)
    assert n1.clocks()[1] > 0
    assert values(await get(n1, b"k", r=1, timeout_ms=500)) == []
