"""The asyncio tasks of a node: its loops, and what a request leaves to be done after its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from kvstore.errors import KVStoreError, Overloaded, StorageFailed

BACKGROUND_TASKS_MAX = 1024

Result = TypeVar("Result")


class Background:
    """`failed` is told when the disk can no longer be trusted; `report` takes an event and its fields.

    At most BACKGROUND_TASKS_MAX tasks, loops included. All of them end with the node.
    """

    def __init__(self, failed: Callable[[KVStoreError], None], report: Callable[..., None]) -> None:
        self._failed, self._report = failed, report
        self._loop = asyncio.get_running_loop()
        self.tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Background work of a request. Over the bound it is dropped: anti-entropy repeats it."""
        if len(self.tasks) >= BACKGROUND_TASKS_MAX:
            work.close()
            return
        self._keep(self._loop.create_task(work))

    def answer(self, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        """For an answer that may take long. Raises Overloaded."""
        if len(self.tasks) >= BACKGROUND_TASKS_MAX:
            work.close()
            raise Overloaded("too much work in the background")
        task = self._loop.create_task(work)
        self._keep(task)
        return task

    def start_loop(self, name: str, loop: Coroutine[Any, Any, None]) -> None:
        """Whatever ends it but the stop of the node is a bug: nobody takes its place."""
        self._keep(self._loop.create_task(loop, name=name), expected=StorageFailed)

    async def stop(self) -> None:
        tasks = sorted(self.tasks, key=lambda task: task.get_name())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _keep(self, task: asyncio.Task[Any], expected: type[KVStoreError] = KVStoreError) -> None:
        self.tasks.add(task)
        task.add_done_callback(partial(self._ended, expected))

    def _ended(self, expected: type[KVStoreError], task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, StorageFailed):
            self._failed(error)
        elif error is not None and not isinstance(error, expected):
            self._report("background task failed", task=task.get_name(), reason=repr(error))
