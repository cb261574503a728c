"""Admission: how much a node works on at once, and who waits for a place, how long, in which order. Pure.

In flight: additive increase, multiplicative decrease on the 90th percentile of what requests take
(Welsh, Culler, "Adaptive overload control for busy Internet servers", USITS 2003). The target is an
absolute time. Multiples of the latency without load, as TCP Vegas and its kin take them, would forbid
the waiting that buys grouped syncs and grouped frames.

Waiting: a line that is empty now and then has a burst, and whoever waits will be served; one that
stands only makes everybody late. So the patience shrinks once a line has stood for longer than the
long patience (CoDel as in Maurer, "Fail at scale", ACM Queue 2015). But clients that ask one after the
other make a line that stands and does not grow, and a patience in milliseconds takes them for an overload
where a request takes milliseconds: of 64 clients with values of 100 KiB it shed 2 %. As CoDel never drops
the last packet of a queue, the first few single operations of a line wait longer.
"""

from __future__ import annotations

from collections import deque
from itertools import chain
from typing import Generic, TypeVar

from kvstore.core.degradation import Tier

_T = TypeVar("_T")

SLOW_SHARE_MAX = 0.1
SAMPLES_MIN = 10
WINDOW_S = 0.2  # a step shows its effect only after what was in flight has been answered
DECREASE = 0.8
DECREASE_FAST = 0.5  # where most are slow
_AHEAD_MIN = 4  # in the line: fewer are no sign of anything
_SURE_SHARE = 0.75  # of its patience: who is expected to wait for so long is likely to be served in time
INCREASE_STEPS = 32  # windows from nothing to everything: 6.4 s


