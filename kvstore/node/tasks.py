"""Work that somebody started and may ask after: what it is, how far it is, how it ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

from kvstore.errors import KVStoreError, Overloaded, StorageFailed

RUNNING_MAX = 4
KEPT_MAX = 100


class Task:
    """`done` of `total` steps. `state`: running, done, or failed (then `error` says why)."""

    def __init__(self, task_id: str, kind: str, total: int) -> None:
        self._loop = asyncio.get_running_loop()
        self.task_id, self.kind, self.total, self.started_s = task_id, kind, total, self._loop.time()
        self.done = 0
        self.state = "running"
        self.error: KVStoreError | None = None
        self.result: dict[str, Any] = {}
        self.took_s = 0.0
        self._ended: asyncio.Future[None] = self._loop.create_future()

    def end(self, state: str) -> None:
        self.state, self.took_s = state, self._loop.time() - self.started_s
        if not self._ended.done():
            self._ended.set_result(None)

    async def ended(self, within_s: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await asyncio.shield(self._ended)
        return self.state != "running"

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        took_s = self._loop.time() - self.started_s if self.state == "running" else self.took_s
        shown: dict[str, Any] = {
            "id": self.task_id,
            "kind": self.kind,
            "state": self.state,
            "done": self.done,
            "total": self.total,
            "took_s": round(took_s, 3),
        }
        if self.error is not None:
            shown["error"] = self.error.detail or type(self.error).__name__
        return shown | self.result


Work = Callable[[Task], Awaitable[dict[str, Any]]]
"""Counts `done` as it goes, and returns what the task then tells beside its state."""


class Tasks:
    """Those that run, and the last ones that ended. `start` gets the coroutine that runs one."""

    def __init__(self, start: Callable[[str, Coroutine[Any, Any, None]], None]) -> None:
        self._start = start
        self._tasks: dict[str, Task] = {}
        self._count = 0

    def begin(self, kind: str, total: int, work: Work) -> Task:
        """Raises Overloaded while too many run."""
        if sum(task.state == "running" for task in self._tasks.values()) >= RUNNING_MAX:
            raise Overloaded(f"{RUNNING_MAX} tasks run on this node", advice="GET /v1/tasks tells which")
        self._count += 1
        task = Task(f"{kind}-{self._count}", kind, total)
        self._tasks[task.task_id] = task
        for old in list(self._tasks.values())[:-KEPT_MAX]:
            if old.state != "running":
                del self._tasks[old.task_id]
        self._start(task.task_id, self._run(task, work))
        return task

    def shown(self) -> list[dict[str, Any]]:
        """The newest first, ready for JSON."""
        return [task.as_dict() for task in reversed(self._tasks.values())]

    async def _run(self, task: Task, work: Work) -> None:
        try:
            task.result = await work(task)
        except KVStoreError as error:
            task.error = error
            task.end("failed")
            if isinstance(error, StorageFailed):
                raise
        except BaseException:
            task.error = KVStoreError("it was ended")
            task.end("failed")
            raise
        else:
            task.end("done")
