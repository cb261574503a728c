"""Who is worked on, who waits, who is shed. The rules are in core/admission.py.

A refusal costs microseconds and tells the client to wait; a queue without a bound would keep every
request until nobody waits for it any more (metastable overload). Below half of the limit nothing is
looked at but one number, and neither then nor later has a request a task or a timer of its own: one
sweep serves the whole line while there is one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from kvstore.core.admission import ConcurrencyLimit, Priority, Waiting, WaitingLine, comes_too_late
from kvstore.core.limits import Limits
from kvstore.errors import Overloaded
from kvstore.httpapi.connection import Connection
from kvstore.httpapi.metrics import Metrics
from kvstore.httpapi.options import to_priority, to_timeout_ms
from kvstore.httpapi.routes import Call

_SWEEP_S = 0.005
_ANY = int(Priority.BACKGROUND)  # where this may enter, anybody may
_ADVICE = "nothing was done: wait as Retry-After says, or go to another node"

Place = asyncio.Future[None]
"""Done when its request may begin, or failed with why it may not."""


class Admission:
    """`metrics.in_flight` and `metrics.admin_in_flight` are the counts: one number, counted once.

    `elapsed_s` is the clock of all times here.
    """

    def __init__(self, limits: Limits, metrics: Metrics, elapsed_s: Callable[[], float]) -> None:
        self._limits, self._metrics, self._elapsed_s = limits, metrics, elapsed_s
        self.limit = ConcurrencyLimit(
            low=min(limits.in_flight_min, limits.in_flight_max),
            high=limits.in_flight_max,
            target_s=limits.latency_target_s,
        )
        self.line: WaitingLine[Place] = WaitingLine(
            length_max=limits.queue_max,
            patience_s=limits.queue_timeout_s,
            standing_patience_s=min(limits.queue_timeout_standing_s, limits.queue_timeout_s),
        )
        self.in_time_s = limits.loop_delay_max_s / 2  # for requests of every priority
        self._sweeper: asyncio.TimerHandle | None = None
        metrics.admission_limit = lambda: self.limit.value
        metrics.queue_lengths = self.line.lengths

    # --- data ---------------------------------------------------------------------------------------

    def enters_at_once(self) -> bool:
        """Takes a place if there is one for whatever priority. Every place taken needs its `leave`."""
        metrics = self._metrics
        if metrics.in_flight < self.limit.places[_ANY] and not self.line.length:
            metrics.in_flight += 1
            return True
        return False

    def refuse_if_late(self, call: Call, connection: Connection, late_s: float) -> None:
        """`late_s`: from its first bytes to its turn of the loop. Raises Overloaded, InvalidRequest."""
        if comes_too_late(late_s, to_priority(call.headers), self._limits.loop_delay_max_s):
            raise self._shed("late")
        if connection.transport is None:
            raise self._shed("gone")

    def refuse_if_full(self, call: Call) -> None:
        """Before a body is waited for. Raises Overloaded, InvalidRequest."""
        priority = to_priority(call.headers)
        if self._metrics.in_flight >= self.limit.places[priority] and self.line.is_full_for(priority):
            raise self._shed("queue_full")

    async def enter(self, call: Call, connection: Connection) -> None:
        """Takes a place, in turn; the time it took is added to `call.waited_s`.

        Raises Overloaded, InvalidRequest.
        """
        metrics, line = self._metrics, self.line
        priority = to_priority(call.headers)
        places = self.limit.places[priority]
        first = line.first()
        if metrics.in_flight < places and (first is None or first.priority > priority):
            metrics.in_flight += 1
            return
        if line.is_full_for(priority):  # said before anything is made for a place that it will not get
            raise self._shed("queue_full")
        joined_s = self._elapsed_s()
        timeout_s = to_timeout_ms(call.options, call.headers, self._limits) / 1000
        place: Place = asyncio.get_running_loop().create_future()
        waiting = Waiting(place, priority, joined_s, joined_s + timeout_s - call.waited_s)
        shed = line.join(waiting, joined_s)
        if shed is not None and not shed.item.done():
            shed.item.set_exception(self._shed("outranked"))
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)
        try:
            await place
        except asyncio.CancelledError:
            line.leave(waiting)
            if place.done() and not place.cancelled() and place.exception() is None:
                self.leave()  # the place was given in the same turn in which the client went away
            raise
        if connection.transport is None:
            self.leave()
            raise self._shed("gone")
        waited_s = self._elapsed_s() - joined_s
        call.waited_s += waited_s
        metrics.queue_waits += 1
        metrics.queue_waited_s += waited_s

    def take_more(self, wanted: int, call: Call) -> int:
        """How many more places a request got that has one already: at most `wanted`, those that are free.

        Raises InvalidRequest.
        """
        free = self.limit.places[to_priority(call.headers)] - self._metrics.in_flight
        taken = 0 if self.line.length else max(0, min(wanted, free))
        self._metrics.in_flight += taken
        return taken

    def ended(self, took_s: float, now_s: float) -> None:
        """How long the work of a request took that had a place."""
        self.limit.ended(took_s, self._metrics.in_flight + 1, now_s)

    def leave(self, places: int = 1) -> None:
        self._metrics.in_flight -= places
        if self.line.length:
            self._give_places()

    def _give_places(self) -> None:
        metrics, line, places = self._metrics, self.line, self.limit.places
        while (first := line.first()) is not None:
            if metrics.in_flight >= places[first.priority]:
                return
            line.leave(first)
            if not first.item.done():
                metrics.in_flight += 1
                first.item.set_result(None)

    def _sweep(self) -> None:
        """Sheds who has waited too long."""
        now_s = self._elapsed_s()
        for waiting in self.line.impatient(now_s):
            if not waiting.item.done():
                reason = "expired" if waiting.expires_s <= now_s else "queue_timeout"
                waiting.item.set_exception(self._shed(reason))
        self._give_places()  # the limit may have grown, and all may have left while the line held others up
        again = self.line.length > 0
        self._sweeper = asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep) if again else None

    def stop(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()

    # --- all else -----------------------------------------------------------------------------------

    def enter_admin(self) -> None:
        """Never behind data, and with a bound of its own. Raises Overloaded."""
        if self._metrics.admin_in_flight >= self._limits.admin_in_flight_max:
            raise self._shed("admin")
        self._metrics.admin_in_flight += 1

    def leave_admin(self) -> None:
        self._metrics.admin_in_flight -= 1

    def _shed(self, reason: str) -> Overloaded:
        metrics = self._metrics
        metrics.sheds[reason] += 1
        return Overloaded(_WORDS[reason].format(m=metrics, a=self), reason=reason, advice=_ADVICE)


_WORDS = {
    "queue_full": "{m.in_flight} requests are in flight and {a.line.length} wait: no more may",
    "queue_timeout": "waited too long for a place among {a.limit.value} in flight",
    "gone": "its client closed the connection before its turn came",
    "late": "this node has more to do than it can: the turn of this request came too late",
    "outranked": "its place in the queue went to a request of a higher priority",
    "expired": "its time was up before a place was free",
    "admin": "{m.admin_in_flight} requests to administration routes are in flight: no more may",
}
