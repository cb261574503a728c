"""Long work in slices, so that a turn of the event loop stays short whoever asks for how much.

One piece of work after the other, not all of them side by side: a slice of each in every turn would be one
long turn again, and all of them would end late instead of some of them early.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

REST_S = 0.002
RECORDS_AT_ONCE = 8
"""Read, merged or written as JSON: at most 0.1 ms, the time of a small get. A request beside a scan waits
for it, several times: with 32 the p99 of gets and puts beside a flood of pages was 1.6 to 2.1 times that
without, with 8 it was 1.1 to 1.5. A node that does nothing else makes as many pages either way."""

PARTITIONS_AT_ONCE = 8  # opened for reading: the same


class Slices:
    """`async with slices:` around the work, `await slices.rest()` between two slices of it.

    `others`: whether there is other work on its way; may be replaced once there is somebody who knows. It
    then gets the larger part of the time, also threads that need the interpreter, as the one that syncs.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self.others: Callable[[], bool] = lambda: False

    async def __aenter__(self) -> None:
        await self._lock.acquire()

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()

    async def rest(self) -> None:
        """Others have their turn."""
        await asyncio.sleep(REST_S if self.others() else 0)
