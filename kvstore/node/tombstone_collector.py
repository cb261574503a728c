"""Collects the tombstones of which it is proven that nothing older is left (core/tombstone.py).

One loop. It looks through what is held here, puts tombstones in place of values that have expired, and
collects for the partitions whose first home this node is. Every member is asked twice, with a pause after
each time for what a network may still deliver. Then the other homes drop the record, and this one last: while
one of them has not, this node keeps it, and asks again when it comes by the next time.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress

from kvstore.core.encoding import digest
from kvstore.core.limits import KIB, Limits
from kvstore.core.membership import NodeId
from kvstore.core.message import Reply, Store
from kvstore.core.ring import PARTITIONS
from kvstore.core.tombstone import ROUNDS, Answer, Verdict, has_expired, judge
from kvstore.core.upkeep_message import DropTombstones, ProveTombstones, TombstonesDropped, TombstonesProven
from kvstore.errors import CorruptRecord, KVStoreError, StorageFailed, StorageFull
from kvstore.node.cluster_view import ClusterView
from kvstore.node.exchange import Exchange
from kvstore.node.grace import Grace
from kvstore.node.hint_store import HintStore
from kvstore.node.pace import BYTES_AT_ONCE, RECORDS_AT_ONCE, Pace
from kvstore.node.partition_trees import PartitionTrees
from kvstore.node.ports import Kind, Random, Storage, WallClock
from kvstore.node.reach import Reach
from kvstore.node.replica import Replica
from kvstore.node.tombstone_answers import FLUSH_S, GRACE_S, Item, TombstoneAnswers

BATCH_ITEMS, BATCH_BYTES = 2048, 512 * KIB  # of keys, in one message
ANSWER_S = GRACE_S + FLUSH_S + 5.0
_SLICE_RECORDS = 16 * RECORDS_AT_ONCE

_POSTPONED = {
    None: "out of reach",
    Answer.ABSENT: "not everywhere",
    Answer.DIFFERENT: "not everywhere",
    Answer.ALIVE: "not expired",
    Answer.UNREADABLE: "unreadable",
    Answer.HINTED: "hint",
    Answer.MARKED: "hint",
}
"""Reasons as metrics name them."""

REASONS = tuple(dict.fromkeys(_POSTPONED.values()))


class TombstoneCollector:
    """`pending`: keys found by the last pass that could not go. `collected` and `expired` count keys since
    the start, `postponed` attempts by reason, `passes` looks at everything held. `heal(partition, key)`
    takes note of a record that is unreadable here. `answers`: what this node says when others ask.
    """

    def __init__(
        self,
        *,
        view: ClusterView,
        storage: Storage,
        replica: Replica,
        trees: PartitionTrees,
        hints: HintStore,
        exchange: Exchange,
        grace: Grace,
        reach: Reach,
        pace: Pace,
        wall: WallClock,
        random: Random,
        limits: Limits,
        heal: Callable[[int, bytes], None],
        report: Callable[..., None],
    ) -> None:
        self._view, self._storage, self._replica, self._trees = view, storage, replica, trees
        self._exchange, self._reach, self._pace = exchange, reach, pace
        self._wall, self._random, self._limits = wall, random, limits
        self._heal, self._report = heal, report
        self._loop = asyncio.get_running_loop()
        self.answers = TombstoneAnswers(
            view=view,
            replica=replica,
            hints=hints,
            exchange=exchange,
            grace=grace,
            pace=pace,
            wall=wall,
            limits=limits,
        )
        self.pending = self.collected = self.expired = self.passes = 0
        self.postponed: Counter[str] = Counter()

    async def run(self) -> None:
        """One pass after the other until cancelled. Raises StorageFailed."""
        interval_s = self._limits.tombstone_interval_s
        await asyncio.sleep(interval_s * self._random.uniform("tombstones-first", 0.1, 0.5))
        while True:
            started_s = self._loop.time()
            if self._view.layout is not None:
                await self.collect()
            rest_s = interval_s * self._random.uniform("tombstones-pause", 0.8, 1.0)
            await asyncio.sleep(max(0.0, started_s + rest_s - self._loop.time()))

    async def collect(self) -> None:
        """One pass over all that is held here. Raises StorageFailed."""
        before, found = self.collected, 0
        batch: list[Item] = []
        size_bytes = unread = 0
        for partition in range(PARTITIONS):
            start: bytes | None = b""
            while start is not None:
                try:
                    items, start, read = await self._slice(partition, start)
                except (CorruptRecord, StorageFull) as error:
                    self._report("partition cannot be scanned", partition=partition, reason=error.detail)
                    break
                batch += items
                found += len(items)
                size_bytes += sum(len(key) for _, key, _ in items)
                unread += read
                if len(batch) >= BATCH_ITEMS or size_bytes >= BATCH_BYTES:
                    await self._collect(batch[:BATCH_ITEMS])
                    batch, size_bytes = batch[BATCH_ITEMS:], 0
            if unread >= RECORDS_AT_ONCE or partition % 64 == 63:
                await self._pace.read(unread)
                unread = 0
        if batch:
            await self._collect(batch)
        self.pending = found - (self.collected - before)
        self.passes += 1

    async def _slice(self, partition: int, start: bytes) -> tuple[list[Item], bytes | None, int]:
        """(what may be collected, where to go on or None at the end, records that no pace was kept for)."""
        found: list[Item] = []
        read = read_bytes = 0
        for count, (key, state) in enumerate(self._storage.scan(Kind.DATA, partition, start), 1):
            read += 1
            read_bytes += len(state or b"")
            if state is None:
                self._heal(partition, key)
            elif self._is_over(partition, key, state):
                found.append((partition, key, digest(state)))
            if read >= RECORDS_AT_ONCE or read_bytes >= BYTES_AT_ONCE:
                await self._pace.read(read)
                read = read_bytes = 0
            if count >= _SLICE_RECORDS:
                return found, key + b"\0", read
        return found, None, read

    def _is_over(self, partition: int, key: bytes, state: bytes) -> bool:
        """Whether it is for this node to collect it. What has expired becomes a tombstone at every home."""
        now_ms, skew_ms = self._wall.now_ms(), self.answers.skew_ms
        try:
            if has_expired(state, now_ms, skew_ms):
                self.expired += self._replica.bury(partition, key, now_ms, skew_ms)
            return self.answers.is_over(state) and self._is_first_home(partition, key)
        except CorruptRecord:
            return False  # whole, as its checksum says, and no state all the same

    def _is_first_home(self, partition: int, key: bytes) -> bool:
        return self._view.homes(partition, self._trees.n_of(key))[0] == self._view.me.node_id

    # --- one batch ----------------------------------------------------------------------------------

    async def _collect(self, items: Sequence[Item]) -> None:
        holders: dict[Item, list[NodeId]] = {}
        for _ in range(ROUNDS):
            holders = await self._prove(items)
            items = list(holders)
            if not items:
                return
            await asyncio.sleep(self._limits.tombstone_pause_s)
        await self._drop(holders)

    async def _prove(self, items: Sequence[Item]) -> dict[Item, list[NodeId]]:
        """Those that are proven, with the members that hold them."""
        me, members = self._view.me.node_id, sorted(self._view.members)
        if not all(node == me or self._reach(node) for node in members):
            self.postponed[_POSTPONED[None]] += len(items)
            return {}
        request = ProveTombstones(tuple(items))
        replies = await asyncio.gather(*(self._ask(node, request) for node in members))
        holders: dict[Item, list[NodeId]] = {}
        for at, item in enumerate(items):
            answers = {node: _answer(reply, at) for node, reply in zip(members, replies, strict=True)}
            homes = self._view.homes(item[0], self._trees.n_of(item[1]))
            verdict, reasons = judge(answers, homes)
            former = [n for n, why in reasons.items() if why is Answer.DIFFERENT and n not in homes]
            for node in former:
                await self._bring(node, item)
            if verdict is Verdict.PROVEN:
                holders[item] = [node for node, answer in answers.items() if answer is Answer.HELD]
            else:
                self.postponed[_POSTPONED[next(iter(reasons.values()), None)]] += 1
        return holders

    async def _bring(self, former: NodeId, item: Item) -> None:
        """To a node that has been a home and holds what it held then: nobody else compares with it."""
        partition, key, _ = item
        with suppress(CorruptRecord):
            if state := self._replica.read(partition, key):
                await self._ask(former, Store(partition, key, state))

    async def _drop(self, holders: dict[Item, list[NodeId]]) -> None:
        """Elsewhere first. A record that came back meanwhile to one that has dropped it is found again.

        What is unreadable here by now stays elsewhere: it could not be healed once they have dropped it.
        """
        holders = {item: at for item, at in holders.items() if self.answers.look(*item) is Answer.HELD}
        me = self._view.me.node_id
        others = sorted({node for nodes in holders.values() for node in nodes if node != me})
        requests = {
            node: DropTombstones(tuple(item for item, nodes in holders.items() if node in nodes))
            for node in others
        }
        replies = await asyncio.gather(*(self._ask(node, requests[node]) for node in others))
        left: dict[Item, None] = {}
        for node, reply in zip(others, replies, strict=True):
            for at, item in enumerate(requests[node].items):
                if not (isinstance(reply, TombstonesDropped) and reply.dropped[at : at + 1] == b"\1"):
                    left[item] = None
        mine = tuple(item for item in holders if item not in left)
        reply = await self.answers.drop(DropTombstones(mine))
        self.collected += sum(reply.dropped)

    async def _ask(self, node: NodeId, request: ProveTombstones | DropTombstones | Store) -> Reply | None:
        """None for a member that gave no answer. Raises StorageFailed."""
        try:
            if node != self._view.me.node_id:
                return await self._exchange.call(node, request, ANSWER_S)
            assert isinstance(request, ProveTombstones), "this node drops last, and is a home"
            return await self.answers.prove(request)
        except StorageFailed:
            raise
        except KVStoreError:
            return None


def _answer(reply: Reply | None, at: int) -> Answer | None:
    """None where there is none that this release knows."""
    if isinstance(reply, TombstonesProven) and at < len(reply.answers) and reply.answers[at] < len(Answer):
        return Answer(reply.answers[at])
    return None
