"""Whether it is worth asking this peer now. Closed, open, half-open as a table; time is an argument.

Source: Nygard, "Release It!", circuit breaker. A dead or hung peer then costs one deadline, not one
per request. The breaker only chooses whom to ask first: it never counts as a vote.

One breaker is on failures, one on latency: a peer that answers all it is asked, but far later than the
others, and whose gossip is fine (Huang et al., "Gray Failure", HotOS 2017).
"""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum

from kvstore.core.hedging import median_low


class State(Enum):
    CLOSED = "closed"  # ask
    OPEN = "open"  # do not ask before the wait is over
    HALF_OPEN = "half-open"  # one probe is out


class Event(Enum):
    SUCCESS = "success"
    FAILURE = "failure"
    ASKED = "asked"  # somebody was let through although the breaker was open


_TABLE: dict[tuple[State, Event], State] = {
    (State.CLOSED, Event.SUCCESS): State.CLOSED,
    (State.CLOSED, Event.FAILURE): State.CLOSED,  # OPEN once `failures_max` came in a row
    (State.CLOSED, Event.ASKED): State.CLOSED,
    (State.OPEN, Event.SUCCESS): State.CLOSED,  # a late answer is an answer
    (State.OPEN, Event.FAILURE): State.OPEN,
    (State.OPEN, Event.ASKED): State.HALF_OPEN,
    (State.HALF_OPEN, Event.SUCCESS): State.CLOSED,
    (State.HALF_OPEN, Event.FAILURE): State.OPEN,
    (State.HALF_OPEN, Event.ASKED): State.HALF_OPEN,  # the probe before was lost, or nobody heeded it
}


class CircuitBreaker:
    """One peer's. `wait_s` doubles with every failed probe up to `wait_max_s`.

    A failure that proves nothing was listening (`hard`) opens at once: waiting for more of them
    would only tell the same.
    """

    __slots__ = ("failures", "failures_max", "retry_at_s", "state", "wait_first_s", "wait_max_s", "wait_s")

    def __init__(self, *, failures_max: int = 3, wait_first_s: float = 0.25, wait_max_s: float = 5.0) -> None:
        self.failures_max, self.wait_first_s, self.wait_max_s = failures_max, wait_first_s, wait_max_s
        self.state = State.CLOSED
        self.failures = 0
        self.wait_s = wait_first_s
        self.retry_at_s = 0.0

    def allows(self, now_s: float) -> bool:
        """Whether a call may go out now. Changes nothing; say `asked` when it does go out."""
        if self.state is State.CLOSED:
            return True
        # A probe that never reported back must not shut the peer out for ever: it expires like a wait.
        return now_s >= self.retry_at_s

    def asked(self, now_s: float) -> None:
        """A call goes out. While open this is the one probe: nobody else is let through before `wait_s`."""
        self.state = _TABLE[self.state, Event.ASKED]
        if self.state is State.HALF_OPEN:
            self.retry_at_s = now_s + self.wait_s

    def succeeded(self) -> None:
        self.failures = 0
        if self.state is not State.CLOSED:
            self.state = _TABLE[self.state, Event.SUCCESS]
            self.wait_s = self.wait_first_s

    def failed(self, now_s: float, *, hard: bool = False) -> None:
        self.failures += 1
        if self.state is State.HALF_OPEN:
            self.wait_s = min(self.wait_s * 2, self.wait_max_s)
        self.state = _TABLE[self.state, Event.FAILURE]
        if self.state is State.CLOSED and (hard or self.failures >= self.failures_max):
            self.state = State.OPEN
        if self.state is State.OPEN:
            self.retry_at_s = now_s + self.wait_s


SLOW_MIN_S = 0.02
"""Nobody who answers sooner is slow, however quick the others are."""

