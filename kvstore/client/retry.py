"""Whether to send an operation again, when, and what may be said of it in the end. Pure.

Two questions decide: what the operation would do if it were applied twice (`Effect`), and what is known
about the attempt that failed (`Fate`). The table has every pair.

A retry also needs a place in the budget: a cluster that fails because it is overloaded must not be
sent twice the load for it (the retry storm of "Metastable Failures in Distributed Systems", HotOS
2021). Waits are capped exponential with full jitter (Brooker, "Exponential Backoff and Jitter", 2015).
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from kvstore.errors import KVStoreError


class Effect(Enum):
    """What sending the operation twice would do."""

    READ = "read"  # nothing
    WRITE = "write"  # nothing more: its operation id makes both the same write
    CONDITIONAL = "conditional"  # the second would fail at its own condition, and deny that the first worked


class Fate(Enum):
    """What is known about one attempt that did not succeed."""

    NOT_SENT = "not sent"  # no connection
    REFUSED = "refused"  # answered: applied nowhere, and another time or node may do it
    UNKNOWN = "unknown"  # may be applied: no answer, or one that says so
    FINAL = "final"  # answered: the same request will fail again


MAY_RETRY: dict[tuple[Effect, Fate], bool] = {
    (Effect.READ, Fate.NOT_SENT): True,
    (Effect.READ, Fate.REFUSED): True,
    (Effect.READ, Fate.UNKNOWN): True,
    (Effect.READ, Fate.FINAL): False,
    (Effect.WRITE, Fate.NOT_SENT): True,
    (Effect.WRITE, Fate.REFUSED): True,
    (Effect.WRITE, Fate.UNKNOWN): True,
    (Effect.WRITE, Fate.FINAL): False,
    (Effect.CONDITIONAL, Fate.NOT_SENT): True,
    (Effect.CONDITIONAL, Fate.REFUSED): True,
    (Effect.CONDITIONAL, Fate.UNKNOWN): False,
    (Effect.CONDITIONAL, Fate.FINAL): False,
}


class Failed(NamedTuple):
    """One attempt that did not succeed. `retry_after_s`: what the node asked for, 0 for nothing."""

    error: KVStoreError
    fate: Fate
    retry_after_s: float = 0.0


class Policy(NamedTuple):
    """How hard to try. All waits are upper ends of a draw from zero."""

    attempts_max: int = 6
    backoff_first_s: float = 0.025
    backoff_max_s: float = 0.5
    attempt_s_min: float = 0.25
    """No attempt gets less time, unless less is left."""


class Retry(NamedTuple):
    after_s: float


class GiveUp(NamedTuple):
    reason: str


class RetryBudget:
    """Retries that this client may add to the load: a tenth of its operations, and a burst.

    The burst covers what one client has in flight when a node dies. Retries of what was never sent
    take nothing: no node had any work with it.
    """

    __slots__ = ("burst", "ratio", "tokens")

    def __init__(self, *, ratio: float = 0.1, burst: float = 100.0) -> None:
        self.ratio, self.burst = ratio, burst
        self.tokens = burst

    def deposit(self) -> None:
        """One operation begins."""
        tokens = self.tokens + self.ratio
        self.tokens = tokens if tokens < self.burst else self.burst

    def take(self) -> bool:
        if self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True


def backoff_s(failures: int, chance: float, policy: Policy) -> float:
    """The wait after so many failures (1 for the first). `chance`: a draw from [0, 1)."""
    ceiling = policy.backoff_first_s * (1 << min(failures - 1, 30))
    return min(policy.backoff_max_s, ceiling) * chance


def decide(
    effect: Effect,
    failed: Failed,
    *,
    failures: int,
    other_node: bool,
    left_s: float,
    chance: float,
    policy: Policy,
    budget: RetryBudget,
) -> Retry | GiveUp:
    """After failure number `failures` of an operation that has `left_s` until its deadline.

    `other_node`: the next attempt would go to a node that this operation has not asked yet. Then what
    the last one asked us to wait does not count; and if nothing was sent, nothing is waited for.
    """
    if not MAY_RETRY[effect, failed.fate]:
        return GiveUp(
            "sending it again cannot help" if failed.fate is Fate.FINAL else "it may have been applied"
        )
    if failures >= policy.attempts_max:
        return GiveUp(f"{failures} attempts failed")
    free = failed.fate is Fate.NOT_SENT
    after_s = 0.0
    if not (free and other_node):
        after_s = backoff_s(failures, chance, policy)
    if not other_node:
        after_s = max(after_s, failed.retry_after_s)
    if after_s >= left_s:
        return GiveUp("the deadline comes first")
    if not free and not budget.take():
        return GiveUp("the retry budget is spent")
    return Retry(after_s)


def attempt_timeout_s(effect: Effect, left_s: float, policy: Policy) -> float:
    """How long to wait for one answer: half of what is left, so that another node can still be asked.

    What may not be sent again gets all of it.
    """
    if effect is Effect.CONDITIONAL:
        return left_s
    return min(left_s, max(left_s / 2, policy.attempt_s_min))


def verdict(failures: list[Failed]) -> KVStoreError:
    """What to raise for the whole operation: the last error, unless an earlier one says more.

    An attempt that may have been applied stays so whatever happens to the later ones: then its error
    is raised, because the last one's would claim that nothing was applied. The last one is its cause.
    And what a node answered says more than that another one cannot be reached.
    """
    last = next((f for f in reversed(failures) if f.fate is not Fate.NOT_SENT), failures[-1]).error
    if last.outcome == "unknown":
        return last
    for failed in failures[:-1]:
        if failed.error.outcome == "unknown":
            failed.error.__cause__ = last
            return failed.error
    return last
