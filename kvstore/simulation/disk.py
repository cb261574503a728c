"""A machine's disk as one process uses it: storage in memory that tells what happens to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from kvstore.errors import CorruptRecord, StorageError, StorageFailed, StorageFull
from kvstore.node.ports import Kind, Write
from kvstore.storage.memory import MemoryDisk, MemoryStorage


class DiskCounts:
    """How often the faults of a disk have mattered, over all processes of its machine."""

    def __init__(self) -> None:
        self.full = self.failed_reads = self.corrupt = 0


class SimulatedStorage(MemoryStorage):
    """`applied(batch)` is called after every batch that was applied."""

    def __init__(
        self,
        disk: MemoryDisk,
        counts: DiskCounts,
        *,
        sync_delay_s: float,
        applied: Callable[[Sequence[Write]], None],
    ) -> None:
        super().__init__(disk, sync_delay_s=sync_delay_s)
        self._counts, self._told = counts, applied

    def get(self, kind: Kind, partition: int, key: bytes) -> bytes | None:
        try:
            return super().get(kind, partition, key)
        except StorageError as error:
            self._note(error)
            raise

    def scan(self, kind: Kind, partition: int, start: bytes = b"") -> Iterator[tuple[bytes, bytes | None]]:
        try:
            return super().scan(kind, partition, start)
        except StorageError as error:
            self._note(error)
            raise

    def apply(self, batch: Sequence[Write]) -> None:
        try:
            super().apply(batch)
        except StorageFull:
            self._counts.full += 1
            raise
        self._told(batch)

    def _note(self, error: StorageError) -> None:
        if isinstance(error, CorruptRecord):
            self._counts.corrupt += 1
        elif isinstance(error, StorageFailed) and self.disk.fail_reads:
            self._counts.failed_reads += 1
