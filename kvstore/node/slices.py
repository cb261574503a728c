"""Long work in slices, so that a turn of the event loop stays short whoever asks for how much.

One piece of work after the other, not all of them side by side: a slice of each in every turn would be one
long turn again, and all of them would end late instead of some of them early.
"""

from __future__ import annotations

import asyncio

RECORDS_AT_ONCE = 64  # read, merged or written as JSON: about half a millisecond
PARTITIONS_AT_ONCE = 32  # opened for reading: the same


class Slices:
    """`async with slices:` around the work, `await slices.rest()` between two slices of it."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def __aenter__(self) -> None:
        await self._lock.acquire()

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()

    async def rest(self) -> None:
        """Others have their turn."""
        await asyncio.sleep(0)
