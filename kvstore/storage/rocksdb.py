"""`ports.Storage` on RocksDB: one column family per kind, one write batch per change.

Written in the loop without sync, because the engine takes a few µs for it; made durable by a grouped
`flush_wal(True)` in one thread, which releases the GIL. Never `sync=True` writes: these hold the GIL
through the fsync and froze the loop for 5 ms.

Log recovery is point-in-time: a prefix of the batches survives, across all log files, also if a power
cut left garbage at the end. `tolerate_corrupted_tail_records` refuses to open then, and it accepts a
hole between two log files. What point-in-time cannot do is tell a torn tail from damage in front of
synced records; the mark of storage/directory.py does.

The engine reports errors as plain `Exception` with a text; these are read in the `*_error`
functions of this file, rocksdb_engine.py and rocksdb_cursor.py, nowhere else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import perf_counter
from weakref import WeakSet

from rocksdict import Checkpoint, DbClosedError, WriteBatch

from kvstore.errors import ConfigError, StorageError, StorageFailed, StorageFull
from kvstore.node.ports import Kind, Write
from kvstore.storage.directory import DataDirectory
from kvstore.storage.group_sync import GroupSync, SyncFuture
from kvstore.storage.record import END, seal, stored_key, unseal
from kvstore.storage.rocksdb_cursor import CLOSED, Cursor, RocksSnapshot, read_error, records
from kvstore.storage.rocksdb_engine import (
    MIB,
    ClosedEngine,
    Engine,
    check_in,
    check_out,
    is_no_space,
    open_error,
)
from kvstore.storage.sync_thread import SyncThread

_SPACE_STEP_BYTES = 4 * MIB  # written between two looks at the free space
_BATCH_BYTES = 64  # taken for what a batch writes beside its values


class RocksStorage:
    """One node's records in the directory `path`: for one process, used from one thread.

    `cache_bytes`: blocks, indexes and filters in memory; grows to this and no further.
    `write_buffer_bytes`: of data and of hints, at most three each.
    `reserve_bytes` of the file system are kept free: below, writes raise StorageFull while the engine can
    still flush and compact. Too small a reserve costs a pause when the disk did fill up, because an engine
    that failed to append writes nothing more until it was opened again.

    Raises ConfigError or StorageFailed in one line. Blocks while the log is replayed (64 MiB at most).
    """

    def __init__(
        self,
        path: Path,
        *,
        cache_bytes: int = 64 * MIB,
        write_buffer_bytes: int = 16 * MIB,
        reserve_bytes: int = 64 * MIB,
    ) -> None:
        self._directory = DataDirectory(path)
        self._open = partial(Engine, path, cache_bytes=cache_bytes, write_buffer_bytes=write_buffer_bytes)
        self._engine: Engine | ClosedEngine = ClosedEngine()
        self.reserve_bytes = reserve_bytes
        self._headroom_bytes = 0  # may be written before the next look at the free space
        self._refusing = False  # there is a reason not to write; `_try_again` knows it
        self._full = False  # the engine failed to append for want of space
        self._sync_failed = False  # also set in the sync thread
        self._closing: asyncio.Future[None] | None = None
        self._cursors: WeakSet[Cursor] = WeakSet()
        self._group = GroupSync(self._begin_sync)
        engine = None
        try:
            engine = self._open()
            self._was_clean = check_in(engine, self._directory)
        except Exception as error:
            if engine is not None:
                engine.close()
            self._directory.release()
            raise open_error(path, error) from None
        self._use(engine)
        self._thread = SyncThread()

    def _use(self, engine: Engine | ClosedEngine) -> None:
        """Handles are never put into local variables: one in the frame of an error keeps its engine open."""
        self._engine = engine
        self._families = engine.families
        self._handles = engine.handles

    @property
    def was_clean(self) -> bool:
        return self._was_clean

    def get(self, kind: Kind, partition: int, key: bytes) -> bytes | None:
        stored = stored_key(partition, key)
        try:
            sealed = self._families[kind].get(stored)
        except Exception as error:
            raise read_error(error) from None
        return None if sealed is None else unseal(stored, sealed)

    def scan(self, kind: Kind, partition: int, start: bytes = b"") -> Iterator[tuple[bytes, bytes | None]]:
        """Raises CorruptRecord where a whole block of a table is damaged: what follows is unknown.

        Raises StorageFull if it is cut off by the recovery from a full disk: scan once more. Pins the
        files of this moment until it ends or is dropped.
        """
        try:
            cursor = Cursor(self._families[kind], partition)
        except Exception as error:
            raise read_error(error) from None
        self._cursors.add(cursor)
        return records(cursor, partition, start)

    def snapshot(self) -> RocksSnapshot:
        try:
            cursors = tuple(Cursor(family) for family in self._families)
        except Exception as error:
            raise read_error(error) from None
        self._cursors.update(cursors)
        return RocksSnapshot(cursors)

    def apply(self, batch: Sequence[Write]) -> None:
        if self._refusing:
            self._try_again()
        if self._headroom_bytes <= 0:
            self._headroom_bytes = self._directory.headroom_bytes(self.reserve_bytes, _SPACE_STEP_BYTES)
        written = _BATCH_BYTES
        try:
            if len(batch) == 1:  # without a WriteBatch: 4 µs instead of 6
                ((kind, partition, key, value),) = batch
                stored = stored_key(partition, key)
                if value is None:
                    self._families[kind].delete(stored)
                else:
                    self._families[kind].put(stored, seal(stored, value))
                    written += len(value)
            else:
                changes = WriteBatch(raw_mode=True)
                written += self._add(changes, batch)
                self._engine.root.write(changes)
        except Exception as error:
            raise self._write_error(error) from None
        self._group.dirty = True
        self._headroom_bytes -= written

    def _add(self, changes: WriteBatch, batch: Sequence[Write]) -> int:
        """Returns how many bytes of values went in."""
        written = 0
        for kind, partition, key, value in batch:
            stored = stored_key(partition, key)
            if value is None:
                changes.delete(stored, self._handles[kind])
            else:
                changes.put(stored, seal(stored, value), self._handles[kind])
                written += len(value)
        return written

    def sync(self) -> asyncio.Future[None]:
        """One future for all who ask in the same group; SyncFuture says how to wait for it.

        Fails with StorageFull, and may succeed later, if the disk filled up before the group's turn.
        """
        return self._group.join()

    def checkpoint(self, path: Path) -> None:
        """Opens as not clean, so that a copy does not go on under the identity of the original.

        Blocks the process while the write buffers are flushed: the binding holds the GIL here.
        """
        if path.exists() or not path.parent.is_dir():
            fault = "exists" if path.exists() else f"cannot be created in {path.parent}"
            raise ConfigError(f"{path} {fault}: name a new path in an existing directory for the checkpoint")
        try:
            Checkpoint(self._engine.root).create_checkpoint(str(path))
        except Exception as error:
            if is_no_space(str(error)):
                raise StorageFull(f"no space left for a checkpoint at {path}") from None
            if isinstance(error, DbClosedError):
                raise StorageFailed(CLOSED) from None
            raise StorageError(f"checkpoint at {path} failed: {error}") from None

    def set_aside(self, batch: Sequence[Write]) -> str:
        """A checkpoint inside of the directory, of links to the same tables: it takes room as these go."""
        if self._refusing:
            self._try_again()
        self._headroom_bytes = self._directory.headroom_bytes(self.reserve_bytes, _SPACE_STEP_BYTES)
        aside = self._directory.free_name("set-aside")
        self.checkpoint(aside)
        changes = WriteBatch(raw_mode=True)
        for kind in Kind:
            if kind is not Kind.META:
                changes.delete_range(stored_key(0, b""), END, self._handles[kind])
        self._add(changes, batch)
        engine = self._engine
        assert isinstance(engine, Engine)
        try:
            engine.root.write(changes)
            sequence = engine.last_sequence()
            self._flush_log(engine)
            self._directory.mark_synced(sequence)
        except Exception as error:
            raise self._write_error(error) from None
        return str(aside)

    async def close(self) -> None:
        """Raises StorageFailed or StorageFull if the last sync fails; releases the directory all the same."""
        if self._closing is None:
            engine, failed = self._engine, self._group.failure is not None
            waiting = self._group.abandon()
            self._group.fail(StorageFailed(CLOSED))
            self._refusing = True
            self._use(ClosedEngine())
            for cursor in list(self._cursors):
                cursor.close()
            self._closing = self._thread.finish(partial(self._check_out, engine, failed))
            self._closing.add_done_callback(partial(_closed, waiting))
        await asyncio.shield(self._closing)

    def _check_out(self, engine: Engine | ClosedEngine, failed: bool) -> None:
        """In the sync thread, so behind a sync that still runs."""
        try:
            if self._full:
                raise StorageFull("closed without a last sync: the disk is full")
            if isinstance(engine, Engine) and not failed:
                if self._sync_failed:
                    raise StorageFailed("closed without a last sync: an earlier one failed")
                check_out(engine, self._directory, self._flush_log)
        finally:
            engine.close()
            self._directory.release()

    @property
    def syncs(self) -> int:
        return self._group.syncs

    @property
    def sync_seconds_total(self) -> float:
        return self._group.sync_seconds_total

    @property
    def failure(self) -> StorageFailed | None:
        """Why nothing can be written any more, if so: the node must stop."""
        return self._group.failure

    def approximate_bytes(self) -> int:
        """Tables on disk and write buffers in memory, without the log."""
        names = ("rocksdb.live-sst-files-size", "rocksdb.cur-size-all-mem-tables")
        try:
            return sum(family.property_int_value(name) or 0 for family in self._families for name in names)
        except Exception as error:
            raise read_error(error) from None

    def _begin_sync(self) -> None:
        engine = self._engine
        assert isinstance(engine, Engine)
        loop, sequence = asyncio.get_running_loop(), engine.last_sequence()
        self._thread.submit(partial(self._sync, loop, engine, sequence))

    def _sync(self, loop: asyncio.AbstractEventLoop, engine: Engine, sequence: int) -> None:
        began, failure = perf_counter(), ""
        try:
            self._flush_log(engine)
        except Exception as error:
            failure, self._sync_failed = str(error) or type(error).__name__, True
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(self._synced, failure, sequence, perf_counter() - began)

    def _flush_log(self, engine: Engine) -> None:
        engine.flush_log()

    def _synced(self, failure: str, sequence: int, seconds: float) -> None:
        if not failure and self._closing is None:  # from then on the directory is the closing's to mark
            try:
                # Not in the thread: a system call gives the interpreter away, to be waited for again.
                self._directory.mark_synced(sequence)
            except OSError as error:
                failure, self._sync_failed = str(error), True
        if not failure:
            self._group.finished(None, seconds)
        elif self._full and "previous error" in failure:  # the engine refused before it asked the disk
            self._sync_failed = False
            self._group.finished(StorageFull("not synced: the disk is full"))
        else:
            self._refusing = True
            self._group.finished(StorageFailed(f"sync failed: {failure}"))

    def _write_error(self, error: Exception) -> Exception:
        if type(error) is not Exception:
            return error  # a caller's: a value that is not bytes, a partition out of range
        text = str(error)
        if "Write stall" in text:
            return StorageFull("the engine is behind with flushing and compacting")
        self._refusing = True
        if is_no_space(text):
            self._full = True
            return StorageFull(f"no space left for {self._directory.path}: make room on that disk")
        self._group.fail(StorageFailed(f"write failed: {text}"))
        return StorageFailed(f"write failed: {text}")

    def _try_again(self) -> None:
        """Raises what stands in the way of writing; opens the engine again after the disk was full.

        All that was applied is in the kernel's pages of the log, so the replay finds it; the batch that
        failed is a torn tail to it.
        """
        if self._group.failure is not None:
            raise StorageFailed(self._group.failure.detail)
        self._headroom_bytes = self._directory.headroom_bytes(self.reserve_bytes, _SPACE_STEP_BYTES)
        if self._group.busy:
            raise StorageFull("the disk was full: waiting for a sync to end")
        engine = self._engine
        assert isinstance(engine, Engine)
        applied = engine.last_sequence()
        self._use(ClosedEngine())
        for cursor in list(self._cursors):
            cursor.close(StorageFull("cut off when the engine was opened again: read once more"))
        engine.close()
        try:
            engine = self._open()
            lost = applied - engine.last_sequence()
            if lost > 0:
                engine.close()
                raise StorageFailed(f"{lost} changes are gone after the disk was full")
        except Exception as error:
            detail = f"the engine did not recover from a full disk: {error}"
            self._group.fail(StorageFailed(detail))
            raise StorageFailed(detail) from None
        self._use(engine)
        self._full = self._refusing = False


def _closed(waiting: SyncFuture | None, closing: asyncio.Future[None]) -> None:
    error = closing.exception()
    if waiting is not None:
        waiting.settle(error)