_BY_LATENCY: dict[tuple[State, Event], State] = {
    (State.CLOSED, Event.SUCCESS): State.CLOSED,
    (State.CLOSED, Event.FAILURE): State.CLOSED,  # OPEN once `slow_max` windows in a row were slow
    (State.CLOSED, Event.ASKED): State.CLOSED,
    (State.OPEN, Event.SUCCESS): State.HALF_OPEN,  # it was asked although it is open
    (State.OPEN, Event.FAILURE): State.OPEN,
    (State.OPEN, Event.ASKED): State.HALF_OPEN,
    (State.HALF_OPEN, Event.SUCCESS): State.HALF_OPEN,  # CLOSED once `quick_max` in a row were quick
    (State.HALF_OPEN, Event.FAILURE): State.OPEN,
    (State.HALF_OPEN, Event.ASKED): State.HALF_OPEN,
}


def judged(own_s: float, others_s: Collection[float], *, factor: float) -> Event | None:
    """FAILURE: the peer is slow beside the others. SUCCESS: it is not. None: in between; changes nothing.

    `own_s`, `others_s`: median latencies. Where all are slow nobody is, and one alone is never: then
    asking somebody else would not help.
    """
    if not others_s:
        return Event.SUCCESS
    slow_s = max(SLOW_MIN_S, factor * median_low(others_s))
    if own_s > slow_s:
        return Event.FAILURE
    return Event.SUCCESS if own_s <= slow_s / 2 else None


class LatencyBreaker:
    """One peer's, told of its answers window by window. `wait_s` doubles with every slow probe.

    While it is open the peer is asked last. `may_open`: that depends on the others, see `may_be_last`.
    """

    __slots__ = (
        "_quick",
        "_slow",
        "quick_max",
        "retry_at_s",
        "slow_max",
        "state",
        "wait_first_s",
        "wait_max_s",
        "wait_s",
    )

    def __init__(
        self, *, slow_max: int = 3, quick_max: int = 3, wait_first_s: float = 0.5, wait_max_s: float = 5.0
    ) -> None:
        self.slow_max, self.quick_max = slow_max, quick_max
        self.wait_first_s, self.wait_max_s = wait_first_s, wait_max_s
        self.state = State.CLOSED
        self._slow = self._quick = 0
        self.wait_s = wait_first_s
        self.retry_at_s = 0.0

    def allows(self, now_s: float) -> bool:
        """Whether the peer may be asked in its turn; otherwise last. Say `asked` when it is."""
        return self.state is State.CLOSED or now_s >= self.retry_at_s

    def asked(self, now_s: float) -> None:
        """While open this is the one probe before `wait_s`."""
        self.state = _BY_LATENCY[self.state, Event.ASKED]
        if self.state is State.HALF_OPEN:
            self.retry_at_s = now_s + self.wait_s

    def quick(self, now_s: float) -> None:
        self._slow = 0
        if self.state is State.CLOSED:
            return
        self._quick += 1
        self.state = _BY_LATENCY[self.state, Event.SUCCESS]
        self.retry_at_s = now_s  # the next probe need not wait
        if self._quick >= self.quick_max:
            self.state, self.wait_s = State.CLOSED, self.wait_first_s

    def silent(self, now_s: float) -> None:
        """It stands still; while closed this opens at once."""
        if self.state is State.CLOSED:
            self.state, self._slow, self._quick = State.OPEN, self.slow_max, 0
            self.retry_at_s = now_s + self.wait_s

    def slow(self, now_s: float, *, may_open: bool = True) -> None:
        self._quick = 0
        self._slow = min(self._slow + 1, self.slow_max)
        if self.state is State.HALF_OPEN:
            self.wait_s = min(self.wait_s * 2, self.wait_max_s)
        before, self.state = self.state, _BY_LATENCY[self.state, Event.FAILURE]
        if self.state is State.CLOSED and self._slow >= self.slow_max and may_open:
            self.state = State.OPEN
        if self.state is State.OPEN and before is not State.OPEN:
            self.retry_at_s = now_s + self.wait_s


def may_be_last(last: int, peers: int) -> bool:
    """Whether one more of so many peers may be asked last, besides those that are: half of them at most."""
    return last + 1 <= peers // 2
