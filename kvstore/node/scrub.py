"""Reading every record at rest now and then, so that rot is found while other copies can heal it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from kvstore.core.limits import Limits
from kvstore.core.ring import PARTITIONS
from kvstore.errors import CorruptRecord, StorageFull
from kvstore.node.pace import BYTES_AT_ONCE, RECORDS_AT_ONCE, Pace
from kvstore.node.ports import Kind, Random, Storage

_SLICE_RECORDS = 16 * RECORDS_AT_ONCE
_PER_RECORD_BYTES = 64  # beside its value; also what makes many small records count


class Scrub:
    """`note(partition, key)` takes note of a record that is unreadable.

    `passes` counts passes over all partitions, `records` and `read_bytes` what they read,
    `unscannable` the times a partition could not be read to its end.
    """

    def __init__(
        self,
        *,
        storage: Storage,
        random: Random,
        pace: Pace,
        limits: Limits,
        note: Callable[[int, bytes], None],
        report: Callable[..., None],
    ) -> None:
        self._storage, self._random, self._pace, self._limits = storage, random, pace, limits
        self._note, self._report = note, report
        self._loop = asyncio.get_running_loop()
        self.passes = self.records = self.read_bytes = self.unscannable = 0

    async def run(self) -> None:
        """One pass after the other until cancelled. Raises StorageFailed.

        Each begins at a partition picked at random: one that is always restarted before it ends still
        reaches every partition.
        """
        interval_s = self._limits.scrub_interval_s
        await asyncio.sleep(interval_s * self._random.uniform("scrub-first", 0.05, 0.5))
        while True:
            started_s = self._loop.time()
            first = int(self._random.uniform("scrub-partition", 0, PARTITIONS)) % PARTITIONS
            for step in range(PARTITIONS):
                await self.check((first + step) % PARTITIONS)
            self.passes += 1
            await asyncio.sleep(max(0.0, started_s + interval_s - self._loop.time()))

    async def check(self, partition: int) -> None:
        """Read one partition, in slices: a scan that is held for hours would pin what it reads."""
        after: bytes | None = b""
        while after is not None:
            try:
                after = await self._slice(partition, after)
            except (CorruptRecord, StorageFull) as error:
                self.unscannable += 1
                self._report("partition cannot be scanned", partition=partition, reason=error.detail)
                return

    async def _slice(self, partition: int, start: bytes) -> bytes | None:
        """Where to go on; None at the end."""
        size_bytes = 0
        for count, (key, value) in enumerate(self._storage.scan(Kind.DATA, partition, start), 1):
            if value is None:
                self._note(partition, key)
            self.records += 1
            size_bytes += len(key) + len(value or b"") + _PER_RECORD_BYTES
            if size_bytes >= BYTES_AT_ONCE or count % RECORDS_AT_ONCE == 0:
                self.read_bytes += size_bytes
                await self._pace.scrubbed(size_bytes)
                size_bytes = 0
            if count == _SLICE_RECORDS:
                return key + b"\0"
        self.read_bytes += size_bytes
        await self._pace.scrubbed(size_bytes)
        return None
