"""Directories of the real engine, behind real sockets: emptied, put back to a copy, damaged."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kvstore import AsyncClient
from kvstore.errors import ConfigError
from kvstore.node.node import Node
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
        for name in ("n1", "n2"):
            assert len(cluster.running[name].node.view.members) == 3
        await cluster.stop("n3")
        await cluster.start("n3", recover_as=node_id)  # on the directory as it is
        await cluster.ready()
        await recovered(cluster, "n3")
        assert cluster.running["n3"].node.node_id == node_id


def earlier(node: Node, directory: Path, copy: Path) -> None:
    """What a snapshot of the running directory is put back as."""
    node._storage.checkpoint(copy)


def cut_short(node: Node, directory: Path, copy: Path) -> None:
    """A directory that lost the second half of its log, and the mark that would tell."""
    shutil.copytree(directory, copy)
    (copy / "synced.mark").unlink()
    log = max(copy.glob("*.log"), key=lambda file: file.stat().st_size)
    log.write_bytes(log.read_bytes()[: log.stat().st_size // 2])


@pytest.mark.parametrize("forget", [earlier, cut_short], ids=["put back to a copy", "cut short"])
async def test_a_directory_from_the_past_is_set_aside_and_filled_again(
    tmp_path: Path, forget: Callable[[Node, Path, Path], None]
) -> None:
    copy = tmp_path / "copy"
    async with LocalCluster(nodes=3, data_dir=tmp_path) as cluster:
        await put_all(cluster, b"old")
        node = cluster.running["n3"].node
        if forget is earlier:
            forget(node, tmp_path / "n3", copy)
        await put_all(cluster, b"new")
        await node.runs.advance()
        others = [cluster.running[name].node for name in ("n1", "n2")]
        async with asyncio.timeout(20):
            while not all(other.runs.of(node.node_id) == node.runs.mine for other in others):
                await asyncio.sleep(0.02)
        if forget is cut_short:
            forget(node, tmp_path / "n3", copy)
        await cluster.stop("n3")
        shutil.rmtree(tmp_path / "n3")
        copy.rename(tmp_path / "n3")
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
