"""kill -9 at any moment: every synced batch survives, and of the others a prefix, in order and whole.

A killed process leaves what the kernel took. What a power cut takes away in addition, the end of the
log, is cut off by hand, at every byte.
"""

from __future__ import annotations

import asyncio
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest

from kvstore.errors import ConfigError
from kvstore.node.ports import Kind, Reader
from kvstore.storage.rocksdb import RocksStorage
from tests.storage.crash_child import PARTITIONS, batch_of

ROOT = Path(__file__).parents[2]


def kill_a_writer(directory: Path, first: int, seed: int) -> int:
    """Start a writer, kill it at a moment that follows from the seed; the last batch it said was synced.

    Usually after some lines; now and then before the first one, while it starts or recovers.
    """
    chance = Random(seed)
    writer = subprocess.Popen(
        [sys.executable, "-m", "tests.storage.crash_child", str(directory), str(first), str(seed)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    assert writer.stdout is not None
    said = b""
    lines = chance.choice((0, 1, 3, 10, 30))
    deadline = time.monotonic() + (20 if lines else chance.uniform(0.05, 0.3))
    while said.count(b"\n") < lines or not lines:
        remaining = deadline - time.monotonic()
        if remaining <= 0 or not select.select([writer.stdout], [], [], remaining)[0]:
            assert not lines, "the writer does not get on"
            break
        read = os.read(writer.stdout.fileno(), 4096)
        assert read, f"the writer ended by itself: {writer.wait()}"
        said += read
    select.select([], [], [], chance.uniform(0, 0.003))
    writer.kill()
    said += writer.stdout.read()
    writer.stdout.close()
    assert writer.wait() == -signal.SIGKILL
    complete = said[: said.rfind(b"\n") + 1].split()
    return int(complete[-1]) if complete else first - 1


def surviving_batches(reader: Reader) -> int:
    """How many batches, from 0 on, are there. Fails if that is not a prefix of whole batches."""
    last = reader.get(Kind.META, 0, b"last")
    count = 0 if last is None else int(last) + 1
    expected: dict[tuple[Kind, int, bytes], bytes | None] = {}
    for number in range(count):
        for kind, partition, key, value in batch_of(number):
            expected[kind, partition, key] = value
    found = {
        (kind, partition, key): value
        for kind in Kind
        for partition in range(PARTITIONS)
        for key, value in reader.scan(kind, partition)
    }
    assert found == expected
    return count


def kill_again_and_again(directory: Path, kills: int, seed: int) -> tuple[int, int]:
    """(batches that survived, batches that had been synced) over all kills. Fails where one is lost."""
    count = synced_total = 0
    for kill in range(kills):
        synced = kill_a_writer(directory, count, seed + kill)
        storage = RocksStorage(directory)
        survived = surviving_batches(storage)
        assert survived > synced, f"lost in kill {kill}: {synced} was synced, {survived} batches are left"
        assert survived >= count
        if survived > count:
            assert not storage.was_clean
        synced_total += synced + 1 - count
        count = survived
        asyncio.run(storage.close())
    return count, synced_total


@pytest.mark.processes
def test_nothing_synced_is_lost_in_a_few_kills(tmp_path: Path) -> None:
    _, synced = kill_again_and_again(tmp_path / "node", kills=5, seed=100)
    assert synced > 30, "the writers did not get far enough to prove anything"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_nothing_synced_is_lost_in_120_kills(tmp_path: Path) -> None:
    survived, synced = kill_again_and_again(tmp_path / "node", kills=120, seed=1000)
    print(f"120 kills: {synced} synced batches, 0 lost; {survived - synced} unsynced ones survived")
    assert synced > 2000


async def written_and_left_open(directory: Path) -> tuple[Path, int, int]:
    """A copy of a directory in use: its log file, the size of it that was synced, and of batches 7 synced."""
    storage = RocksStorage(directory / "node")
    for number in range(7):
        storage.apply(batch_of(number))
    await storage.sync()
    (log,) = (directory / "node").glob("*.log")
    synced_bytes = log.stat().st_size
    for number in range(7, 10):
        storage.apply(batch_of(number))
    shutil.copytree(directory / "node", directory / "left")
    await storage.close()
    return directory / "left" / log.name, synced_bytes, 7


async def test_every_cut_of_the_unsynced_log_leaves_a_prefix(tmp_path: Path) -> None:
    log, synced_bytes, synced = await written_and_left_open(tmp_path)
    size = log.stat().st_size
    assert size - synced_bytes > 300
    seen = set()
    for cut in (*range(synced_bytes, size, 61), size):
        copy = tmp_path / f"cut at {cut}"
        shutil.copytree(log.parent, copy)
        os.truncate(copy / log.name, cut)
        storage = RocksStorage(copy)
        seen.add(surviving_batches(storage))
        await storage.close()
        shutil.rmtree(copy)
    assert seen == {synced, 8, 9, 10}


@pytest.mark.parametrize("tail", [bytes(5000), Random(7).randbytes(5000)], ids=["zeros", "garbage"])
async def test_what_a_power_cut_leaves_behind_the_log_is_no_damage(tmp_path: Path, tail: bytes) -> None:
    log, _, _ = await written_and_left_open(tmp_path)
    log.write_bytes(log.read_bytes() + tail)
    storage = RocksStorage(log.parent)
    assert surviving_batches(storage) == 10
    await storage.close()


@pytest.mark.parametrize("cut", [0.1, 0.5, 0.9])
async def test_a_log_that_lost_synced_batches_is_not_taken_for_a_torn_one(tmp_path: Path, cut: float) -> None:
    """The engine opens it happily, with what is in front of the cut."""
    log, synced_bytes, _ = await written_and_left_open(tmp_path)
    os.truncate(log, int(synced_bytes * cut))
    for _ in range(2):  # the refusal is no repair
        with pytest.raises(ConfigError, match="synced changes are missing"):
            RocksStorage(log.parent)


async def test_a_flipped_bit_in_front_of_synced_batches_is_not_taken_for_a_torn_tail(tmp_path: Path) -> None:
    log, synced_bytes, _ = await written_and_left_open(tmp_path)
    content = bytearray(log.read_bytes())
    content[synced_bytes // 2] ^= 1
    log.write_bytes(content)
    with pytest.raises(ConfigError, match="synced changes are missing"):
        RocksStorage(log.parent)
