"""Reads and their repairs that take "not found" for knowledge, ask too few, or promise too much."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from kvstore.core import read_repair
from kvstore.core.encoding import encode_state
from kvstore.core.message import Read
from kvstore.core.quorum import Quorum
from kvstore.core.sibling import EMPTY_STATE
from kvstore.node import coordinator, session_reads, stand_ins
from kvstore.node.coordinator import Coordinator
from kvstore.node.fan_out import FanOut
from kvstore.node.hedges import Hedges
from kvstore.node.ports import Kind
from kvstore.node.replica import Replica
from kvstore.simulation.generator import Shape
from tests.simulation.mutants import Patch, mutant

_EMPTY = encode_state(EMPTY_STATE)


@mutant()
def not_found_counts_as_the_newest(patch: Patch) -> None:
    """B25: one replica that knows nothing, and the answer is nothing."""
    merged = read_repair.merged

    def hasty(answers: Iterable[bytes]) -> bytes:
        listed = list(answers)
        return merged(listed) if all(listed) else b""

    patch.setattr(stand_ins, "merged", hasty)


@mutant()
def repair_writes_not_found(patch: Patch) -> None:
    """B17: a replica without the key is right, and the others are made like it."""
    merged, store = read_repair.merged, Replica.store

    def hasty(answers: Iterable[bytes]) -> bytes:
        listed = list(answers)
        return merged(listed) if all(listed) else _EMPTY

    def obeying(self: Replica, partition: int, key: bytes, incoming: bytes, *rest: Any) -> None:
        if incoming == _EMPTY:
            self._storage.apply([(Kind.DATA, partition, key, _EMPTY)])
        else:
            store(self, partition, key, incoming, *rest)

    patch.setattr(stand_ins, "merged", hasty)
    patch.setattr(Replica, "store", obeying)


@mutant()
def digests_always_equal(patch: Patch) -> None:
    """Whoever has anything has the same."""
    patch.setattr(coordinator, "digest", lambda encoded: bytes(16) if encoded else b"")
    patch.setattr("kvstore.node.node.digest", lambda encoded: bytes(16) if encoded else b"")


@mutant()
def read_of_one_answer_less(patch: Patch) -> None:
    original = coordinator._quorum

    def less(*arguments: Any, **options: Any) -> Quorum:
        quorum = original(*arguments, **options)
        r = max(1, quorum.r - 1)
        return replace(quorum, r=r, pr=min(quorum.pr, r))

    patch.setattr(coordinator, "_quorum", less)


@mutant()
def session_is_not_waited_for(patch: Patch) -> None:
    for room in (coordinator, session_reads):
        patch.setattr(room, "covers", lambda state, session: True)


@mutant(quick=True)
def read_repair_shows_the_first_answer(patch: Patch) -> None:
    """The coordinator's own copy is taken for the merge of all."""
    patch.setattr(stand_ins, "merged", lambda answers: next(iter(list(answers)), b""))


@mutant()
def hedge_asks_who_has_answered(patch: Patch) -> None:
    """Its second answer is one more vote."""

    def again(self: Hedges, reads: FanOut, read: Read, others: list[str], left_s: float) -> None:
        if reads.answers:
            reads.ask_one_more(reads.answers[0][0], read, left_s)

    patch.setattr(Hedges, "_hedge", again)


@mutant(shape=Shape(duration_s=60.0, nodes=3, n=3, r=2, w=2, kinds=("kill-all",)))
def equal_answers_count_as_durable(patch: Patch) -> None:
    """A monotonic read repairs what is older, and shows at once what everybody answered."""
    make_durable = Coordinator._make_durable

    async def trusting(
        self: Coordinator,
        partition: int,
        key: bytes,
        state: bytes,
        answers: list[tuple[str, float, bytes]],
        *rest: Any,
    ) -> None:
        if any(held != state for _, _, held in answers):
            await make_durable(self, partition, key, state, answers, *rest)

    patch.setattr(Coordinator, "_make_durable", trusting)