class ConcurrencyLimit:
    """`value` lies in [low, high]. Below `places[tier]` in flight one of that tier may enter.

    Scans and background work get half of the places, and a sixteenth is kept for what is critical.
    """

    __slots__ = ("_busiest", "_count", "_ends_s", "_slow", "high", "low", "places", "target_s", "value")

    def __init__(self, *, low: int, high: int, target_s: float) -> None:
        assert 1 <= low <= high
        self.low, self.high, self.target_s = low, high, target_s
        self._busiest = self._count = self._slow = 0
        self._ends_s = 0.0
        self._set(high)

    def _set(self, value: int) -> None:
        self.value = value
        most, half = value - value // 16, max(1, value // 2)
        self.places = (value, most, most, most, half, half)

    def ended(self, took_s: float, in_flight: int, now_s: float) -> None:
        """One is answered, or its client is gone. `in_flight`: it and those beside it.

        `took_s`: for one part of it, where it does several one after the other. A decrease is one of what
        was in flight: of a limit that nothing reached it would change nothing, window after window. Called
        for each request, so it is cheap: 0.2 µs.
        """
        self._count += 1
        if in_flight > self._busiest:
            self._busiest = in_flight
        if took_s > self.target_s:
            self._slow += 1
        if now_s >= self._ends_s and self._count >= SAMPLES_MIN:
            if self._slow > self._count * SLOW_SHARE_MAX:
                factor = DECREASE_FAST if self._slow * 2 > self._count else DECREASE
                self._set(max(self.low, int(min(self.value, self._busiest) * factor)))
            elif self.value < self.high:
                self._set(min(self.high, self.value + max(1, self.high // INCREASE_STEPS)))
            self._busiest = self._count = self._slow = 0
            self._ends_s = now_s + WINDOW_S


class TurnQuota:
    """How many who waited may begin in one turn of the event loop.

    A node is one loop on one core: work that never waits is not in flight beside other work, it comes after
    it, and whoever the loop has not even read yet waits unheard until its turn ends. So a turn, without what
    it spent on refusals, is kept below `turn_s`; or below what these took, up to a bound, so that refusing
    leaves half of the time to work. Halved when it took more, doubled when one with all of its quota took
    less than half.
    """

    __slots__ = ("left", "most", "turn_s")

    MOST_MAX = 256
    STRETCH_MAX = 4

    def __init__(self, turn_s: float) -> None:
        self.turn_s = turn_s
        self.most = self.left = 1

    def turn_ended(self, took_s: float, refused_s: float) -> None:
        """`refused_s`: what of it went into refusals."""
        room_s = min(max(self.turn_s, refused_s), self.STRETCH_MAX * self.turn_s)
        work_s = took_s - refused_s
        if work_s > room_s:
            self.most = max(1, self.most // 2)
        elif not self.left and work_s < room_s / 2:
            self.most = min(self.MOST_MAX, self.most * 2)
        self.left = self.most


class Waiting(Generic[_T]):
    """One request in the line. `expires_s`: when its client gives up. `single`: a get, put or delete."""

    __slots__ = ("expires_s", "item", "joined_s", "single", "tier")

    def __init__(
        self, item: _T, tier: Tier, joined_s: float, expires_s: float, *, single: bool = False
    ) -> None:
        self.item, self.tier, self.joined_s, self.expires_s = item, tier, joined_s, expires_s
        self.single = single


class WaitingLine(Generic[_T]):
    """The higher tier first, and within one who came first. At most `length_max` wait.

    Single operations behind fewer than `few_max` wait for `few_patience_s`.
    """

    def __init__(
        self,
        *,
        length_max: int,
        patience_s: float,
        standing_patience_s: float,
        few_max: int = 0,
        few_patience_s: float = 0.0,
    ) -> None:
        self.length_max = length_max
        self.patience_s, self.standing_patience_s = patience_s, standing_patience_s
        self.few_max, self.few_patience_s = few_max, few_patience_s
        self.length = 0
        self._lines: tuple[deque[Waiting[_T]], ...] = tuple(deque() for _ in Tier)
        self._standing_since_s = 0.0

    def lengths(self) -> tuple[int, ...]:
        """By tier."""
        return tuple(map(len, self._lines))

    def is_full_for(self, tier: Tier) -> bool:
        """Whether one of this tier would be shed at once."""
        return self.length >= self.length_max and not any(self._lines[tier + 1 :])

    def join(self, newcomer: Waiting[_T], now_s: float) -> Waiting[_T] | None:
        """Who has to go for it: the youngest of the lowest tier, if need be the newcomer itself."""
        if not self.length:
            self._standing_since_s = now_s
        shed = None
        if self.length >= self.length_max:
            lowest = next((line for line in reversed(self._lines) if line), None)
            if lowest is None or lowest[-1].tier <= newcomer.tier:
                return newcomer
            shed = lowest.pop()
            self.length -= 1
        self._lines[newcomer.tier].append(newcomer)
        self.length += 1
        return shed

    def stands(self, now_s: float) -> bool:
        """Nobody has been without a line for the long patience."""
        return self.length > 0 and now_s - self._standing_since_s > self.patience_s

    def is_hopeless(self, tier: Tier, now_s: float, leave_per_s: float, *, single: bool = False) -> bool:
        """Whether one that joins a standing line would be taken out of it by `impatient`: told at once.

        `leave_per_s`: how many got a place lately.
        """
        if not self.stands(now_s):
            return False
        ahead = sum(map(len, self._lines[: tier + 1]))
        if single and ahead < self.few_max:
            if now_s - self._standing_since_s <= self.few_patience_s:
                return False  # at what rate they leave is known by then; a pause tells none
            if ahead < leave_per_s * self.few_patience_s * _SURE_SHARE:
                return False
        return ahead > max(_AHEAD_MIN, leave_per_s * self.standing_patience_s)

    def first(self) -> Waiting[_T] | None:
        """Whose turn it is; it stays in the line until it has left."""
        return next((line[0] for line in self._lines if line), None)

    def leave(self, waiting: Waiting[_T]) -> None:
        """It got its place, or its client is gone. No matter if it was shed already."""
        line = self._lines[waiting.tier]
        if line and line[0] is waiting:
            line.popleft()
        elif waiting in line:
            line.remove(waiting)
        else:
            return
        self.length -= 1

    def impatient(self, now_s: float) -> list[Waiting[_T]]:
        """Takes out who has waited too long, and whose client has given up."""
        patience_s = self.standing_patience_s if self.stands(now_s) else self.patience_s
        oldest_s, oldest_few_s = now_s - patience_s, now_s - max(patience_s, self.few_patience_s)
        gone: list[Waiting[_T]] = []
        ahead = 0
        for waiting in chain.from_iterable(self._lines):
            since_s = oldest_few_s if waiting.single and ahead < self.few_max else oldest_s
            if waiting.joined_s <= since_s or waiting.expires_s <= now_s:
                gone.append(waiting)
            else:
                ahead += 1
        for waiting in gone:
            self.leave(waiting)
        return gone
