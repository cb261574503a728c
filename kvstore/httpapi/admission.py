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
from kvstore.httpapi.routes import Call, Pool, Route

_SWEEP_S = 0.005
_RATE_WEIGHT = 0.2  # of a sweep in what is known of the rate at which places are given
_RATE_WEIGHT_LONG = 0.02  # for those who wait longer: a disk that pauses for 50 ms says nothing to them
_BEAT_S = 0.05
_REFUSAL_S_MAX = 0.0005  # who took longer was refused after a wait
_KEYS = Pool.KEYS  # as core.quorum.MET: a look-up on an Enum is not for the way of every request
_READ_S_PER_BYTE = 6e-10  # of a body, from the socket to one piece: 60 µs for 100 KiB
_ANY = int(Tier.BACKGROUND)  # where this may enter, anybody may
_ADVICE = "nothing was done: wait as Retry-After says, or go to another node"


class Place(NamedTuple):
    """`given` is done when its request may begin, or failed with why it may not."""

    given: asyncio.Future[None]
    pool: Pool


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
            few_max=limits.queue_few_max,
            few_patience_s=limits.queue_few_timeout_s,
        )
        self.turn_s = limits.loop_turn_s
        self._quota, self._turn_ends = TurnQuota(limits.loop_turn_s), False
        self._turn_began_s = self._refused_s = 0.0
        self._given, self._given_per_s, self._given_long_per_s, self._swept_s = 0, 0.0, 0.0, 0.0
        self.degradation = Degradation(window_s=limits.degradation_window_s, calm_s=limits.degradation_calm_s)
        self.level = 0
        self._in_pool = dict.fromkeys(Pool, 0)  # KEYS are counted in `metrics.in_flight`, with all others
        self._pool_max = {Pool.SCANS: limits.scans_in_flight_max, Pool.BATCHES: limits.batches_in_flight_max}
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

    def has_others_than_scans(self) -> bool:
        return self._metrics.in_flight > self._in_pool[Pool.SCANS]

    def set_floor(self, level: int) -> None:
        """Holds at once."""
        self.degradation.floor = level
        self.level = self.degradation.level

    # --- data ---------------------------------------------------------------------------------------

    def enters_at_once(self, route: Route, call: Call) -> bool:
        """Takes a place if there is one for whatever tier. Every place taken needs its `leave`.

        Large requests, and who has a priority, are never that simple.
        """
        metrics = self._metrics
        if (
            metrics.in_flight < self.limit.places[_ANY]
            and not self.line.length
            and not self.level
            and route.pool is _KEYS
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
        first = line.first()
        ahead = not late and tier < Tier.SCAN and (first is None or first.tier > tier)
        if ahead and self._has_place(tier, route.pool):
            metrics.in_flight += 1
            self._in_pool[route.pool] += 1
            return
        joined_s = self._elapsed_s()
        # Said before anything is made for a place that it will not get.
        single = route.pool is Pool.KEYS and tier < Tier.SCAN
        if line.is_full_for(tier) or self._is_hopeless(tier, joined_s, single=single):
            raise self._shed_of("queue_full", tier)
        timeout_s = to_timeout_ms(call.options, call.headers, self._limits) / 1000
        place = Place(self._loop.create_future(), route.pool)
        waiting = Waiting(place, tier, joined_s, joined_s + timeout_s - call.waited_s, single=single)
        shed = line.join(waiting, joined_s)
        if shed is not None and not shed.item.given.done():
            shed.item.given.set_exception(self._shed_of("outranked", shed.tier))
        if self._sweeper is None:
            self._given, self._given_long_per_s, self._swept_s = 0, 0.0, joined_s
            self._sweeper = self._loop.call_later(_SWEEP_S, self._sweep)
        self._end_turn_soon()
        try:
            await place.given
        except asyncio.CancelledError:
            line.leave(waiting)
            given = place.given
            if given.done() and not given.cancelled() and given.exception() is None:
                self.leave(
                    pool=route.pool
                )  # the place was given in the same turn in which the client went away
            raise
        finally:
            # A shed is in the future, its traceback leads here: a cycle for the garbage collector, per shed.
            del place, waiting
        if connection.transport is None:
            self.leave(pool=route.pool)
            raise self._shed("gone")
        self.degradation.served(tier)
        waited_s = self._elapsed_s() - joined_s
        call.waited_s += waited_s
        metrics.queue_waits += 1
        metrics.queue_waited_s += waited_s

    def _is_hopeless(self, tier: Tier, now_s: float, *, single: bool) -> bool:
        per_s = self._given_per_s
        if single:
            per_s = max(per_s, self._given_long_per_s)
        return self.line.is_hopeless(tier, now_s, per_s, single=single)

    def take_more(self, wanted: int, call: Call) -> int:
        """How many more places a request got that has one already: at most `wanted`, those that are free.

        Raises InvalidRequest.
        """
        free = self.limit.places[to_tier(Tier.WRITE, call)] - self._metrics.in_flight
        taken = max(0, min(wanted, free))  # who waits meanwhile waits for its turn, or for its pool
        self._metrics.in_flight += taken
        return taken

    def ended(self, took_s: float, now_s: float) -> None:
        """How long the work of a request took that had a place."""
        self.limit.ended(took_s, self._metrics.in_flight + 1, now_s)

    def refused(self, took_s: float, body_bytes: int) -> None:
        """One was, after so long; that reading its head and writing cost as much again is a guess."""
        self._refused_s += 2 * min(took_s, _REFUSAL_S_MAX) + body_bytes * _READ_S_PER_BYTE

    def leave(self, places: int = 1, *, pool: Pool = Pool.KEYS) -> None:
        self._metrics.in_flight -= places
        if pool is not _KEYS:
            self._in_pool[pool] -= 1
        if self.line.length:
            self._give_places()

    def _has_place(self, tier: Tier, pool: Pool) -> bool:
        if pool is not Pool.KEYS and self._in_pool[pool] >= self._pool_max[pool]:
            return False
        return self._metrics.in_flight < self.limit.places[tier]

    def _give_places(self) -> None:
        """To as many as may begin in this turn of the loop."""
        metrics, line, quota = self._metrics, self.line, self._quota
        while quota.left and (first := line.first()) is not None:
            if not self._has_place(first.tier, first.item.pool):
                return
            line.leave(first)
            if not first.item.given.done():
                quota.left -= 1
                metrics.in_flight += 1
                self._given += 1
                self._in_pool[first.item.pool] += 1
                first.item.given.set_result(None)
        if line.length:
            self._end_turn_soon()

    def _end_turn_soon(self) -> None:
        if not self._turn_ends:
            self._turn_ends = True
            self._turn_began_s, self._refused_s = perf_counter(), 0.0
            self._loop.call_soon(self._end_turn)

    def _end_turn(self) -> None:
        """Behind the work of those who got a place in the turn before, and of all others that it woke."""
        self._turn_ends = False
        took_s = perf_counter() - self._turn_began_s
        self._quota.turn_ended(took_s, min(took_s, self._refused_s))
        self._give_places()

    def _sweep(self) -> None:
        """Sheds who has waited too long."""
        now_s = self._elapsed_s()
        if now_s > self._swept_s:
            lately_per_s = self._given / (now_s - self._swept_s)
            self._given_per_s += _RATE_WEIGHT * (lately_per_s - self._given_per_s)
            self._given_long_per_s += _RATE_WEIGHT_LONG * (lately_per_s - self._given_long_per_s)
        self._given, self._swept_s = 0, now_s
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
    "queue_full": "{m.in_flight} requests are in flight and {a.line.length} wait: another would be late",
    "queue_timeout": "waited too long for a place among {a.limit.value} in flight",
    "gone": "its client closed the connection before its turn came",
    "degraded": "this node has room for more important requests only: level {a.level} of degradation",
    "outranked": "its place in the queue went to a request of a higher tier",
    "expired": "its time was up before a place was free",
    "admin": "{m.admin_in_flight} requests to administration routes are in flight: no more may",
}
