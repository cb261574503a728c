"""Whether it is worth asking this peer now. Closed, open, half-open as a table; time is an argument.

Source: Nygard, "Release It!", circuit breaker. A dead or hung peer then costs one deadline, not one
per request. The breaker only chooses whom to ask first: it never counts as a vote.
"""

from __future__ import annotations

from enum import Enum


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
