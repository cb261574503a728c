"""Records written straight into the directory of a node that is stopped.

    python -m benchmarks.growth_fill DIRECTORY FIRST LAST [--silent]

The same bytes, by the same engine with the same settings, as the node itself would have written for so many
puts of another writer, without their way through the cluster: over HTTP 9,000,000 keys took 50 minutes.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from pathlib import Path
from random import Random

from benchmarks.progress import Progress
from benchmarks.suite import VALUE_BYTES
from kvstore.core.encoding import encode_single
from kvstore.core.ring import full_key, partition_of
from kvstore.core.sibling import Version
from kvstore.core.vector_clock import EMPTY_CONTEXT
from kvstore.errors import StorageFull
from kvstore.httpapi.media import OCTETS
from kvstore.node.ports import Kind, Write
from kvstore.storage.rocksdb import RocksStorage

_BATCH = 500
_BEHIND_S = 0.05
_BEHIND_MAX = 2400  # two minutes in which the engine takes nothing


def records(first: int, last: int) -> list[Write]:
    """The same on every node: equal replicas."""
    chance, made, batch = Random(first), Counter[int](), list[Write]()
    for number in range(first, last):
        key = full_key("bench", b"user%012d" % number)
        partition = partition_of(key)
        made[partition] += 1
        # A writer per partition and call: no dot is made twice, and none is one of the node's own.
        dot = (1 + partition + 256 * first, made[partition])
        version = Version(chance.randbytes(VALUE_BYTES), content_type=OCTETS)
        batch.append((Kind.DATA, partition, key, encode_single(EMPTY_CONTEXT.advance(dot), dot, version, 1)))
    return batch


async def fill_stopped(directory: Path, first: int, last: int, progress: Progress | None = None) -> None:
    """Keys from `first` up to, and without, `last`. Raises what opening the directory raises, StorageFull."""
    storage = RocksStorage(directory)
    for start in range(first, last, _BATCH):
        batch = records(start, min(start + _BATCH, last))
        for tries in range(_BEHIND_MAX):
            try:
                storage.apply(batch)
                break
            except StorageFull:
                if tries == _BEHIND_MAX - 1:
                    raise
                await asyncio.sleep(_BEHIND_S)
        if progress is not None:
            progress(start + len(batch) - first)
    if progress is not None:
        progress.end()
    await storage.close()


if __name__ == "__main__":
    place, begin, end, *silent = sys.argv[1:]
    told = None if silent else Progress(int(end) - int(begin))
    asyncio.run(fill_stopped(Path(place), int(begin), int(end), told))
