"""Writes numbered batches until it is killed, and says which ones were synced.

    python -m tests.storage.crash_child DIRECTORY FIRST SEED

Each line on stdout is the number of the last batch that a completed sync covers.
"""

from __future__ import annotations

import asyncio
import os
import sys
from functools import cache
from pathlib import Path
from random import Random

from kvstore.errors import StorageFull
from kvstore.node.ports import Kind, Write
from kvstore.storage.rocksdb import RocksStorage

PARTITIONS = 4
WRITE_BUFFER_BYTES = 64 * 1024  # so small that flushes, new logs and compactions fall under the kills too


@cache
def batch_of(number: int) -> list[Write]:
    """Four records in three kinds; the value of the large one is random and follows from the number."""
    size = Random(number).choice((10, 200, 3000))
    return [
        (Kind.DATA, number % PARTITIONS, b"%08d" % number, Random(number).randbytes(size)),
        (Kind.DATA, (number + 1) % PARTITIONS, b"pair %08d" % number, b"%d" % number),
        (Kind.COPY, number % PARTITIONS, b"", b"%d" % number),
        (Kind.META, 0, b"last", b"%d" % number),
    ]


async def write_on(directory: Path, first: int, chance: Random) -> None:
    storage = RocksStorage(directory, write_buffer_bytes=WRITE_BUFFER_BYTES, reserve_bytes=0)
    number = first
    pending: asyncio.Future[None] | None = None
    while True:
        for _ in range(chance.randrange(1, 20)):
            while True:
                try:
                    storage.apply(batch_of(number))
                    break
                except StorageFull:  # buffers this small are easily all full; nothing was applied
                    await asyncio.sleep(0.001)
            number += 1
        synced = number - 1
        pending = storage.sync()
        pending.add_done_callback(lambda _, synced=synced: os.write(1, b"%d\n" % synced))  # type: ignore[misc]
        if chance.random() < 0.5:  # else the next batches are applied while this sync runs
            await pending
        else:
            await asyncio.sleep(0)


if __name__ == "__main__":
    asyncio.run(write_on(Path(sys.argv[1]), int(sys.argv[2]), Random(int(sys.argv[3]))))
