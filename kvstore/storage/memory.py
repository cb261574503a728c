"""`ports.Storage` in memory: a disk that can crash, fill up, fail and rot, for tests and simulation.

A `MemoryDisk` outlives the processes that use it; a `MemoryStorage` is one process's use of it. Records
are sealed as on a real disk, so a flipped bit is found the same way.

    disk = MemoryDisk()
    storage = MemoryStorage(disk)
    storage.apply([(Kind.META, 0, b"name", b"value")])
    storage = storage.crash()               # the unsynced tail is gone
    disk.full = True                        # and so on, see the attributes of MemoryDisk
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from kvstore.errors import ConfigError, CorruptRecord, StorageFailed, StorageFull
from kvstore.node.ports import Kind, Write
from kvstore.storage.group_sync import GroupSync
from kvstore.storage.record import PARTITION_BYTES, seal, stored_key, unseal

_UNSYNCED_BATCHES_MAX = 10_000  # beyond, the oldest become durable, as a kernel writes back in time
_CLOSED = "the storage is closed"


class _Table:
    """Sealed records of one kind and partition, and their stored keys in order."""

    __slots__ = ("order", "records")

    def __init__(self, records: dict[bytes, bytes] | None = None) -> None:
        self.records = dict(records or {})
        self.order = sorted(self.records)

    def put(self, stored: bytes, sealed: bytes | None) -> bytes | None:
        """What was there before. None deletes."""
        before = self.records.get(stored)
        if sealed is None:
            if before is not None:
                del self.records[stored]
                del self.order[bisect_left(self.order, stored)]
        else:
            if before is None:
                insort(self.order, stored)
            self.records[stored] = sealed
        return before

    def get(self, stored: bytes) -> bytes | None:
        sealed = self.records.get(stored)
        return None if sealed is None else unseal(stored, sealed)

    def scan(self, start: bytes) -> Iterator[tuple[bytes, bytes | None]]:
        """As of the call: the range is copied here, not when it is read."""
        order, records = self.order, self.records
        return _unsealed([(stored, records[stored]) for stored in order[bisect_left(order, start) :]])


def _unsealed(found: list[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes | None]]:
    for stored, sealed in found:
        try:
            value: bytes | None = unseal(stored, sealed)
        except CorruptRecord:
            value = None
        yield stored[PARTITION_BYTES:], value


_Tables = dict[tuple[Kind, int], _Table]
_NO_RECORDS = _Table()


def _copied(tables: _Tables) -> _Tables:
    return {where: _Table(table.records) for where, table in tables.items()}


class DiskObserver(Protocol):
    """Told what happens to a disk, after it has happened. Batches are counted, oldest first."""

    def applied(self, batch: Sequence[Write]) -> None: ...

    def synced(self, batches: int) -> None:
        """So many more are durable."""

    def crashed(self, lost_batches: int) -> None:
        """The newest are gone; what was kept is durable."""

    def wiped(self) -> None: ...

    def damaged(self, kind: Kind, partition: int, key: bytes) -> None: ...


class MemoryDisk:
    """What is left when a process ends. Faults are attributes, in force until they are set back."""

    def __init__(self) -> None:
        self.full = False
        """`apply` raises StorageFull; reads and syncs go on."""
        self.fail_reads = False
        """`get` and `scan` raise StorageFailed."""
        self.fail_writes = False
        """`apply` raises StorageFailed, and the storage stays failed, as after an I/O error."""
        self.fail_syncs = False
        """A sync that ends now fails with StorageFailed, and the storage stays failed."""
        self.checkpoints: dict[Path, MemoryDisk] = {}
        """The disks that `checkpoint` made, by path."""
        self.observer: DiskObserver | None = None
        self._tables: _Tables = {}
        self._unsynced: deque[list[tuple[_Table, bytes, bytes | None]]] = deque()
        """Per batch what it replaced, oldest batch first."""
        self._applied = 0  # batches, since ever
        self._clean = True
        self._user: MemoryStorage | None = None

    @property
    def unsynced_batches(self) -> int:
        return len(self._unsynced)

    def crash(self, keep_batches: int = 0) -> None:
        """The process is gone, and of the unsynced batches all but the `keep_batches` oldest.

        Its sync futures never end: whoever simulates the crash cancels the tasks that wait for them.
        """
        lost = max(0, len(self._unsynced) - keep_batches)
        while len(self._unsynced) > keep_batches:
            for table, stored, before in reversed(self._unsynced.pop()):
                table.put(stored, before)
        self._unsynced.clear()
        if self._user is not None:
            self._clean = False
        self._user = None
        if self.observer is not None:
            self.observer.crashed(lost)

    def wipe(self) -> None:
        """An empty disk in place of this one. Not while a storage uses it."""
        assert self._user is None, "a storage uses this disk"
        self._tables, self._clean = {}, True
        if self.observer is not None:
            self.observer.wiped()

    def _keep_only_meta(self) -> None:
        self._unsynced.clear()
        self._tables = {where: table for where, table in self._tables.items() if where[0] is Kind.META}
        if self.observer is not None:
            self.observer.wiped()

    def copy(self) -> MemoryDisk:
        """The disk as a backup or a clone has it: with all that was applied, and not cleanly closed."""
        twin = MemoryDisk()
        twin._tables, twin._clean = _copied(self._tables), self._user is None and self._clean
        return twin

    def flip_bit(self, kind: Kind, partition: int, key: bytes, bit: int = 0) -> None:
        """Damage one record. `bit` counts from the first bit of the sealed record, modulo its length."""
        table, stored = self._tables[kind, partition], stored_key(partition, key)
        sealed = bytearray(table.records[stored])
        sealed[bit // 8 % len(sealed)] ^= 1 << bit % 8
        table.records[stored] = bytes(sealed)
        if self.observer is not None:
            self.observer.damaged(kind, partition, key)

    def keys(self, kind: Kind) -> list[tuple[int, bytes]]:
        """(partition, key) of every record of this kind, in order; readable or not."""
        return [
            (partition, stored[PARTITION_BYTES:])
            for (held, partition), table in sorted(self._tables.items())
            if held is kind
            for stored in table.order
        ]

    def record(self, kind: Kind, partition: int, key: bytes) -> bytes | None:
        """What is there, whoever uses the disk. Raises CorruptRecord."""
        return self._tables.get((kind, partition), _NO_RECORDS).get(stored_key(partition, key))

    def durable(self, kind: Kind, partition: int, key: bytes) -> bytes | None:
        """What a crash that loses the whole unsynced tail would leave. Raises CorruptRecord."""
        table, stored = self._tables.get((kind, partition), _NO_RECORDS), stored_key(partition, key)
        for batch in self._unsynced:
            for changed, name, before in batch:
                if changed is table and name == stored:
                    return None if before is None else unseal(stored, before)
        return table.get(stored)

    def _apply(self, changes: list[tuple[Kind, int, bytes, bytes | None]]) -> None:
        undo = []
        for kind, partition, stored, sealed in changes:
            table = self._tables.get((kind, partition))
            if table is None:
                table = self._tables[kind, partition] = _Table()
            undo.append((table, stored, table.put(stored, sealed)))
        self._unsynced.append(undo)
        self._applied += 1
        if len(self._unsynced) > _UNSYNCED_BATCHES_MAX:
            self._synced(self._applied - _UNSYNCED_BATCHES_MAX)

    def _synced(self, applied: int) -> None:
        """The first `applied` batches are durable."""
        newly = applied - (self._applied - len(self._unsynced))
        for _ in range(newly):
            self._unsynced.popleft()
        if self.observer is not None and newly > 0:
            self.observer.synced(newly)


class MemorySnapshot:
    """A copy: costs memory and time in proportion to what is stored."""

    def __init__(self, tables: _Tables) -> None:
        self._tables: _Tables | None = _copied(tables)

    def get(self, kind: Kind, partition: int, key: bytes) -> bytes | None:
        return self._table(kind, partition).get(stored_key(partition, key))

    def scan(self, kind: Kind, partition: int, start: bytes = b"") -> Iterator[tuple[bytes, bytes | None]]:
        return self._table(kind, partition).scan(stored_key(partition, start))

    def close(self) -> None:
        self._tables = None

    def _table(self, kind: Kind, partition: int) -> _Table:
        if self._tables is None:
            raise StorageFailed(_CLOSED)
        return self._tables.get((kind, partition), _NO_RECORDS)


class MemoryStorage:
    """One process's use of a disk. Raises ConfigError if another one uses it.

    `sync_delay_s`: how long a sync takes, on the clock of the loop; 0 ends it in the next turn.
    """

    def __init__(self, disk: MemoryDisk | None = None, *, sync_delay_s: float = 0.0) -> None:
        self.disk = disk or MemoryDisk()
        if self.disk._user is not None:
            raise ConfigError("this disk is in use by another storage: close that one first")
        self.sync_delay_s = sync_delay_s
        self._was_clean = self.disk._clean
        self.disk._user, self.disk._clean = self, False
        self._closing: asyncio.Future[None] | None = None
        self._group = GroupSync(self._begin_sync)

    def crash(self, keep_batches: int = 0) -> MemoryStorage:
        """kill -9 and a new start: what a storage on the same disk sees afterwards (MemoryDisk.crash)."""
        self.disk.crash(keep_batches)
        return MemoryStorage(self.disk, sync_delay_s=self.sync_delay_s)

    @property
    def was_clean(self) -> bool:
        return self._was_clean

    def get(self, kind: Kind, partition: int, key: bytes) -> bytes | None:
        return self._table(kind, partition).get(stored_key(partition, key))

    def scan(self, kind: Kind, partition: int, start: bytes = b"") -> Iterator[tuple[bytes, bytes | None]]:
        return self._table(kind, partition).scan(stored_key(partition, start))

    def snapshot(self) -> MemorySnapshot:
        self._check_open()
        return MemorySnapshot(self.disk._tables)

    def apply(self, batch: Sequence[Write]) -> None:
        self._check_open()
        if self._group.failure is not None:
            raise StorageFailed(self._group.failure.detail)
        changes = []
        for kind, partition, key, value in batch:
            stored = stored_key(partition, key)
            changes.append((kind, partition, stored, None if value is None else seal(stored, value)))
        if self.disk.full:
            raise StorageFull("the simulated disk is full")
        if self.disk.fail_writes:
            self._group.fail(StorageFailed("write failed: simulated"))
            raise StorageFailed("write failed: simulated")
        self.disk._apply(changes)
        self._group.dirty = True
        if self.disk.observer is not None:
            self.disk.observer.applied(batch)

    def sync(self) -> asyncio.Future[None]:
        if self.disk._user is not self:
            self._group.fail(StorageFailed(_CLOSED))
        return self._group.join()

    def checkpoint(self, path: Path) -> None:
        """Kept in `disk.checkpoints`, not on a file system."""
        self._check_open()
        if path in self.disk.checkpoints:
            raise ConfigError(f"{path} exists: name a new path for the checkpoint")
        self.disk.checkpoints[path] = self.disk.copy()

    def set_aside(self, batch: Sequence[Write]) -> str:
        """The copy is kept in `disk.checkpoints`."""
        self._check_open()
        if self.disk.full:
            raise StorageFull("the simulated disk is full")
        if self.disk.fail_writes or self.disk.fail_syncs:
            self._group.fail(StorageFailed("write failed: simulated"))
            raise StorageFailed("write failed: simulated")
        path = Path(f"set-aside-{len(self.disk.checkpoints) + 1}")
        self.checkpoint(path)
        self.disk._keep_only_meta()
        self.apply(batch)
        self.disk._synced(self.disk._applied)
        return str(path)

    async def close(self) -> None:
        """Raises StorageFailed if the last sync fails; releases the disk all the same."""
        if self._closing is None:
            if self._group.failure is not None or self.disk._user is not self:
                self._release()  # reported already
                return
            self._closing = self._group.join()
            self._closing.add_done_callback(self._release)
        await self._closing
        self._release(self._closing)

    def _release(self, closing: asyncio.Future[None] | None = None) -> None:
        if self.disk._user is self:
            self.disk._user = None
            self.disk._clean = closing is not None and closing.exception() is None
        self._group.fail(StorageFailed(_CLOSED))

    @property
    def syncs(self) -> int:
        return self._group.syncs

    @property
    def sync_seconds_total(self) -> float:
        return self._group.sync_seconds_total

    @property
    def failure(self) -> StorageFailed | None:
        return self._group.failure

    def approximate_bytes(self) -> int:
        return sum(len(k) + len(v) for t in self.disk._tables.values() for k, v in t.records.items())

    def _begin_sync(self) -> None:
        applied = self.disk._applied
        if self.sync_delay_s:
            asyncio.get_running_loop().call_later(self.sync_delay_s, self._end_sync, applied)
        else:
            self._end_sync(applied)

    def _end_sync(self, applied: int) -> None:
        if self.disk._user is not self:
            return  # crashed meanwhile
        if self.disk.fail_syncs:
            self._group.finished(StorageFailed("sync failed: simulated"))
            return
        self.disk._synced(applied)
        self._group.finished(None, self.sync_delay_s)

    def _table(self, kind: Kind, partition: int) -> _Table:
        self._check_open()
        if self.disk.fail_reads:
            raise StorageFailed("read failed: simulated")
        return self.disk._tables.get((kind, partition), _NO_RECORDS)

    def _check_open(self) -> None:
        if self._closing is not None or self.disk._user is not self:
            raise StorageFailed(_CLOSED)
