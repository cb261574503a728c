"""When an operation is sent again: the table, the waits, the budget, and the error in the end."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.client.retry import (
    MAY_RETRY,
    Effect,
    Failed,
    Fate,
    GiveUp,
    Policy,
    Retry,
    RetryBudget,
    attempt_timeout_s,
    backoff_s,
    decide,
    verdict,
)
from kvstore.errors import ConnectError, KVStoreError, Overloaded, RequestTimeout

POLICY = Policy()
effects, fates = st.sampled_from(Effect), st.sampled_from(Fate)
chances = st.floats(0, 1, exclude_max=True)
seconds = st.floats(0, 60)


def decided(
    effect: Effect, failed: Failed, *, failures: int = 1, other_node: bool = True, left_s: float = 2.0,
    chance: float = 0.5, budget: RetryBudget | None = None,
) -> Retry | GiveUp:  # fmt: skip
    return decide(
        effect, failed, failures=failures, other_node=other_node, left_s=left_s, chance=chance,
        policy=POLICY, budget=budget or RetryBudget(),
    )  # fmt: skip


def test_the_table_has_every_pair() -> None:
    assert MAY_RETRY.keys() == set(product(Effect, Fate))


def test_what_may_have_been_applied_is_not_sent_again_under_a_condition() -> None:
    assert isinstance(decided(Effect.CONDITIONAL, Failed(RequestTimeout(), Fate.UNKNOWN)), GiveUp)
    assert isinstance(decided(Effect.WRITE, Failed(RequestTimeout(), Fate.UNKNOWN)), Retry)


@given(effects, fates, seconds, st.integers(1, 8), st.booleans(), st.floats(-1, 60), chances)
def test_a_retry_fits_before_the_deadline_and_after_the_pause_asked_for(
    effect: Effect, fate: Fate, pause_s: float, failures: int, other_node: bool, left_s: float, chance: float
) -> None:
    failed = Failed(Overloaded(), fate, pause_s)
    made = decided(effect, failed, failures=failures, other_node=other_node, left_s=left_s, chance=chance)
    if isinstance(made, Retry):
        assert MAY_RETRY[effect, fate]
        assert failures < POLICY.attempts_max
        assert 0 <= made.after_s < left_s
        assert other_node or made.after_s >= pause_s


def test_only_what_was_not_sent_goes_to_another_node_at_once() -> None:
    assert decided(Effect.CONDITIONAL, Failed(ConnectError(), Fate.NOT_SENT)) == Retry(0.0)
    for failed, other in (
        (Failed(ConnectError(), Fate.NOT_SENT), False),
        (Failed(Overloaded(), Fate.REFUSED), True),
    ):
        made = decided(Effect.READ, failed, other_node=other)
        assert isinstance(made, Retry)
        assert made.after_s > 0


@given(st.integers(1, 10_000), chances)
def test_backoff_lies_between_zero_and_its_cap(failures: int, chance: float) -> None:
    wait_s = backoff_s(failures, chance, POLICY)
    ceiling = POLICY.backoff_first_s * 2.0 ** min(failures - 1, 60)
    assert 0 <= wait_s <= min(POLICY.backoff_max_s, ceiling)


def test_backoff_doubles_up_to_its_cap() -> None:
    assert [backoff_s(n, 1.0, POLICY) for n in range(1, 8)] == [0.025, 0.05, 0.1, 0.2, 0.4, 0.5, 0.5]


@given(st.lists(st.booleans(), max_size=600))
def test_the_budget_adds_a_tenth_and_a_burst(operations: list[bool]) -> None:
    """True: an operation begins; False: somebody wants to retry."""
    budget = RetryBudget(ratio=0.1, burst=20)
    begun = retried = 0
    for begins in operations:
        if begins:
            budget.deposit()
            begun += 1
        elif budget.take():
            retried += 1
        assert retried <= 20 + begun * 0.1 + 1e-6
        assert 0 <= budget.tokens <= 20


def test_the_budget_is_spent_and_earned() -> None:
    budget = RetryBudget(ratio=0.25, burst=2)
    assert [budget.take() for _ in range(3)] == [True, True, False]
    for _ in range(4):
        budget.deposit()
    assert [budget.take(), budget.take()] == [True, False]


def test_what_was_not_sent_takes_nothing_of_the_budget() -> None:
    budget = RetryBudget(burst=0)
    assert isinstance(decided(Effect.READ, Failed(ConnectError(), Fate.NOT_SENT), budget=budget), Retry)
    assert isinstance(decided(Effect.READ, Failed(Overloaded(), Fate.REFUSED), budget=budget), GiveUp)


@given(effects, st.floats(0.001, 60))
def test_an_attempt_leaves_time_for_another(effect: Effect, left_s: float) -> None:
    timeout_s = attempt_timeout_s(effect, left_s, POLICY)
    assert 0 < timeout_s <= left_s
    if effect is Effect.CONDITIONAL:
        assert timeout_s == left_s
    elif left_s >= 2 * POLICY.attempt_s_min:
        assert timeout_s == left_s / 2


outcomes = st.sampled_from(["failed", "unknown"])


@given(st.lists(outcomes, min_size=1, max_size=6))
def test_the_error_in_the_end_does_not_deny_what_may_be_applied(outcomes: list[str]) -> None:
    failures = [Failed(KVStoreError(str(i), outcome=o), Fate.REFUSED) for i, o in enumerate(outcomes)]
    error = verdict(failures)
    assert error.outcome == ("unknown" if "unknown" in outcomes else "failed")
    if outcomes[-1] == error.outcome:
        assert error is failures[-1].error
    else:
        assert error.__cause__ is failures[-1].error


def test_what_a_node_answered_says_more_than_that_another_is_down() -> None:
    refused, down = Failed(Overloaded("full"), Fate.REFUSED), Failed(ConnectError("down"), Fate.NOT_SENT)
    assert verdict([down, refused, down]) is refused.error
    assert verdict([down, down]) is down.error


def test_policy_is_a_value() -> None:
    with pytest.raises(AttributeError):
        POLICY.attempts_max = 7  # type: ignore[misc]
