"""Deletes with real sockets and the real engine: tombstones wait for a node that is away, and go then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp

from kvstore.core.ring import PARTITIONS
from kvstore.node.ports import Kind
from kvstore.testing import LocalCluster

KEYS = 40


def held(cluster: LocalCluster) -> int:
    return sum(
        1
        for server in cluster.running.values()
        for partition in range(PARTITIONS)
        for _ in server.node._storage.scan(Kind.DATA, partition)
    )


async def eventually(condition: Callable[[], bool], deadline_s: float = 20.0) -> None:
    async with asyncio.timeout(deadline_s):
        while not condition():
            await asyncio.sleep(0.02)


async def test_tombstones_and_expired_values_go_when_everybody_is_there(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "tombstone_interval_s": 0.1,
        "tombstone_pause_s": 0.01,
        "anti_entropy_interval_s": 2.0,
        "clock_skew_max_s": 0.1,
    }
    async with (
        LocalCluster(nodes=3, data_dir=tmp_path, **settings) as cluster,
        aiohttp.ClientSession() as session,
    ):
        url = cluster.running["n1"].url
        for i in range(KEYS):
            for ttl in ("", "?ttl=1") if i % 2 else ("",):
                async with session.put(f"{url}/v1/kv/b/key-{i}{ttl}", data=b"x") as answer:
                    assert answer.status == 204
        await cluster.stop("n3")
        for i in range(0, KEYS, 2):
            async with session.delete(f"{url}/v1/kv/b/key-{i}") as answer:
                assert answer.status == 204
        collector = [server.node.upkeep.tombstones for server in cluster.running.values()]
        await eventually(lambda: sum(each.postponed["out of reach"] for each in collector) > 0)
        async with session.get(f"{url}/v1/explain/b/key-0") as answer:
            tombstone = (await answer.json())["tombstone"]
        assert "n3" in [waits["name"] for waits in tombstone["waits_for"]]
        assert held(cluster) == 2 * KEYS
        await cluster.start("n3")
        await eventually(lambda: held(cluster) == 0)
        url = cluster.running["n2"].url
        async with session.get(f"{url}/v1/kv/b/key-0?r=3") as answer:
            assert answer.status == 404
        async with session.get(f"{url}/metrics") as answer:
            assert 'kvstore_tombstones_postponed_total{reason="hint"}' in await answer.text()
        async with session.get(f"{url}/v1/repair") as answer:
            assert (await answer.json())["tombstones"]["passes"] > 0
