"""Both storages behind one face, with their faults, so that one suite of tests runs on each."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from pathlib import Path

from kvstore.node.ports import Kind
from kvstore.storage.memory import MemoryDisk, MemoryStorage
from kvstore.storage.record import stored_key
from kvstore.storage.rocksdb import RocksStorage
from kvstore.storage.rocksdb_engine import MIB, Engine

AnyStorage = RocksStorage | MemoryStorage


class Bench(ABC):
    """One disk, and the storage that uses it last. Everything that was opened is closed by the fixture."""

    def __init__(self) -> None:
        self.opened: list[AnyStorage] = []

    def open(self) -> AnyStorage:
        storage = self._open()
        self.opened.append(storage)
        return storage

    @abstractmethod
    def _open(self) -> AnyStorage:
        """Another process start on the same disk."""

    @abstractmethod
    def crash(self) -> AnyStorage:
        """kill -9 of the last storage, and a new start; nothing that reached the kernel is lost."""

    @abstractmethod
    def checkpoint_path(self) -> Path: ...

    @abstractmethod
    def open_checkpoint(self, path: Path) -> AnyStorage: ...

    @abstractmethod
    def flip_bit(self, kind: Kind, partition: int, key: bytes, bit: int) -> None: ...

    @abstractmethod
    def fail_syncs(self, *, on: bool = True) -> None: ...

    @abstractmethod
    def fill(self, *, on: bool = True) -> None:
        """No space is left, or there is again."""


class MemoryBench(Bench):
    def __init__(self) -> None:
        super().__init__()
        self.disk = MemoryDisk()

    def _open(self) -> MemoryStorage:
        return MemoryStorage(self.disk)

    def crash(self) -> MemoryStorage:
        self.disk.crash(keep_batches=self.disk.unsynced_batches)
        storage = MemoryStorage(self.disk)
        self.opened.append(storage)
        return storage

    def checkpoint_path(self) -> Path:
        return Path("checkpoint")

    def open_checkpoint(self, path: Path) -> MemoryStorage:
        storage = MemoryStorage(self.disk.checkpoints[path])
        self.opened.append(storage)
        return storage

    def flip_bit(self, kind: Kind, partition: int, key: bytes, bit: int) -> None:
        self.disk.flip_bit(kind, partition, key, bit)

    def fail_syncs(self, *, on: bool = True) -> None:
        self.disk.fail_syncs = on

    def fill(self, *, on: bool = True) -> None:
        self.disk.full = on


class FaultyRocksStorage(RocksStorage):
    """Whose fsync can fail. (That a real failing fsync ends the same way: test_faults.py.)"""

    syncs_fail = False

    def _flush_log(self, engine: Engine) -> None:
        if self.syncs_fail:
            raise OSError("IO error: While fdatasync: Input/output error")
        super()._flush_log(engine)


class RocksBench(Bench):
    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory = directory
        self.path = directory / "node"
        self.storage: FaultyRocksStorage | None = None

    def _open(self) -> RocksStorage:
        self.storage = FaultyRocksStorage(self.path, cache_bytes=1 * MIB)
        return self.storage

    def crash(self) -> AnyStorage:
        """The files as they are now, elsewhere: what a process killed at this moment leaves behind."""
        assert self.storage is not None
        self.storage._engine.root.cancel_all_background(True)  # a compaction would delete what is copied
        crashed = self.path.with_name(self.path.name + "-")
        shutil.copytree(self.path, crashed)
        self.path = crashed
        return self.open()

    def checkpoint_path(self) -> Path:
        return self.directory / "checkpoint"

    def open_checkpoint(self, path: Path) -> RocksStorage:
        storage = RocksStorage(path)
        self.opened.append(storage)
        return storage

    def flip_bit(self, kind: Kind, partition: int, key: bytes, bit: int) -> None:
        """In the engine, under its own checksums: what a cache, a compaction or a wrong copy may do."""
        assert self.storage is not None
        family, stored = self.storage._families[kind], stored_key(partition, key)
        sealed = bytearray(family.get(stored))
        sealed[bit // 8 % len(sealed)] ^= 1 << bit % 8
        family.put(stored, bytes(sealed))

    def fail_syncs(self, *, on: bool = True) -> None:
        assert self.storage is not None
        self.storage.syncs_fail = on

    def fill(self, *, on: bool = True) -> None:
        assert self.storage is not None
        self.storage.reserve_bytes = 1 << 60 if on else 0


def make_bench(name: str, directory: Path) -> Bench:
    return MemoryBench() if name == "memory" else RocksBench(directory)
