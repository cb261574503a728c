"""Whether it is worth asking this node now. Closed, open, half-open as a table; time is an argument.

Source: Nygard, "Release It!", circuit breaker. The breaker only decides whom to ask first: when every
node's is open, a request still goes to one of them.
"""

from __future__ import annotations

from enum import Enum


class State(Enum):
    CLOSED = "closed"  # ask
    OPEN = "open"  # do not ask before the wait is over
    HALF_OPEN = "half-open"  # one request is out as a trial


class Event(Enum):
    SUCCESS = "success"
    FAILURE = "failure"
    ASKED = "asked"


TABLE: dict[tuple[State, Event], State] = {
    (State.CLOSED, Event.SUCCESS): State.CLOSED,
    (State.CLOSED, Event.FAILURE): State.CLOSED,  # OPEN once `failures_max` came in a row
    (State.CLOSED, Event.ASKED): State.CLOSED,
    (State.OPEN, Event.SUCCESS): State.CLOSED,  # a late answer is an answer
    (State.OPEN, Event.FAILURE): State.OPEN,
    (State.OPEN, Event.ASKED): State.HALF_OPEN,
    (State.HALF_OPEN, Event.SUCCESS): State.CLOSED,
    (State.HALF_OPEN, Event.FAILURE): State.OPEN,
    (State.HALF_OPEN, Event.ASKED): State.HALF_OPEN,  # the trial before never reported back
}


class CircuitBreaker:
    """One node's. The wait doubles with every failed trial up to `wait_max_s`.

    `is_proven`: it has answered before. One that has not starts open, so that an address which leads
    nowhere is found out by one request at a time and not by all of them.
    """

    __slots__ = (
        "failures",
        "failures_max",
        "is_proven",
        "retry_at_s",
        "state",
        "wait_first_s",
        "wait_max_s",
        "wait_s",
    )

    def __init__(
        self,
        *,
        is_proven: bool = True,
        failures_max: int = 3,
        wait_first_s: float = 0.25,
        wait_max_s: float = 5.0,
    ) -> None:
        self.failures_max, self.wait_first_s, self.wait_max_s = failures_max, wait_first_s, wait_max_s
        self.is_proven = is_proven
        self.state = State.CLOSED if is_proven else State.OPEN
        self.failures = 0
        self.wait_s = wait_first_s
        self.retry_at_s = 0.0

    def allows(self, now_s: float) -> bool:
        """Whether a request may go there now. Changes nothing; say `asked` when it does."""
        # A trial that never reports back must not shut the node out for ever: it expires like a wait.
        return self.state is State.CLOSED or now_s >= self.retry_at_s

    def asked(self, now_s: float) -> None:
        """A request goes out. Unless closed, nobody else is let through before `wait_s`."""
        if self.state is not State.CLOSED:
            self.state = TABLE[self.state, Event.ASKED]
            self.retry_at_s = now_s + self.wait_s

    def succeeded(self) -> None:
        self.failures = 0
        if self.state is not State.CLOSED:
            self.state = TABLE[self.state, Event.SUCCESS]
            self.wait_s = self.wait_first_s
            self.is_proven = True

    def failed(self, now_s: float, *, hard: bool = False) -> None:
        """`hard`: nothing listens there, so waiting for more failures would only tell the same."""
        self.failures += 1
        before = self.state
        if before is State.HALF_OPEN:
            self.wait_s = min(self.wait_s * 2, self.wait_max_s)
        self.state = TABLE[before, Event.FAILURE]
        if self.state is State.CLOSED and (hard or self.failures >= self.failures_max):
            self.state = State.OPEN
        if self.state is State.OPEN and before is not State.OPEN:
            self.retry_at_s = now_s + self.wait_s
