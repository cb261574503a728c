"""Telling what became of a write that nobody answered: asks all homes, makes durable what it finds.

What may be said is core/outcome.py. It is a read and a read repair: nothing is applied that no replica had.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from kvstore.core.encoding import digest, encode_context
from kvstore.core.limits import Limits
from kvstore.core.membership import NodeId
from kvstore.core.message import Held, HintsHeld, Read
from kvstore.core.outcome import AskOutcome, OutcomeTold, dots_of, outcome_of
from kvstore.core.quorum import Tally
from kvstore.core.read_repair import merged
from kvstore.core.ring import full_key, partition_of
from kvstore.core.vector_clock import context_of
from kvstore.errors import CorruptRecord
from kvstore.node.bucket_registry import BucketRegistry
from kvstore.node.cluster_view import ClusterView
from kvstore.node.fan_out import FanOut
from kvstore.node.grace import Grace
from kvstore.node.read_repair import ReadRepair
from kvstore.node.replica import Replica
from kvstore.node.stand_ins import StandIns


class Outcomes:
    def __init__(
        self,
        *,
        view: ClusterView,
        buckets: BucketRegistry,
        replica: Replica,
        stand_ins: StandIns,
        fan_out: Callable[[Tally], FanOut],
        limits: Limits,
        grace: Grace,
        now: Callable[[], float],
    ) -> None:
        self._view, self._buckets, self._replica, self._stand_ins = view, buckets, replica, stand_ins
        self._fan_out, self._limits, self._grace, self._now = fan_out, limits, grace, now
        self._repair = ReadRepair(view.me.node_id, replica, fan_out)

    async def told(self, asked: AskOutcome) -> OutcomeTold:
        """Any node can be asked; too few answers are no error, only less that can be said.

        Raises NotReady, InvalidRequest, StorageFull.
        """
        quorum = self._buckets.properties(asked.bucket).quorum(n=asked.n, w=asked.w)
        key = full_key(asked.bucket, asked.key)
        partition = partition_of(key)
        homes = self._view.homes(partition, quorum.n)
        ends_s = self._now() + asked.timeout_ms / 1000
        epoch = self._grace.enter()
        try:
            states, answered = await self._held(partition, key, homes, self._deadline_s(ends_s))
            dots = dots_of(states, asked.operation_id)
            acks = 0
            if dots:
                votes = await self._repair.voted(
                    partition, key, merged(states), homes, quorum.w, self._deadline_s(ends_s)
                )
                acks = votes.tally.acks
        finally:
            self._grace.leave(epoch)
        context = encode_context(context_of(dots)) if dots else b""
        outcome = outcome_of(dots, acks=acks, w=quorum.w)
        return OutcomeTold(outcome, context, quorum.n, quorum.w, answered, acks)

    async def _held(
        self, partition: int, key: bytes, homes: Sequence[NodeId], deadline_s: float
    ) -> tuple[list[bytes], int]:
        """(what homes and stand-ins hold, how many of the homes said so). Waits for all of them.

        A copy here that recovers is asked, too: that it holds the write is proof whatever else it has lost.
        """
        me = self._view.me.node_id
        states, known = [], b""
        if me in homes:
            try:
                known = self._replica.read(partition, key)
                states.append(known)
            except CorruptRecord:
                pass  # it is healed by reads and the scrub
        others = [node for node in homes if node != me]
        reads = self._fan_out(Tally(asked=len(others), need=len(others)))
        read = Read(partition, key, digest(known) if states else b"")
        for node in others:
            reads.ask(node, read, deadline_s)
        self._stand_ins.ask_for_hints(reads, partition, key, homes, deadline_s)
        await reads.finished()
        replies = [cast(Held, reply) for _, reply, _ in reads.answers]
        answered = len(states) + len(replies)
        states += [reply.state for reply in replies if not reply.same]
        states += [cast(HintsHeld, reply).state for _, reply, _, _ in reads.hinted]
        return states, answered

    def _deadline_s(self, ends_s: float) -> float:
        return min(self._limits.peer_deadline_s, max(0.001, ends_s - self._now()))
