"""Tombstones that go too early, or take more with them than they may."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kvstore.core import tombstone
from kvstore.core.encoding import decode_causal, decode_state, digest
from kvstore.core.membership import NodeId
from kvstore.core.message import Done, Reply, Request
from kvstore.core.tombstone import Answer, Verdict
from kvstore.core.upkeep_message import Flush
from kvstore.node import tombstone_collector
from kvstore.node.exchange import Exchange
from kvstore.node.replica import Replica
from kvstore.node.tombstone_answers import Item, TombstoneAnswers
from kvstore.node.tombstone_collector import TombstoneCollector
from tests.simulation.mutants import Patch, mutant

Answers = Mapping[NodeId, Answer | None]


@mutant()
def tombstones_are_collected_by_age(patch: Patch) -> None:
    """B14, as `gc_grace` does: two pauses are long enough, whoever is away."""

    async def by_age(self: TombstoneCollector, items: Sequence[Item]) -> dict[Item, list[NodeId]]:
        return {item: list(self._view.homes(item[0], self._trees.n_of(item[1]))) for item in items}

    patch.setattr(TombstoneCollector, "_prove", by_age)


def collection_ignores_hints(patch: Patch) -> None:
    """B13: the homes agree, so nobody asks what stand-ins keep, or waits for those that are away.

    None of the mutants that are hunted by seeds: `tests/simulation/deletes.py` is the run that shows it.
    """
    judge, prove, call = tombstone.judge, TombstoneCollector._prove, Exchange.call

    def homes_only(answers: Answers, homes: Sequence[NodeId]) -> tuple[Verdict, Any]:
        blind = {n: Answer.HELD if a in (Answer.HINTED, Answer.MARKED) else a for n, a in answers.items()}
        return judge({n: a for n, a in blind.items() if n in homes}, homes)

    async def from_homes(self: TombstoneCollector, items: Sequence[Item]) -> dict[Item, list[NodeId]]:
        reach, self._reach = self._reach, lambda node: True  # type: ignore[assignment]
        try:
            return await prove(self, items)
        finally:
            self._reach = reach

    async def unflushed(self: Exchange, peer: NodeId, request: Request, *deadline: float) -> Reply:
        return Done() if isinstance(request, Flush) else await call(self, peer, request, *deadline)

    patch.setattr(Exchange, "call", unflushed)
    patch.setattr(tombstone_collector, "judge", homes_only)
    patch.setattr(TombstoneCollector, "_prove", from_homes)


@mutant()
def tombstone_is_dropped_whatever_is_there_by_then(patch: Patch) -> None:
    """What was written between the proof and the drop goes with it."""
    drop, drop_all = Replica.drop, TombstoneCollector._drop

    async def unseen(self: TombstoneCollector, holders: dict[Item, list[NodeId]]) -> None:
        self.answers.look = lambda *item: Answer.HELD  # type: ignore[method-assign]
        try:
            await drop_all(self, holders)
        finally:
            del self.answers.look

    def blindly(
        self: Replica, partition: int, key: bytes, expected: bytes, is_over: Callable[[bytes], bool]
    ) -> bool:
        return drop(self, partition, key, digest(self.read(partition, key)), lambda state: True)

    patch.setattr(TombstoneCollector, "_drop", unseen)
    patch.setattr(Replica, "drop", blindly)


@mutant()
def counter_starts_again_after_a_drop(patch: Patch) -> None:
    """B6, "doomstone": a counter per key goes with the record, and makes dots that are superseded already."""
    drop = Replica.drop

    def forgetful(self: Replica, partition: int, key: bytes, *rest: Any) -> bool:
        held = self.read(partition, key)
        dropped = drop(self, partition, key, *rest)
        copy = self._copies.get(partition)
        if dropped and held and copy is not None:
            made = decode_causal(held).context.highest(copy.replica_id)
            copy.counter = 0 if made == copy.counter else copy.counter
        return dropped

    patch.setattr(Replica, "drop", forgetful)


@mutant()
def values_are_collected_with_their_tombstones(patch: Patch) -> None:
    """A key with any tombstone is taken for deleted."""

    def any_tombstone(self: TombstoneAnswers, state: bytes) -> bool:
        return any(version.tombstone for version in decode_state(state).siblings.values())

    patch.setattr(TombstoneAnswers, "is_over", any_tombstone)
