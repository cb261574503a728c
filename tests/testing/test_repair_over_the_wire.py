"""Anti-entropy, repair and barrier with real sockets and the real engine: the parts fit together."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp

from kvstore.core.ring import PARTITIONS, partition_of
from kvstore.errors import CorruptRecord
from kvstore.node.node import Node
from kvstore.node.ports import Kind
from kvstore.testing import LocalCluster

KEYS = 120


def held(cluster: LocalCluster, name: str) -> dict[bytes, bytes | None]:
    storage = cluster.running[name].node._storage
    return {k: v for p in range(PARTITIONS) for k, v in storage.scan(Kind.DATA, p)}


async def equal(cluster: LocalCluster, deadline_s: float = 20.0) -> None:
    async with asyncio.timeout(deadline_s):
        while any(len(held(cluster, name)) < KEYS for name in cluster.running) or any(
            held(cluster, name) != held(cluster, "n1") for name in cluster.running
        ):
            await asyncio.sleep(0.05)


async def put_all(session: aiohttp.ClientSession, url: str) -> None:
    for i in range(KEYS):
        async with session.put(f"{url}/v1/kv/b/key-{i}", data=b"x" * 1000) as answer:
            assert answer.status == 204


async def post(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    async with session.post(url) as answer:
        assert answer.status == 200, await answer.text()
        document: dict[str, Any] = await answer.json()
        return document


async def test_a_node_that_was_away_is_filled_by_itself(tmp_path: Path) -> None:
    async with (
        LocalCluster(nodes=3, data_dir=tmp_path, anti_entropy_interval_s=2.0) as cluster,
        aiohttp.ClientSession() as session,
    ):
        await cluster.stop("n3")
        await put_all(session, cluster.running["n1"].url)
        await cluster.start("n3")
        await equal(cluster)
        async with session.get(f"{cluster.running['n3'].url}/metrics") as answer:
            metrics = await answer.text()
        assert "kvstore_anti_entropy_partitions_compared_total" in metrics
        received = sum(s.node.upkeep.figures().keys_received for s in cluster.running.values())
        sent = sum(s.node.upkeep.figures().keys_sent for s in cluster.running.values())
        assert received + sent >= KEYS


async def test_repair_and_barrier_over_http(tmp_path: Path) -> None:
    async with (
        LocalCluster(nodes=3, data_dir=tmp_path, anti_entropy_interval_s=3600.0) as cluster,
        aiohttp.ClientSession() as session,
    ):
        await cluster.stop("n3")
        await put_all(session, cluster.running["n1"].url)
        await cluster.start("n3")
        assert held(cluster, "n3") == {}
        async with asyncio.timeout(20):  # n1 and n2 find n3 again at their own pace
            while (done := await post(session, f"{cluster.running['n2'].url}/v1/barrier"))["missing"]:
                await asyncio.sleep(0.1)
        assert (done["state"], done["done"]) == ("done", PARTITIONS)
        await equal(cluster)
        again = await post(session, f"{cluster.running['n3'].url}/v1/repair?all&wait")
        assert (again["healed"], again["failed"], again["missing"]) == (0, [], [])


async def test_a_table_file_that_rotted_is_healed_key_by_key(tmp_path: Path) -> None:
    """A damaged block of the engine ends every scan of its partitions; single reads of it are unreadable."""
    async with (
        LocalCluster(nodes=3, data_dir=tmp_path, anti_entropy_interval_s=2.0) as cluster,
        aiohttp.ClientSession() as session,
    ):
        await put_all(session, cluster.running["n1"].url)
        await equal(cluster)
        right = held(cluster, "n3")
        await cluster.stop("n3")
        largest = max((tmp_path / "n3").rglob("*.sst"), key=lambda path: path.stat().st_size)
        content = bytearray(largest.read_bytes())
        for at in range(1000, len(content) * 3 // 4, 8000):
            content[at] ^= 0xFF
        largest.write_bytes(content)
        await cluster.start("n3")
        node = cluster.running["n3"].node
        damaged = [key for key in right if not is_readable(node, key)]
        assert damaged
        async with asyncio.timeout(20):
            while not all(is_readable(node, key) for key in right):
                await asyncio.sleep(0.05)
        for key, state in right.items():
            assert node.replica.read(partition_of(key), key) == state
        async with asyncio.timeout(5):  # counted after the record is there
            while node.upkeep.figures().corrupt_healed < len(damaged):
                await asyncio.sleep(0.01)


def is_readable(node: Node, key: bytes) -> bool:
    try:
        return bool(node.replica.read(partition_of(key), key))
    except CorruptRecord:
        return False
