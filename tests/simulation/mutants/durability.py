"""Acknowledgements that promise more than is on the disks, and disks that are believed too much."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from kvstore.core.encoding import decode_causal
from kvstore.core.membership import NodeId
from kvstore.core.message import Reply, Request, Store, Stored
from kvstore.core.quorum import Outcome, Quorum, Tally
from kvstore.errors import CorruptRecord, KVStoreError
from kvstore.node import coordinator
from kvstore.node.fan_out import FanOut
from kvstore.node.ports import Kind
from kvstore.node.replica import _NOTHING, Replica
from kvstore.storage.memory import MemoryStorage
from kvstore.storage.record import HEAD_BYTES
from tests.simulation.mutants import Patch, mutant


def done() -> asyncio.Future[None]:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.set_result(None)
    return future


@mutant(quick=True)
def acknowledge_before_sync(patch: Patch) -> None:
    """The sync is begun, and not waited for."""
    sync = Replica.sync

    def begun(self: Replica) -> asyncio.Future[None]:
        sync(self)
        return done()

    patch.setattr(Replica, "sync", begun)


@mutant()
def failed_sync_counts(patch: Patch) -> None:
    """A sync that failed is logged, and the write acknowledged."""

    def ignoring(self: Replica) -> asyncio.Future[None]:
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def ended(group: asyncio.Future[None]) -> None:
            group.exception()
            if not answer.done():
                answer.set_result(None)

        self._storage.sync().add_done_callback(ended)
        return answer

    patch.setattr(Replica, "sync", ignoring)


@mutant()
def failed_sync_is_tried_again(patch: Patch) -> None:
    """The kernel has dropped the pages that it could not write: the second sync claims what is gone."""
    from kvstore.storage.memory import MemoryStorage

    end_sync = MemoryStorage._end_sync

    def again(self: MemoryStorage, applied: int) -> None:
        if self.disk._user is self and self.disk.fail_syncs:
            self._group.finished(None, self.sync_delay_s)
        else:
            end_sync(self, applied)

    patch.setattr(MemoryStorage, "_end_sync", again)


@mutant(quick=True)
def quorum_of_one_less_to_write(patch: Patch) -> None:
    original = coordinator._quorum

    def less(*arguments: Any, **options: Any) -> Quorum:
        quorum = original(*arguments, **options)
        w = max(1, quorum.w - 1)
        return replace(quorum, w=w, pw=min(quorum.pw, w))

    patch.setattr(coordinator, "_quorum", less)


@mutant()
def one_node_counts_twice(patch: Patch) -> None:
    """An answer that arrives is a vote, and so is the same answer again."""
    arrived, count = FanOut._arrived, Tally.count

    def twice(self: FanOut, node: NodeId, outcome: Reply | KVStoreError) -> None:
        arrived(self, node, outcome)
        if self.tally.outcome is Outcome.PENDING and isinstance(outcome, Stored):
            self._count(ack=True)

    def tolerant(self: Tally, *, ack: bool, primary: bool = True) -> None:
        if self.acks + self.failures < self.asked:
            count(self, ack=ack, primary=primary)

    patch.setattr(FanOut, "_arrived", twice)
    patch.setattr(Tally, "count", tolerant)


@mutant()
def a_vote_counts_when_it_is_asked_for(patch: Patch) -> None:
    """Who is thought to be up will do it."""
    ask, count = FanOut.ask, Tally.count

    def counted(self: FanOut, node: NodeId, request: Request, deadline_s: float) -> None:
        ask(self, node, request, deadline_s)
        if isinstance(request, Store):
            self._count(ack=True)

    def tolerant(self: Tally, *, ack: bool, primary: bool = True) -> None:
        if self.acks + self.failures < self.asked:
            count(self, ack=ack, primary=primary)

    patch.setattr(FanOut, "ask", counted)
    patch.setattr(Tally, "count", tolerant)


@mutant()
def replicas_store_without_sync(patch: Patch) -> None:
    """Only the coordinator syncs; a replica answers when the write is in its engine."""
    patch.setattr(coordinator, "Store", lambda *fields: Store(*fields)._replace(sync=False))


@mutant()
def corrupt_record_is_not_found(patch: Patch) -> None:
    """B3: "don't know" is "empty" to a copy that keeps its id, and so knows dots it has forgotten."""
    read, head_and_copy = Replica.read, Replica._head_and_copy

    def reading(self: Replica, partition: int, key: bytes) -> bytes:
        try:
            return read(self, partition, key)
        except CorruptRecord:
            return b""

    def holding(self: Replica, partition: int, key: bytes, context: Any) -> Any:
        try:
            self._storage.get(Kind.DATA, partition, key)
        except CorruptRecord:
            return b"", _NOTHING, self._copy(partition)
        return head_and_copy(self, partition, key, context)

    patch.setattr(Replica, "read", reading)
    patch.setattr(Replica, "_head_and_copy", holding)


@mutant()
def checksums_are_not_looked_at(patch: Patch) -> None:
    """B17: what the disk returns is what was written."""
    patch.setattr("kvstore.storage.memory.unseal", lambda stored, sealed: sealed[HEAD_BYTES:])


@mutant()
def delete_removes_the_record(patch: Patch) -> None:
    """B6: without a tombstone the copy that missed the delete brings everything back."""
    write = Replica.write

    def removing(self: Replica, partition: int, key: bytes, version: Any, **options: Any) -> Any:
        minted = write(self, partition, key, version, **options)
        whole = version.tombstone and len(decode_causal(minted.state).dots) == 1
        if whole and isinstance(self._storage, MemoryStorage):
            self._storage.apply([(Kind.DATA, partition, key, None)])
        return minted

    patch.setattr(Replica, "write", removing)
