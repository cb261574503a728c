"""Bringing hints to where they belong, once that is in reach again.

Source: Dynamo §4.6. The loop is driven by a timer and by what is stored, never by traffic (B10). It
delivers in order of partition and key from where it stopped, a bounded number at once and so many bytes
per second, to whoever owns the key by the layout of now (B11). A hint is deleted after its owners have
it on disk, and only if the record is still what was sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from kvstore.core.backoff import backoff_s
from kvstore.core.hint import decode_hint, is_due, owners, split_hint_key
from kvstore.core.limits import MIB, Limits
from kvstore.core.membership import NodeId
from kvstore.core.message import Store
from kvstore.core.ring import PARTITIONS, split_key
from kvstore.errors import (
    CorruptRecord,
    KVStoreError,
    PeerRefused,
    RequestError,
    StorageError,
    StorageFailed,
    TooLarge,
    named,
)
from kvstore.node.bucket_registry import BucketRegistry
from kvstore.node.cluster_view import ClusterView
from kvstore.node.grace import Grace
from kvstore.node.hint_store import HintStore
from kvstore.node.ports import Peers, Random, outcome_of
from kvstore.node.reach import Reach
from kvstore.node.replica import Replica

TICK_S = 0.5
DELIVERY_S = 2.0  # for one hint: merged and synced there, behind what clients wait for
TURN_HINTS, TURN_BYTES = 256, 4 * MIB  # of one target, before the next one has its turn
_PAUSE_FIRST_S, _PAUSE_MAX_S = 0.5, 10.0  # for a node that is there and refuses

_Record = tuple[int, bytes, bytes]
"""(partition, record key, record)."""


class HintedHandoff:
    """`round` delivers all that can be delivered now; `run` does so again and again."""

    def __init__(
        self,
        *,
        view: ClusterView,
        buckets: BucketRegistry,
        hints: HintStore,
        replica: Replica,
        peers: Peers,
        reach: Reach,
        random: Random,
        limits: Limits,
        grace: Grace,
        report: Callable[..., None],
    ) -> None:
        self._view, self._buckets, self._hints, self._replica = view, buckets, hints, replica
        self._grace = grace
        self._peers, self._reach, self._random, self._limits = peers, reach, random, limits
        self._report = report
        self._loop = asyncio.get_running_loop()
        self._after: dict[NodeId, tuple[int, bytes]] = {}
        self._refusals: dict[NodeId, tuple[int, float]] = {}  # in a row, not before (loop time)

    async def run(self) -> None:
        """One round after the other until cancelled. Raises StorageFailed."""
        while True:
            await asyncio.sleep(TICK_S * self._random.uniform("handoff-pause", 0.5, 1.5))
            try:
                await self.round()
            except StorageFailed:
                raise
            except KVStoreError as error:
                self._report("handoff failed", reason=str(error))

    async def round(self) -> None:
        """Targets in turns, as long as anything gets delivered."""
        if self._view.layout is None:
            return
        progress = True
        while progress:
            progress = False
            for target in self._hints.by_target():
                if self._may_ask(target) or self._may_have_moved(target):
                    progress |= await self._turn(target)

    async def deliver(self, timeout_s: float) -> bool:
        """One round now; True if nothing is left for a node in reach."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self.round()
        return not any(map(self._reach, self._hints.by_target()))

    # --- who can be asked ---------------------------------------------------------------------------

    def _may_ask(self, node: NodeId) -> bool:
        """Gossip and requests find out that a node is back; this loop takes their word."""
        _, not_before_s = self._refusals.get(node, (0, 0.0))
        return node == self._view.me.node_id or (self._reach(node) and self._loop.time() >= not_before_s)

    def _may_have_moved(self, target: NodeId) -> bool:
        """Whether the target may have ceased to be home of something that is kept for it."""
        certain = min(each.n for each in (self._buckets.defaults, *self._buckets.named().values()))
        return any(
            target in self._hints.pending(partition) and target not in self._view.homes(partition, certain)
            for partition in range(PARTITIONS)
        )

    def _owners(self, partition: int, record_key: bytes) -> Sequence[NodeId]:
        target, key = split_hint_key(record_key)
        n = self._buckets.properties(split_key(key)[0]).n
        return owners(target, self._view.homes(partition, n))

    # --- a turn -------------------------------------------------------------------------------------

    async def _turn(self, target: NodeId) -> bool:
        """Some of the hints of one target; True if any was delivered."""
        epoch = self._grace.enter()
        try:
            return await self._deliver_all(self._next(target))
        finally:
            self._grace.leave(epoch)

    async def _deliver_all(self, records: list[_Record]) -> bool:
        delivered = False
        while records:
            batch, records = (
                records[: self._limits.handoff_in_flight_max],
                records[self._limits.handoff_in_flight_max :],
            )
            due = [r for r in batch if is_due(self._owners(r[0], r[1]), self._may_ask)]
            if not due:
                continue
            started_s = self._loop.time()
            done = await asyncio.gather(*(self._deliver(*record) for record in due))
            delivered |= any(done)
            size = sum(len(record) for _, _, record in due)
            spent_s = self._loop.time() - started_s
            await asyncio.sleep(max(0.0, size / self._limits.handoff_bytes_per_s - spent_s))
        return delivered

    def _next(self, target: NodeId) -> list[_Record]:
        """Up to a turn's worth of records after those of the turn before; from the start after the last."""
        found: list[_Record] = []
        size = 0
        first, after = self._after.pop(target, (0, b""))
        for partition in range(first, PARTITIONS):
            if target not in self._hints.pending(partition):
                continue
            start = after if partition == first else b""
            for record_key, record in self._hints.scan(partition, target, start):
                found.append((partition, record_key, record))
                size += len(record)
                if len(found) >= TURN_HINTS or size >= TURN_BYTES:
                    self._after[target] = partition, record_key
                    return found
        return found

    async def _deliver(self, partition: int, record_key: bytes, record: bytes) -> bool:
        """To every owner; True if the hint is gone then."""
        _, key = split_hint_key(record_key)
        hint = decode_hint(record)
        store = Store(partition, key, hint.state, True, hint.hlc_time)
        for owner in self._owners(partition, record_key):
            error = await self._store(owner, store)
            if error is None:
                continue
            if isinstance(error, CorruptRecord | TooLarge):
                self._report("hint given up", reason=str(error), target=owner)
                self._hints.give_up(partition, record_key)
            return False
        return self._hints.delivered_to_owners(partition, record_key, record)

    async def _store(self, owner: NodeId, store: Store) -> KVStoreError | None:
        """None once the owner has it on disk. CorruptRecord or TooLarge: it never will."""
        if owner == self._view.me.node_id:
            return await self._store_here(store)
        self._reach.asked(owner)
        call = self._peers.call(owner, store, DELIVERY_S, background=True)
        try:
            await call
        except KVStoreError as error:
            self._reach.heard(owner, outcome_of(call))
            return self._refused(owner, error) if isinstance(error, PeerRefused) else error
        self._reach.heard(owner, outcome_of(call))
        self._refusals.pop(owner, None)
        return None

    async def _store_here(self, store: Store) -> KVStoreError | None:
        """This node became an owner: a hint is not its own copy, which is written before that goes (B8)."""
        try:
            self._replica.store(store.partition, store.key, store.state)
            await self._replica.sync()
        except StorageFailed:
            raise
        except StorageError as error:
            return error
        return None

    def _refused(self, owner: NodeId, refusal: PeerRefused) -> KVStoreError:
        """What is wrong with this hint alone does not hold up the others; what is wrong there does."""
        kind = named(refusal.code)
        if not issubclass(kind, RequestError | CorruptRecord):
            attempt, _ = self._refusals.get(owner, (0, 0.0))
            chance = self._random.uniform("handoff-backoff", 0.5, 1.0)
            pause_s = backoff_s(attempt, chance, base_s=_PAUSE_FIRST_S, cap_s=_PAUSE_MAX_S)
            self._refusals[owner] = attempt + 1, self._loop.time() + pause_s
        return kind(refusal.detail)

    # --- telling ------------------------------------------------------------------------------------

    def describe(self, now_ms: int) -> dict[str, Any]:
        """What is pending, ready for JSON."""
        hints, limits = self._hints, self._limits
        targets = []
        for target, (count, size, oldest_ms) in hints.by_target().items():
            _, not_before_s = self._refusals.get(target, (0, 0.0))
            targets.append(
                {
                    "id": target,
                    "name": self._view.name_of(target),
                    "count": count,
                    "bytes": size,
                    "oldest_age_s": max(0, now_ms - oldest_ms) / 1000 if oldest_ms else None,
                    "in_reach": self._reach(target),
                    "next_attempt_s": round(max(0.0, not_before_s - self._loop.time()), 3)
                    if self._reach(target)
                    else None,
                }
            )
        return {
            "node": self._view.me.name,
            "count": hints.count,
            "bytes": hints.bytes,
            "count_max": limits.hints_max,
            "bytes_max": limits.hint_bytes_max,
            "delivered": hints.delivered,
            "dropped": hints.dropped,
            "marks": len(hints.marks()),
            "targets": targets,
        }
