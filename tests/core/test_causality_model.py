"""Random histories of several copies of one key against a dumb model (see causality.py).

Lost, late and repeated messages, copies that forget, retries, stand-ins, deletes that are collected:
after every step each copy holds exactly the maximal writes it has learned of, and no context covers
more than its holder has seen. The mutants at the end show that the model would object.
"""

from __future__ import annotations

from random import Random
from typing import ClassVar

import pytest
from hypothesis import Phase, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from kvstore.core.sibling import EMPTY_STATE, KeyState, Version, merge, write
from kvstore.core.vector_clock import CausalContext, Dot
from tests.core.causality import Copy, Rules, Token, Violation, World
from tests.core.random_history import random_history, violation

COPIES = 3
homes = st.integers(0, COPIES - 1)


class CopiesOfOneKey(RuleBasedStateMachine):
    """Every rule moves the copies and the model in step; the model objects inside the step."""

    under_test: ClassVar[type[Rules]] = Rules

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.under_test(), COPIES)

    def _token(self, index: int) -> Token:
        return self.world.tokens[index % len(self.world.tokens)]

    @rule(copies=st.lists(homes, min_size=1, unique=True))
    def get(self, copies: list[int]) -> None:
        self.world.get(copies)

    @rule(at=homes, token=st.integers(0), tombstone=st.booleans())
    def put_with_a_token(self, at: int, token: int, tombstone: bool) -> None:
        self.world.put(at, self._token(token), tombstone=tombstone)

    @rule(at=homes)
    def put_blindly_over_what_is_there(self, at: int) -> None:
        self.world.put(at, None)

    @rule(at=homes)
    def put_blindly_beside_what_is_there(self, at: int) -> None:
        self.world.put(at, Token())

    @precondition(lambda self: self.world.puts)
    @rule(which=st.integers(0), at=homes)
    def retry_a_put(self, which: int, at: int) -> None:
        self.world.retry(self.world.puts[which % len(self.world.puts)], at)

    @rule(token=st.integers(0), home=homes)
    def put_at_a_stand_in(self, token: int, home: int) -> None:
        self.world.stand_in(self._token(token), home)

    @rule(source=homes, to=homes)
    def send(self, source: int, to: int) -> None:
        assume(source != to)
        self.world.send(source, to)

    @precondition(lambda self: self.world.messages)
    @rule(which=st.integers(0), again=st.booleans())
    def deliver(self, which: int, again: bool) -> None:
        self.world.deliver(which % len(self.world.messages), again=again)

    @precondition(lambda self: self.world.messages)
    @rule(which=st.integers(0))
    def lose(self, which: int) -> None:
        self.world.lose(which % len(self.world.messages))

    @rule(at=homes)
    def snapshot(self, at: int) -> None:
        self.world.snapshot(at)

    @rule(at=homes, which=st.integers(0))
    def roll_back(self, at: int, which: int) -> None:
        snapshots = self.world.copies[at].snapshots
        assume(snapshots)
        self.world.roll_back(at, which % len(snapshots))

    @rule(at=homes)
    def wipe(self, at: int) -> None:
        self.world.wipe(at)

    @rule(at=homes)
    def find_the_record_unreadable(self, at: int) -> None:
        self.world.unreadable(at)

    @rule(at=homes)
    def write_another_key(self, at: int) -> None:
        self.world.write_other_key(at)

    @rule()
    def collect_what_is_deleted_everywhere(self) -> None:
        self.world.collect()

    def teardown(self) -> None:
        self.world.settle(Random(0))


def test_every_copy_holds_exactly_the_maximal_writes_it_knows() -> None:
    run_state_machine_as_test(CopiesOfOneKey, settings=settings(stateful_step_count=30))


def test_random_histories_lose_nothing_and_bring_nothing_back() -> None:
    _run_histories(range(2_000))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_many_random_histories_lose_nothing_and_bring_nothing_back() -> None:
    _run_histories(range(2_000, 22_000))


def _run_histories(seeds: range) -> None:
    """A run in which nothing happened proves nothing: the last line counts what did."""
    siblings = collected = retried = 0
    for seed in seeds:
        try:
            world = random_history(Random(seed), Rules())
        except Violation as found:
            raise AssertionError(f"random_history(Random({seed}), Rules()): {found}") from found
        siblings += any(len(state.siblings) > 1 for state in world.states)
        collected += bool(world.collected)
        retried += len(set(world.operations)) < len(world.operations)
    assert min(siblings, collected, retried) > len(seeds) / 10, (siblings, collected, retried)


