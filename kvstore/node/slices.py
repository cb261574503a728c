"""Long work in slices, so that a turn of the event loop stays short whoever asks for how much.

One piece of work after the other, not all of them side by side: a slice of each in every turn would be one
long turn again, and all of them would end late instead of some of them early.
"""

from __future__ import annotations

import asyncio
from asyncio import sleep
from collections.abc import Callable

REST_S = 0.002
RECORDS_AT_ONCE = 8
"""Read, merged or written as JSON: at most 0.1 ms, the time of a small get. A request beside a scan waits
for it, several times: with 32 the p99 of gets and puts beside a flood of pages was 1.6 to 2.1 times that
without, with 8 it was 1.1 to 1.5. A node that does nothing else makes as many pages either way."""

PARTITIONS_AT_ONCE = 8  # opened for reading: the same

RESTS_AFTER_OTHERS = 8
"""Rests that are long once others were seen. Between two requests of theirs nothing is in flight, at 1,000
a second for two thirds of the time; work that used these gaps took 16 % of a node, and who came then stood
behind it: p99 of a get 2.1 ms beside it, 0.7 alone, and 0.8 with this."""


class Slices:
    """`async with slices:` around the work, `await slices.rest()` between two slices of it.

    `others`: whether there is other work on its way; may be replaced once there is somebody who knows. It
    then gets the larger part of the time, also threads that need the interpreter, as the one that syncs.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._rests = 0
        self.others: Callable[[], bool] = lambda: False

    async def __aenter__(self) -> None:
        await self._lock.acquire()

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()

    async def rest(self) -> None:
        """Others have their turn."""
        if self.others():
            self._rests = RESTS_AFTER_OTHERS
        if self._rests:
            self._rests -= 1
            await sleep(REST_S)
        else:
            await sleep(0)
