"""Real nodes in this process, through the real client: what a user of the fixtures sees."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from kvstore import AsyncClient, Client, QuorumNotMet, QuorumUnavailable, SiblingsError, Unavailable
from kvstore.core.message import Put
from kvstore.errors import ConfigError
from kvstore.testing import LocalCluster


async def test_the_fixtures_give_a_cluster_and_a_client(
    kv_cluster: LocalCluster, kv_client: AsyncClient
) -> None:
    users = kv_client.bucket("users", codec="json")
    receipt = await users.put("ann", {"friends": ["bob"]})
    assert receipt.acks >= 2
    assert await users.get("ann") == {"friends": ["bob"]}
    assert await users.get("nobody") is None
    assert len(kv_cluster.endpoints) == 3


async def test_two_writers_leave_siblings_and_a_merged_context_resolves_them_everywhere(
    kv_cluster: LocalCluster,
) -> None:
    one, two, three = kv_cluster.endpoints
    async with (
        AsyncClient(one, follow_layout=False) as a,
        AsyncClient(two, follow_layout=False) as b,
        AsyncClient(three, follow_layout=False) as c,
    ):
        seen = await a.bucket("b").put("k", b"base", w=3)
        await asyncio.gather(
            a.bucket("b").put("k", b"from a", context=seen.context, w=3),
            b.bucket("b").put("k", b"from b", context=seen.context, w=3),
        )
        record = await c.bucket("b").fetch("k")
        assert sorted(sibling.value for sibling in record.siblings) == [b"from a", b"from b"]
        with pytest.raises(SiblingsError):
            await c.bucket("b").get("k")
        await c.bucket("b").put("k", b"both", context=record.context, w=3)
        for client in (a, b, c):
            assert await client.bucket("b").get("k", r=1) == b"both"


async def test_one_node_stops_and_comes_back_with_what_it_had(kv_cluster: LocalCluster) -> None:
    async with AsyncClient(kv_cluster.endpoints) as kv:
        bucket = kv.bucket("b")
        for i in range(20):
            await bucket.put(f"k{i}", b"before", w=3)
        await kv_cluster.stop("n2")
        for i in range(20):
            assert await bucket.get(f"k{i}") == b"before"
            await bucket.put(f"k{i}", b"after")
        await kv_cluster.start("n2")
        await kv_cluster.ready()
        for i in range(20):
            assert await bucket.get(f"k{i}", r=3) == b"after"


async def test_without_a_quorum_a_write_fails_and_says_that_nothing_was_applied() -> None:
    async with (
        LocalCluster(nodes=3) as cluster,
        AsyncClient(cluster.endpoints[0], follow_layout=False) as kv,
    ):
        await kv.bucket("b").put("k", b"v", w=3)
        await cluster.stop("n2")
        await cluster.stop("n3")
        n1 = cluster.running["n1"].node
        others = n1.view.members.keys() - {n1.node_id}
        async with asyncio.timeout(10):
            while any(n1.reach(node) for node in others):  # gossip finds out, no client has to
                await asyncio.sleep(0.01)
        with pytest.raises(QuorumUnavailable) as refused:
            await n1.put(Put("b", b"k", b"w"))
        assert refused.value.outcome == "failed"
        assert await kv.bucket("b").get("k", r=1) == b"v"
        with pytest.raises(QuorumNotMet):  # as a probe it may get through to n1's own disk: then unknown
            await kv.bucket("b").put("k", b"w")


async def test_the_synchronous_client_does_the_same(kv_cluster: LocalCluster) -> None:
    def work() -> object:
        with Client(kv_cluster.endpoints) as kv:
            users = kv.bucket("users", codec="json")
            users.put("ann", {"n": 1})
            users.update("ann", lambda value: {"n": value["n"] + 1})
            return users.get("ann")

    assert await asyncio.to_thread(work) == {"n": 2}


async def test_keys_and_values_of_any_bytes(kv_client: AsyncClient) -> None:
    bucket = kv_client.bucket("b")
    for key in (b"\x00", b"a/b?c#d%25", bytes(range(256)), b"%", "größe".encode(), b"/", b"..", b"."):
        await bucket.put(key, key[::-1])
        assert await bucket.get(key) == key[::-1]
    keys = [item.key async for item in bucket.scan()]
    assert len(keys) == 8


async def test_settings_and_five_nodes_in_three_zones() -> None:
    async with LocalCluster(nodes=5, zones=3, r=1) as cluster, AsyncClient(cluster.endpoints) as kv:
        await kv.bucket("b").put("k", b"v", w=3)
        told = await kv.explain("b", "k")
        assert len({home["zone"] for home in told["homes"]}) == 3
        record = await kv.bucket("b").fetch("k")
        assert record.receipt is not None
        assert record.receipt.required == 1


async def test_a_cluster_on_disk_stops_a_node_and_starts_it_again(tmp_path: Path) -> None:
    async with LocalCluster(nodes=1, data_dir=tmp_path) as cluster:
        async with AsyncClient(cluster.endpoints) as kv:
            await kv.bucket("b").put("k", b"v")
        await cluster.stop("n1")
        await cluster.start("n1")
        async with AsyncClient(cluster.endpoints) as kv:
            assert await kv.bucket("b").get("k") == b"v"


async def test_a_home_that_was_away_gets_its_copies_from_who_stood_in() -> None:
    """With two of three homes stopped, writes are taken by others; started again, the homes have them."""
    async with LocalCluster(nodes=5, zones=3) as cluster, AsyncClient(cluster.endpoints) as kv:
        bucket = kv.bucket("b")
        told = await kv.explain("b", "k")
        away = [home["name"] for home in told["homes"]][1:]
        for name in away:
            await cluster.stop(name)
        for i in range(20):
            receipt = await bucket.put("k", b"%d" % i, w=3, timeout_s=5)
        assert (receipt.acks, receipt.hinted) == (3, 2)
        assert await bucket.get("k", sloppy=True) == b"19"
        with pytest.raises(QuorumNotMet):
            await bucket.put("k", b"not", w=2, sloppy=False, timeout_s=0.5)
        for name in away:
            await cluster.start(name)
        async with asyncio.timeout(20):
            while any(server.node.pending_hints()["count"] for server in cluster.running.values()):
                await asyncio.sleep(0.01)
        told = await kv.explain("b", "k")
        assert told["hints"] == []
        assert told["equal"]


def test_a_cluster_of_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one"):
        LocalCluster(nodes=0)


def test_the_fake_client_needs_nothing_of_a_node() -> None:
    code = (
        "import sys\n"
        "for name in ('rocksdict', 'click', 'structlog', 'prometheus_client'): sys.modules[name] = None\n"
        "from kvstore.testing import FakeClient; print(FakeClient.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "FakeClient", done.stderr


async def test_a_node_of_a_cluster_on_disk_stops_and_starts_again_with_what_it_had(tmp_path: Path) -> None:
    async with LocalCluster(nodes=1, data_dir=tmp_path) as cluster:
        async with AsyncClient(cluster.endpoints) as kv:
            await kv.bucket("b").put("k", b"v")
        await cluster.stop("n1")
        await cluster.start("n1")
        await cluster.ready()
        async with AsyncClient(cluster.endpoints) as kv:
            assert await kv.bucket("b").get("k") == b"v"


async def test_a_fallback_shows_what_there_is_and_says_so() -> None:
    async with LocalCluster(nodes=3) as cluster, AsyncClient(cluster.endpoints, timeout_s=3.0) as kv:
        plain = kv.bucket("users")
        users = kv.bucket("users", fallback="stale")
        await users.put("ann", b"v", w=3)
        await users.put("bob", b"v", w=3)
        whole = await users.fetch("ann")
        assert (whole.value, whole.receipt.served) == (b"v", "quorum")
        assert (await plain.fetch("ann")).receipt.served == ""
        await cluster.stop("n2")
        await cluster.stop("n3")
        with pytest.raises(Unavailable):
            await plain.get("ann")
        rest = await users.fetch("ann")
        assert (rest.value, rest.receipt.served, rest.receipt.acks) == (b"v", "stale", 1)
        await cluster.stop("n1")
        last = await users.fetch("ann")
        assert (last.value, last.receipt.served) == (b"v", "remembered")
        with pytest.raises(Unavailable):
            await users.get("bob")