# --- mutants: each breaks one rule, and the model must object -------------------------------------------


class IdKeptAfterARollback(Rules):
    def rolled_back(self, copy: Copy, counter: int) -> None:
        copy.counter = counter


class IdKeptAfterAWipe(Rules):
    def wiped(self, copy: Copy) -> None:
        copy.counter = 0


class IdKeptWithAnUnreadableRecord(Rules):
    def unreadable(self, copy: Copy) -> None:
        pass


class StandInKeepsItsId(Rules):
    """The counter goes on, so no dot is used twice; the forgotten ones are covered all the same."""

    def __init__(self) -> None:
        super().__init__()
        self._guest = Copy(self.fresh_id())

    def stand_in(self) -> Copy:
        guest = Copy(self._guest.replica_id)
        guest.counter = self._guest.counter
        self._guest = guest
        return guest


class CounterPerKey(Rules):
    def dot(self, copy: Copy) -> Dot:
        return copy.replica_id, copy.held.state.context.highest(copy.replica_id) + 1


class ReplyWithTheWholeContext(Rules):
    def reply(self, token: CausalContext, dot: Dot, state: KeyState) -> CausalContext:
        return state.context


class ReplyWithOneMaximumPerReplica(Rules):
    def reply(self, token: CausalContext, dot: Dot, state: KeyState) -> CausalContext:
        return token.advance(dot)


class MergeUnitesSiblings(Rules):
    def merge(self, a: KeyState, b: KeyState) -> KeyState:
        return KeyState({**a.siblings, **b.siblings}, a.context.join(b.context))


class MergeTakesTheContextOfOneSide(Rules):
    def merge(self, a: KeyState, b: KeyState) -> KeyState:
        return merge(a, b)._replace(context=a.context)


class WriteSupersedesWhatLiesThere(Rules):
    """The context of the coordinator in place of the one of the client."""

    def write(self, state: KeyState, seen: CausalContext, version: Version, dot: Dot) -> KeyState:
        return write(state, state.context.join(seen), version, dot)


class WriteForgetsWhatTheClientSaw(Rules):
    def write(self, state: KeyState, seen: CausalContext, version: Version, dot: Dot) -> KeyState:
        return write(state, seen, version, dot)._replace(context=state.context.advance(dot))


class OwnDotsForgottenWithTheRecord(Rules):
    """A missing record taken for "nothing known"."""

    def receive(self, copy: Copy, incoming: KeyState) -> KeyState:
        return self.merge(copy.held.state, incoming)


class OwnDotsKnownOnlyWithoutARecord(Rules):
    """Not enough: a write of another copy makes a record again, and the late message comes after it."""

    def receive(self, copy: Copy, incoming: KeyState) -> KeyState:
        if copy.held.state == EMPTY_STATE:
            return super().receive(copy, incoming)
        return self.merge(copy.held.state, incoming)


MUTANTS: dict[type[Rules], str] = {
    IdKeptAfterARollback: "lost",
    IdKeptAfterAWipe: "lost",
    IdKeptWithAnUnreadableRecord: "lost",
    StandInKeepsItsId: "unsound",
    CounterPerKey: "lost",
    ReplyWithTheWholeContext: "unsound",
    ReplyWithOneMaximumPerReplica: "unsound",
    MergeUnitesSiblings: "resurrected",
    MergeTakesTheContextOfOneSide: "forgetful",
    WriteSupersedesWhatLiesThere: "lost",
    WriteForgetsWhatTheClientSaw: "forgetful",
    OwnDotsForgottenWithTheRecord: "resurrected",
    OwnDotsKnownOnlyWithoutARecord: "resurrected",
}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_the_model_objects_to_a_broken_rule(mutant: type[Rules]) -> None:
    """Within 1,000 histories, and for the reason that the rule is there for."""
    objections = (violation(seed, mutant()) for seed in range(1_000))
    assert any(found is not None and found.kind == MUTANTS[mutant] for found in objections)


def test_the_state_machine_objects_to_a_broken_rule() -> None:
    class Broken(CopiesOfOneKey):
        under_test = MergeUnitesSiblings

    with pytest.raises(Violation, match="resurrected"):
        run_state_machine_as_test(
            Broken, settings=settings(phases=[Phase.generate], print_blob=False, report_multiple_bugs=False)
        )
