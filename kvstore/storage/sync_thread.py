"""The one thread that waits for the disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread

Work = Callable[[], None]


class SyncThread:
    """Runs what it is given, one after the other. What it runs raises nothing.

    A ThreadPoolExecutor makes a future, a lock and a condition for each piece of work: 15 to 20 µs of the 180
    that a sync of eight records took. As with one, the thread ends with the object.
    """

    def __init__(self) -> None:
        self._work: SimpleQueue[Work | None] = SimpleQueue()
        Thread(target=_run, args=(self._work,), name="kvstore-sync", daemon=True).start()

    def __del__(self) -> None:
        self._work.put(None)

    def submit(self, work: Work) -> None:
        self._work.put(work)

    def finish(self, work: Work) -> asyncio.Future[None]:
        """The last piece of work: the thread ends with it. The future has the error that it raised."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def last() -> None:
            error: BaseException | None = None
            try:
                work()
            except BaseException as raised:
                error = raised
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(_settle, done, error)

        self._work.put(last)
        self._work.put(None)
        return done


def _run(queue: SimpleQueue[Work | None]) -> None:
    while (work := queue.get()) is not None:
        work()


def _settle(done: asyncio.Future[None], error: BaseException | None) -> None:
    if done.cancelled():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
