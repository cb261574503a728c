"""A process whose disk fails for real. Usage: python -m tests.storage.fault_child SCENARIO DIRECTORY

Prints what it saw; ends with 0 if the storage behaved.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sys
from pathlib import Path

from kvstore.errors import StorageFailed, StorageFull
from kvstore.node.ports import Kind
from kvstore.storage.rocksdb import RocksStorage

RECORD = os.urandom(1000)


def put(storage: RocksStorage, number: int) -> None:
    storage.apply([(Kind.DATA, 1, b"%06d" % number, RECORD), (Kind.META, 0, b"last", b"%d" % number)])


def count(storage: RocksStorage) -> int:
    """Records that are there; a prefix, and `last` names the last of it."""
    keys = [key for key, value in storage.scan(Kind.DATA, 1) if value == RECORD]
    assert keys == [b"%06d" % number for number in range(len(keys))]
    assert storage.get(Kind.META, 0, b"last") == (b"%d" % (len(keys) - 1) if keys else None)
    return len(keys)


async def full(directory: Path) -> None:
    """The file system fills up between two looks at it, so that the engine itself fails to append."""
    storage = RocksStorage(directory / "node", reserve_bytes=0)
    put(storage, 0)
    await storage.sync()
    with (directory / "ballast").open("wb", buffering=0) as ballast:
        try:
            while ballast.write(bytes(4096)) == 4096:
                pass
        except OSError as error:
            print("ballast:", error)
    applied = 1
    kept = []  # what somebody may still hold: its frames must not keep the engine open
    while True:
        try:
            put(storage, applied)
        except StorageFull as error:
            print("apply:", error)
            kept.append(error)
            break
        applied += 1
    try:
        await storage.sync()
    except StorageFull as error:
        print("sync:", error)
    for _ in range(3):
        try:
            put(storage, applied)
        except StorageFull:
            continue
        raise AssertionError("took a write while the disk is full")
    assert count(storage) == applied
    scan = storage.scan(Kind.DATA, 1)

    (directory / "ballast").unlink()
    put(storage, applied)
    assert count(storage) == applied + 1
    await storage.sync()
    try:
        assert len(list(scan)) == applied
    except StorageFull as error:
        print("scan:", error)
    put(storage, applied + 1)
    await storage.close()

    storage = RocksStorage(directory / "node", reserve_bytes=0)
    assert storage.was_clean
    assert count(storage) == applied + 2
    await storage.close()
    print("recovered with", applied + 2)


async def start_full(directory: Path) -> None:
    """A disk that was full when the process ended: opening says so in one line."""
    await RocksStorage(directory / "node").close()
    (directory / "ballast").write_bytes(b"")
    with (directory / "ballast").open("wb", buffering=0) as ballast:
        try:
            while ballast.write(bytes(4096)) == 4096:
                pass
        except OSError as error:
            print("ballast:", error)
    try:
        storage = RocksStorage(directory / "node")
    except StorageFailed as error:
        print("open:", error)
    else:
        raise AssertionError(f"opened on a full disk: {storage}")
    (directory / "ballast").unlink()
    storage = RocksStorage(directory / "node")
    assert storage.was_clean
    await storage.close()


async def write_error(directory: Path) -> None:
    """The log cannot grow: an I/O error that is not about space."""
    storage = RocksStorage(directory / "node")
    put(storage, 0)
    await storage.sync()
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
    applied = 1
    try:
        for applied in range(1, 1000):
            put(storage, applied)
    except StorageFailed as error:
        print("apply:", error)
    assert applied < 100
    assert storage.failure is not None
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await refuses_everything(storage, applied)
    assert count(storage) == applied
    await storage.close()
    storage = RocksStorage(directory / "node")
    assert not storage.was_clean
    assert count(storage) == applied
    await storage.close()


async def sync_error(directory: Path) -> None:
    """Run where fdatasync begins to fail after a while."""
    storage = RocksStorage(directory / "node")
    synced = 0
    try:
        for synced in range(1000):
            put(storage, synced)
            await storage.sync()
    except StorageFailed as error:
        print("sync:", error)
    assert 0 < synced < 999
    assert storage.syncs == synced
    await refuses_everything(storage, synced + 1)
    assert count(storage) == synced + 1  # reads go on
    print("synced", synced, flush=True)
    os._exit(0)  # as a node does: without another word to this disk


async def refuses_everything(storage: RocksStorage, number: int) -> None:
    for _ in range(2):
        try:
            put(storage, number)
        except StorageFailed:
            pass
        else:
            raise AssertionError("took a write after a failure")
        try:
            await storage.sync()
        except StorageFailed:
            pass
        else:
            raise AssertionError("claimed a sync after a failure")


async def hold(directory: Path) -> None:
    """Uses the directory until stdin ends."""
    storage = RocksStorage(directory / "node")
    print("open", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await storage.close()


SCENARIOS = {run.__name__: run for run in (full, start_full, write_error, sync_error, hold)}

if __name__ == "__main__":
    asyncio.run(SCENARIOS[sys.argv[1]](Path(sys.argv[2])))
