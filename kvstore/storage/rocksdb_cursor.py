"""Ordered reading of the engine: cursors, scans and snapshots.

Two properties of the binding shape this file. Its ready-made iterators end silently on an error, as if
there were no more records; so the status is asked for at every end. And an iterator made from its
`Snapshot` object sees what was written after the snapshot; but every iterator is itself a view of the
moment of its creation and can be sought again, so a snapshot is one held iterator per kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rocksdict import DbClosedError, Rdict, RdictIter, ReadOptions

from kvstore.errors import CorruptRecord, StorageError, StorageFailed
from kvstore.node.ports import Kind
from kvstore.storage.record import PARTITION_BYTES, partition_end, stored_key, unseal

CLOSED = "the storage is closed"

_FIRST_CHUNK_RECORDS = 4  # many scans look for one record only
_CHUNK_RECORDS = 64
_CHUNK_BYTES = 256 * 1024


class Cursor:
    """One iterator of the engine, which keeps the engine open until it is closed or dropped.

    Nothing outside holds the iterator across a pause: a storage that closes can take it away, and the
    next chunk raises instead of ending as if the partition did.
    """

    __slots__ = ("__weakref__", "_bounds", "_gone", "_iterator")

    def __init__(self, family: Rdict, partition: int | None = None) -> None:
        """Of the whole family, or of one partition, which saves stepping over deleted records behind it."""
        # The engine keeps a pointer into the bytes of the bound, so the options live as long as the iterator.
        self._bounds = ReadOptions()
        end = None if partition is None else partition_end(partition)
        if end is not None:
            self._bounds.set_iterate_upper_bound(end)
        self._iterator: RdictIter | None = family.iter(self._bounds)
        self._gone: StorageError = StorageFailed(CLOSED)

    def close(self, gone: StorageError | None = None) -> None:
        """`gone`: what later use raises."""
        self._gone = gone or self._gone
        self._iterator = None

    def get(self, stored: bytes) -> bytes | None:
        iterator = self._open()
        iterator.seek(stored)
        if not iterator.valid():
            _check(iterator)
            return None
        return iterator.value() if iterator.key() == stored else None

    def chunk(self, start: bytes, prefix: bytes, records_max: int) -> tuple[list[tuple[bytes, bytes]], bool]:
        """(stored key, sealed value) from `start` on, and whether there may be more with this prefix."""
        iterator = self._open()
        valid, key, value, step = iterator.valid, iterator.key, iterator.value, iterator.next
        found: list[tuple[bytes, bytes]] = []
        room = _CHUNK_BYTES
        iterator.seek(start)
        while valid():
            stored = key()
            if not stored.startswith(prefix):
                return found, False
            sealed = value()
            found.append((stored, sealed))
            room -= len(sealed)
            if room <= 0 or len(found) == records_max:
                return found, True
            step()
        _check(iterator)
        return found, False

    def _open(self) -> RdictIter:
        if self._iterator is None:
            raise type(self._gone)(self._gone.detail)
        return self._iterator


def records(cursor: Cursor, partition: int, start: bytes) -> Iterator[tuple[bytes, bytes | None]]:
    """(key, value) of one partition; the value is None where the checksum does not hold."""
    prefix, seek, more = stored_key(partition, b""), stored_key(partition, start), True
    records_max = _FIRST_CHUNK_RECORDS
    while more:
        chunk, more = cursor.chunk(seek, prefix, records_max)
        records_max = _CHUNK_RECORDS
        for stored, sealed in chunk:
            try:
                value: bytes | None = unseal(stored, sealed)
            except CorruptRecord:
                value = None
            yield stored[PARTITION_BYTES:], value
        if more:
            seek = chunk[-1][0] + b"\0"


class RocksSnapshot:
    """All kinds as they were at one moment. Pins the files of that moment: close it soon."""

    def __init__(self, cursors: Sequence[Cursor]) -> None:
        """`cursors`: one per kind, made without a write in between."""
        self._cursors = cursors

    def get(self, kind: Kind, partition: int, key: bytes) -> bytes | None:
        stored = stored_key(partition, key)
        sealed = self._cursors[kind].get(stored)
        return None if sealed is None else unseal(stored, sealed)

    def scan(self, kind: Kind, partition: int, start: bytes = b"") -> Iterator[tuple[bytes, bytes | None]]:
        return records(self._cursors[kind], partition, start)

    def close(self) -> None:
        for cursor in self._cursors:
            cursor.close()


def _check(iterator: RdictIter) -> None:
    """An iterator that is not valid is at its end, or has failed."""
    try:
        iterator.status()
    except Exception as error:
        raise read_error(error) from None


def read_error(error: Exception) -> Exception:
    """What a read raises for an error of the engine, which reports all as plain `Exception` with a text."""
    if isinstance(error, DbClosedError):
        return StorageFailed(CLOSED)
    if type(error) is not Exception:
        return error
    text = str(error)
    return CorruptRecord(text) if text.startswith("Corruption") else StorageFailed(f"read failed: {text}")
