"""The faults that a simulated disk has beyond those of the contract, each as bad as it says."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from kvstore.errors import ConfigError, StorageFailed
from kvstore.node.ports import Kind
from kvstore.storage.memory import MemoryDisk, MemoryStorage

DATA = Kind.DATA


def put(storage: MemoryStorage, key: bytes, value: bytes | None) -> None:
    storage.apply([(DATA, 1, key, value)])


async def test_a_crash_takes_the_unsynced_tail_and_no_more() -> None:
    storage = MemoryStorage()
    put(storage, b"synced", b"1")
    await storage.sync()
    for number in range(3):
        put(storage, b"%d" % number, b"1")
    assert storage.disk.unsynced_batches == 3
    storage = storage.crash(keep_batches=2)
    assert [key for key, _ in storage.scan(DATA, 1)] == [b"0", b"1", b"synced"]
    assert not storage.was_clean


async def test_a_crash_undoes_a_batch_that_wrote_a_key_twice() -> None:
    storage = MemoryStorage()
    put(storage, b"key", b"old")
    await storage.sync()
    storage.apply([(DATA, 1, b"key", b"1"), (DATA, 1, b"key", None), (DATA, 1, b"key", b"2")])
    assert storage.crash().get(DATA, 1, b"key") == b"old"


async def test_a_sync_covers_what_was_applied_when_it_began() -> None:
    storage = MemoryStorage(sync_delay_s=0.001)
    put(storage, b"before", b"1")
    first = storage.sync()
    await asyncio.sleep(0)
    put(storage, b"while", b"1")
    await first
    assert storage.disk.unsynced_batches == 1
    storage = storage.crash()
    assert [key for key, _ in storage.scan(DATA, 1)] == [b"before"]


async def test_the_crashed_process_is_gone_for_good() -> None:
    old = MemoryStorage(sync_delay_s=0.001)
    put(old, b"a", b"1")
    never = old.sync()
    await asyncio.sleep(0)
    new = old.crash()
    with pytest.raises(StorageFailed, match="closed"):
        put(old, b"b", b"1")
    with pytest.raises(StorageFailed, match="closed"):
        old.get(DATA, 1, b"a")
    await old.close()  # does not disturb the new one
    put(new, b"c", b"1")
    await new.sync()
    assert not never.done()
    assert [key for key, _ in new.scan(DATA, 1)] == [b"c"]


async def test_failing_reads_are_no_answers_and_end_with_the_fault() -> None:
    storage = MemoryStorage()
    put(storage, b"a", b"1")
    storage.disk.fail_reads = True
    with pytest.raises(StorageFailed):
        storage.get(DATA, 1, b"a")
    with pytest.raises(StorageFailed):
        storage.scan(DATA, 1)
    storage.disk.fail_reads = False
    assert storage.get(DATA, 1, b"a") == b"1"


async def test_a_failing_write_is_the_last_one() -> None:
    storage = MemoryStorage()
    storage.disk.fail_writes = True
    with pytest.raises(StorageFailed, match="write failed"):
        put(storage, b"a", b"1")
    storage.disk.fail_writes = False
    with pytest.raises(StorageFailed, match="write failed"):
        put(storage, b"a", b"1")
    with pytest.raises(StorageFailed, match="write failed"):
        await storage.sync()
    assert storage.get(DATA, 1, b"a") is None
    await storage.close()
    assert not MemoryStorage(storage.disk).was_clean


async def test_a_copy_is_a_disk_of_its_own() -> None:
    storage = MemoryStorage()
    put(storage, b"a", b"old")
    clone = storage.disk.copy()
    put(storage, b"a", b"new")
    copied = MemoryStorage(clone)
    assert not copied.was_clean
    assert copied.get(DATA, 1, b"a") == b"old"
    put(copied, b"b", b"1")
    assert storage.get(DATA, 1, b"b") is None

    await storage.close()
    assert MemoryStorage(storage.disk.copy()).was_clean  # of a disk that was closed, as a backup of one is


async def test_a_wiped_disk_is_new() -> None:
    storage = MemoryStorage()
    put(storage, b"a", b"1")
    await storage.close()
    storage.disk.wipe()
    storage = MemoryStorage(storage.disk)
    assert storage.was_clean
    assert list(storage.scan(DATA, 1)) == []


async def test_what_is_never_synced_takes_bounded_memory_and_is_written_back_in_time() -> None:
    storage = MemoryStorage()
    for number in range(12_000):
        put(storage, b"key", b"%d" % number)
    assert storage.disk.unsynced_batches == 10_000
    await storage.sync()
    assert storage.disk.unsynced_batches == 0
    put(storage, b"key", b"last")
    assert storage.crash().get(DATA, 1, b"key") == b"11999"


async def test_a_disk_has_one_user(tmp_path: Path) -> None:
    disk = MemoryDisk()
    storage = MemoryStorage(disk)
    with pytest.raises(ConfigError, match="in use"):
        MemoryStorage(disk)
    storage.checkpoint(tmp_path)
    with pytest.raises(ConfigError, match="exists"):
        storage.checkpoint(tmp_path)
    await storage.close()
    MemoryStorage(disk)
