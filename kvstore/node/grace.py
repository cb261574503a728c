"""Waiting until nothing that had begun before can still send what it has read.

As read-copy-update does it (McKenney 2001): whoever holds states between reading and sending them is inside
an *epoch*; a grace period begins a new epoch and lasts until the ones before are empty.
"""

from __future__ import annotations

import asyncio

_TURNS = 2  # of the loop: what has left one step enters the next one meanwhile


class Grace:
    """`enter` and `leave` are on the way of every request: a look-up and an addition."""

    __slots__ = ("_epoch", "_inside", "_loop", "_wake")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._epoch = 0
        self._inside: dict[int, int] = {}
        self._wake: asyncio.Future[None] | None = None

    def enter(self) -> int:
        """Before the first state is read. To be given to `leave` once the last one was sent and answered."""
        epoch = self._epoch
        self._inside[epoch] = self._inside.get(epoch, 0) + 1
        return epoch

    def leave(self, epoch: int) -> None:
        left = self._inside[epoch] - 1
        if left:
            self._inside[epoch] = left
            return
        del self._inside[epoch]
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def passed(self, timeout_s: float) -> bool:
        """True once all that was inside at the call has left; False if that takes too long.

        Twice, because a request that hands its states to a task of its own leaves before that one enters.
        """
        try:
            async with asyncio.timeout(timeout_s):
                for _ in range(2):
                    before, self._epoch = self._epoch, self._epoch + 1
                    while self._inside and min(self._inside) <= before:
                        if self._wake is None or self._wake.done():
                            self._wake = self._loop.create_future()
                        await asyncio.shield(self._wake)
                    for _ in range(_TURNS):
                        await asyncio.sleep(0)
        except TimeoutError:
            return False
        return True
