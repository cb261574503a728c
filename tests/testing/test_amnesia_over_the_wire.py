"""Directories of the real engine, behind real sockets: emptied, put back to a copy, damaged."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from kvstore import AsyncClient
from kvstore.errors import ConfigError
from kvstore.node.ports import Kind
from kvstore.storage.rocksdb import RocksStorage
from kvstore.testing import LocalCluster

KEYS = 40


async def put_all(cluster: LocalCluster, value: bytes) -> None:
    async with AsyncClient(cluster.endpoints) as kv:
        for number in range(KEYS):
            await kv.bucket("b", w=len(cluster.running)).put(f"k{number}", value)


async def recovered(cluster: LocalCluster, name: str) -> None:
    node = cluster.running[name].node
    async with asyncio.timeout(20):
        while node.replica.recovering:
            await asyncio.sleep(0.02)


async def test_an_empty_directory_is_filled_by_the_other_homes(tmp_path: Path) -> None:
    async with LocalCluster(nodes=3, data_dir=tmp_path) as cluster:
        await put_all(cluster, b"v")
        node_id = cluster.running["n3"].node.node_id
        await cluster.stop("n3")
        shutil.rmtree(tmp_path / "n3")
        await cluster.start("n3", recover_as=node_id)
        await cluster.ready()
        await recovered(cluster, "n3")
        assert cluster.running["n3"].node.node_id == node_id
        for name in ("n1", "n2"):
            await cluster.stop(name)
        async with AsyncClient(cluster.endpoints) as kv:
            assert [await kv.bucket("b", r=1).get(f"k{i}") for i in range(KEYS)] == [b"v"] * KEYS


async def test_without_being_told_so_it_ends_and_says_what_to_do(tmp_path: Path) -> None:
    async with LocalCluster(nodes=3, data_dir=tmp_path) as cluster:
        node_id = cluster.running["n3"].node.node_id
        await cluster.stop("n3")
        shutil.rmtree(tmp_path / "n3")
        server = await cluster.start("n3")
        async with asyncio.timeout(20):
            error = await server.failed
        assert isinstance(error, ConfigError)
        assert f"is the address of n3 ({node_id})" in str(error)
        assert f"start with recover_as={node_id}" in error.advice


async def test_a_directory_put_back_to_a_copy_is_set_aside_and_filled_again(tmp_path: Path) -> None:
    async with LocalCluster(nodes=3, data_dir=tmp_path) as cluster:
        await put_all(cluster, b"old")
        node = cluster.running["n3"].node
        node._storage.checkpoint(tmp_path / "copy")
        await put_all(cluster, b"new")
        others = [cluster.running[name].node for name in ("n1", "n2")]
        async with asyncio.timeout(20):  # until what was written since shows in its progress
            while not any((run := other.runs.of(node.node_id)) and run.progress > 1 for other in others):
                await asyncio.sleep(0.02)
            await node.runs.advance()
            while not any(other.runs.of(node.node_id) == node.runs.mine for other in others):
                await asyncio.sleep(0.02)
        await cluster.stop("n3")
        shutil.rmtree(tmp_path / "n3")
        (tmp_path / "copy").rename(tmp_path / "n3")
        await cluster.start("n3")
        await cluster.ready()
        assert cluster.running["n3"].node.recognition.renewals == 1
        await recovered(cluster, "n3")
        for name in ("n1", "n2"):
            await cluster.stop(name)
        async with AsyncClient(cluster.endpoints) as kv:
            assert [await kv.bucket("b", r=1).get(f"k{i}") for i in range(KEYS)] == [b"new"] * KEYS
        assert (tmp_path / "n3" / "set-aside-1" / "CURRENT").exists()


async def test_a_node_that_cannot_read_who_it_is_says_so_with_the_remedy(tmp_path: Path) -> None:
    async with LocalCluster(nodes=1, data_dir=tmp_path) as cluster:
        await cluster.stop("n1")
        storage = RocksStorage(tmp_path / "n1")
        sealed = bytearray(storage._families[Kind.META].get(b"\0\0identity"))
        sealed[-1] ^= 1
        storage._families[Kind.META].put(b"\0\0identity", bytes(sealed))
        await storage.close()
        with pytest.raises(ConfigError, match=r"n1 is damaged .*checksum.*recover_as"):
            await cluster.start("n1")
        shutil.rmtree(tmp_path / "n1")
        await cluster.start("n1")
