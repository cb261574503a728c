"""The world's clock: asyncio as shipped, first in first out, minus the waiting.

A run is one `VirtualTimeLoop`. Where a real loop would sleep until its next timer, this one moves its
clock on. Everything that runs belongs to an *owner*: a process of the simulated world, or the world
itself. A process can be stalled, as SIGSTOP does it, and ended with all its tasks.
"""

from __future__ import annotations

import asyncio
import heapq
import selectors
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any, cast

from kvstore.errors import KVStoreError

STEPS_MAX = 20_000_000
"""Turns of the loop in one run; an honest run of 120 s takes about 100,000."""

_RESOLUTION_S = 1e-9


class Deadlock(KVStoreError):
    """Every task waits and no timer is set: nothing can ever happen again."""


class TooManySteps(KVStoreError):
    """The run turns its loop without end."""


class Owner:
    """One process: its tasks, and whether it is stalled. `context` is what all its work runs in."""

    __slots__ = ("context", "ended", "name", "stalled", "tasks")

    def __init__(self, name: str) -> None:
        self.name = name
        self.tasks: dict[asyncio.Task[Any], None] = {}  # in order of their making, unlike a set
        self.stalled: list[asyncio.Handle] | None = None
        self.ended = False
        self.context: Context = copy_context()
        self.context.run(_owner.set, self)

    def run(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """As this process: tasks and timers that `call` makes are its own."""
        return self.context.copy().run(call, *arguments)

    def task(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        loop = asyncio.get_running_loop()
        return cast("asyncio.Task[Any]", self.run(loop.create_task, work))


_owner: ContextVar[Owner | None] = ContextVar("owner", default=None)


class _Timer(asyncio.TimerHandle):
    """Of two that are due at one moment the one that was made first goes first.

    asyncio leaves that to the shape of its heap, which depends on timers that were cancelled long ago, and
    these on the release of CPython.
    """

    __slots__ = ("number",)
    number: int

    def __lt__(self, other: asyncio.TimerHandle) -> bool:
        mine, theirs = self.when(), other.when()
        return mine < theirs or (mine == theirs and self.number < cast(_Timer, other).number)


class _JumpingSelector(selectors.SelectSelector):
    now_s = 0.0
    steps = 0
    steps_max = STEPS_MAX

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise Deadlock("deadlock: every task waits and no timer is set")
        self.steps += 1
        if self.steps > self.steps_max:
            raise TooManySteps(f"more than {self.steps_max} turns of the loop at {self.now_s:.3f} s")
        if timeout > 0:
            self.now_s += timeout
        return []


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """`steps_max` bounds the turns of one run. Raises Deadlock, TooManySteps out of `run_until_complete`.

    No thread may run under it: whatever a thread does takes no virtual time, or for ever.
    """

    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]

    def __init__(self, *, steps_max: int = STEPS_MAX) -> None:
        self._virtual = _JumpingSelector()
        self._virtual.steps_max = steps_max
        super().__init__(self._virtual)
        self._clock_resolution = _RESOLUTION_S  # the machine's own has no place here
        self._named = self._timed = 0
        self.set_task_factory(cast(Any, self._make_task))
        self.set_exception_handler(self._note)
        self.errors: list[str] = []
        """What nobody caught: the run cannot have passed."""

    def time(self) -> float:
        return self._virtual.now_s

    @property
    def steps(self) -> int:
        return self._virtual.steps

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        self._timed += 1
        timer = _Timer(when, callback, args, self, context)
        timer.number = self._timed
        heapq.heappush(self._scheduled, timer)
        _mark(timer, scheduled=True)
        return timer

    def _make_task(
        self, _loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **keywords: Any
    ) -> asyncio.Task[Any]:
        self._named += 1
        keywords["name"] = keywords.get("name") or f"task-{self._named:09d}"  # asyncio counts across runs
        task: asyncio.Task[Any] = asyncio.Task(work, loop=self, **keywords)
        context = keywords.get("context")
        owner = _owner.get() if context is None else context.get(_owner)
        if owner is not None:
            owner.tasks[task] = None
            task.add_done_callback(owner.tasks.pop)
            if owner.ended:
                task.cancel()
        return task

    def _note(self, _loop: asyncio.AbstractEventLoop, what: dict[str, Any]) -> None:
        error = what.get("exception")
        if not isinstance(error, KVStoreError):
            self.errors.append(f"{what.get('message')}: {error!r}")

    # --- stalling and ending a process --------------------------------------------------------------

    def stall(self, owner: Owner) -> None:
        """SIGSTOP: nothing of this process runs until `resume`. What becomes due meanwhile is late.

        Whoever would bring it something (a message, the request of a client) must hold that back.
        """
        if owner.stalled is not None or owner.ended:
            return
        mine: list[asyncio.Handle] = []
        for place, handle in enumerate(self._ready):
            if _belongs(handle, owner):
                mine.append(handle)
                # The loop has counted what is due in this turn: every place must stay taken.
                self._ready[place] = asyncio.Handle(_nothing, (), self)
        timers = [handle for handle in self._scheduled if _belongs(handle, owner)]
        for timer in timers:
            _mark(timer, scheduled=False)
        if timers:
            self._scheduled[:] = [handle for handle in self._scheduled if not _belongs(handle, owner)]
            heapq.heapify(self._scheduled)
        owner.stalled = [*mine, *sorted(timers)]

    def resume(self, owner: Owner) -> None:
        """SIGCONT: timers that fell due while it was stalled fire now, in their order."""
        stalled, owner.stalled = owner.stalled, None
        for handle in stalled or ():
            if handle.cancelled():
                continue
            if isinstance(handle, asyncio.TimerHandle):
                _mark(handle, scheduled=True)
                heapq.heappush(self._scheduled, handle)
            else:
                self._ready.append(handle)

    def end(self, owner: Owner) -> None:
        """kill -9: its tasks are cancelled in the order of their making, and it makes no new ones.

        A coroutine cannot vanish: handlers of the cancellation do run. They find every port shut.
        """
        self.resume(owner)
        owner.ended = True
        for task in list(owner.tasks):
            task.cancel()


def _nothing() -> None:
    """In place of what is set aside."""


def _mark(timer: asyncio.TimerHandle, *, scheduled: bool) -> None:
    """The loop counts cancelled timers of its heap; one that is set aside is not in it."""
    cast(Any, timer)._scheduled = scheduled


def _belongs(handle: asyncio.Handle, owner: Owner) -> bool:
    context: Context | None = getattr(handle, "_context", None)
    return context is not None and context.get(_owner) is owner
