"""Who is worked on, who waits, who is shed. The rules are in core/admission.py.

A refusal costs microseconds and tells the client to wait; a queue without a bound would keep every
request until nobody waits for it any more (metastable overload). Below half of the limit nothing is
looked at but a few numbers, and neither then nor later has a request a task or a timer of its own: one
sweep serves the whole line while there is one.

A refusal must also come soon. What has a turn of the event loop later than `loop_turn_s` after it was read
joins the line instead of making that turn longer, and of the line so many begin in one turn as fit
(`TurnQuota`). So heads are read, and refusals written, every few milliseconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter
from typing import NamedTuple

from kvstore.core.admission import ConcurrencyLimit, TurnQuota, Waiting, WaitingLine
from kvstore.core.degradation import Degradation, Tier, is_refused
from kvstore.core.limits import Limits
from kvstore.errors import Overloaded
from kvstore.httpapi.connection import Connection
from kvstore.httpapi.metrics import Metrics
from kvstore.httpapi.options import PRIORITY, to_tier, to_timeout_ms
from kvstore.httpapi.routes import Call, Route

_SWEEP_S = 0.005
_BEAT_S = 0.05
_ANY = int(Tier.BACKGROUND)  # where this may enter, anybody may
_ADVICE = "nothing was done: wait as Retry-After says, or go to another node"


class Place(NamedTuple):
    """`given` is done when its request may begin, or failed with why it may not."""

    given: asyncio.Future[None]
    is_scan: bool


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
        self.turn_s = limits.loop_turn_s
        self._quota, self._turn_began_s, self._turn_ends = TurnQuota(limits.loop_turn_s), 0.0, False
        self.degradation = Degradation(window_s=limits.degradation_window_s, calm_s=limits.degradation_calm_s)
        self.level = self._scans = 0
        self._sweeper: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._due_s = self._loop.time() + _BEAT_S
        self._heart = self._loop.call_at(self._due_s, self._beat)
        metrics.admission_limit = lambda: self.limit.value
        metrics.queue_lengths = self.line.lengths
        metrics.degradation = lambda: (self.level, self.degradation.floor)

    def _beat(self) -> None:
        """How late it comes is how late everything comes: the lag of the loop."""
        now_s = self._loop.time()
        self._metrics.count_lag(now_s - self._due_s)
        self._due_s = now_s + _BEAT_S
        self._heart = self._loop.call_at(self._due_s, self._beat)
        self.level = self.degradation.tick(self._elapsed_s())

    def set_floor(self, level: int) -> None:
        """Holds at once."""
        self.degradation.floor = level
        self.level = self.degradation.level

    # --- data ---------------------------------------------------------------------------------------

    def enters_at_once(self, route: Route, call: Call) -> bool:
        """Takes a place if there is one for whatever tier. Every place taken needs its `leave`.

        Scans, and who has a priority, are never that simple.
        """
        metrics = self._metrics
        if (
            metrics.in_flight < self.limit.places[_ANY]
            and not self.line.length
            and not self.level
            and route.tier is not Tier.SCAN
            and PRIORITY not in call.headers
        ):
            metrics.in_flight += 1
            return True
        return False

    def refuse_early(self, route: Route, call: Call) -> None:
        """Before a body is waited for. Raises Overloaded, InvalidRequest."""
        tier = to_tier(route.tier, call)
        if is_refused(tier, self.level):
            raise self._shed("degraded")
        if self._metrics.in_flight >= self.limit.places[tier] and self.line.is_full_for(tier):
            raise self._shed_of("queue_full", tier)

    async def enter(self, route: Route, call: Call, connection: Connection, *, late: bool) -> None:
        """Takes a place, in turn; the time it took is added to `call.waited_s`.

        `late`: this turn of the loop is long enough as it is. Raises Overloaded, InvalidRequest.
        """
        metrics, line = self._metrics, self.line
        tier = to_tier(route.tier, call)
        if is_refused(tier, self.level):
            raise self._shed("degraded")
        first, is_scan = line.first(), route.tier is Tier.SCAN
        ahead = not late and not is_scan and tier < Tier.SCAN and (first is None or first.tier > tier)
        if ahead and metrics.in_flight < self.limit.places[tier]:
            metrics.in_flight += 1
            return
        if line.is_full_for(tier):  # said before anything is made for a place that it will not get
            raise self._shed_of("queue_full", tier)
        joined_s = self._elapsed_s()
        timeout_s = to_timeout_ms(call.options, call.headers, self._limits) / 1000
        place = Place(self._loop.create_future(), is_scan)
        waiting = Waiting(place, tier, joined_s, joined_s + timeout_s - call.waited_s)
        shed = line.join(waiting, joined_s)
        if shed is not None and not shed.item.given.done():
            shed.item.given.set_exception(self._shed_of("outranked", shed.tier))
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(_SWEEP_S, self._sweep)
        self._end_turn_soon()
        try:
            await place.given
        except asyncio.CancelledError:
            line.leave(waiting)
            given = place.given
            if given.done() and not given.cancelled() and given.exception() is None:
                self.leave(scan=is_scan)  # the place was given in the same turn in which the client went away
            raise
        if connection.transport is None:
            self.leave(scan=is_scan)
            raise self._shed("gone")
        self.degradation.served(tier)
        waited_s = self._elapsed_s() - joined_s
        call.waited_s += waited_s
        metrics.queue_waits += 1
        metrics.queue_waited_s += waited_s

    def take_more(self, wanted: int, call: Call) -> int:
        """How many more places a request got that has one already: at most `wanted`, those that are free.

        Raises InvalidRequest.
        """
        free = self.limit.places[to_tier(Tier.WRITE, call)] - self._metrics.in_flight
        taken = 0 if self.line.length else max(0, min(wanted, free))
        self._metrics.in_flight += taken
        return taken

    def ended(self, took_s: float, now_s: float) -> None:
        """How long the work of a request took that had a place."""
        self.limit.ended(took_s, self._metrics.in_flight + 1, now_s)

    def leave(self, places: int = 1, *, scan: bool = False) -> None:
        self._metrics.in_flight -= places
        self._scans -= scan
        if self.line.length:
            self._give_places()

    def _has_place(self, waiting: Waiting[Place]) -> bool:
        if waiting.item.is_scan and self._scans >= self._limits.scans_in_flight_max:
            return False
        return self._metrics.in_flight < self.limit.places[waiting.tier]

    def _give_places(self) -> None:
        """To as many as may begin in this turn of the loop."""
        metrics, line, quota = self._metrics, self.line, self._quota
        while quota.left and (first := line.first()) is not None:
            if not self._has_place(first):
                return
            line.leave(first)
            if not first.item.given.done():
                quota.left -= 1
                metrics.in_flight += 1
                self._scans += first.item.is_scan
                first.item.given.set_result(None)
        if line.length:
            self._end_turn_soon()

    def _end_turn_soon(self) -> None:
        if not self._turn_ends:
            self._turn_ends, self._turn_began_s = True, perf_counter()
            self._loop.call_soon(self._end_turn)

    def _end_turn(self) -> None:
        """Behind the work of those who got a place in the turn before."""
        self._turn_ends = False
        self._quota.turn_ended(perf_counter() - self._turn_began_s)
        self._give_places()

    def _sweep(self) -> None:
        """Sheds who has waited too long."""
        now_s = self._elapsed_s()
        for waiting in self.line.impatient(now_s):
            if not waiting.item.given.done():
                reason = "expired" if waiting.expires_s <= now_s else "queue_timeout"
                waiting.item.given.set_exception(self._shed_of(reason, waiting.tier))
        self._give_places()  # the limit may have grown, and all may have left while the line held others up
        again = self.line.length > 0
        self._sweeper = self._loop.call_later(_SWEEP_S, self._sweep) if again else None

    def stop(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._heart.cancel()

    # --- all else -----------------------------------------------------------------------------------

    def enter_admin(self) -> None:
        """Never behind data, and with a bound of its own. Raises Overloaded."""
        if self._metrics.admin_in_flight >= self._limits.admin_in_flight_max:
            raise self._shed("admin")
        self._metrics.admin_in_flight += 1

    def leave_admin(self) -> None:
        self._metrics.admin_in_flight -= 1

    def _shed_of(self, reason: str, tier: Tier) -> Overloaded:
        """Of one that was let in: `degradation` hears of it."""
        self.degradation.shed(tier)
        return self._shed(reason)

    def _shed(self, reason: str) -> Overloaded:
        metrics = self._metrics
        metrics.sheds[reason] += 1
        return Overloaded(_WORDS[reason].format(m=metrics, a=self), reason=reason, advice=_ADVICE)


_WORDS = {
    "queue_full": "{m.in_flight} requests are in flight and {a.line.length} wait: no more may",
    "queue_timeout": "waited too long for a place among {a.limit.value} in flight",
    "gone": "its client closed the connection before its turn came",
    "degraded": "this node has room for more important requests only: level {a.level} of degradation",
    "outranked": "its place in the queue went to a request of a higher tier",
    "expired": "its time was up before a place was free",
    "admin": "{m.admin_in_flight} requests to administration routes are in flight: no more may",
}
