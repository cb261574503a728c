"""Replicas that missed a write get it without anybody reading it (Dynamo §4.7).

One loop. Each partition held here is compared with each other home of it at least every
`anti_entropy_interval_s`; equal roots end it. One peer at a time, and of what differs one partition at a
time. Each home begins comparisons of its own, so a pair is compared from both sides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, cast

from kvstore.core.limits import Limits
from kvstore.core.membership import NodeId
from kvstore.core.ring import PARTITIONS
from kvstore.core.upkeep_message import PartitionsRepaired, RepairPartitions
from kvstore.errors import KVStoreError, NotReady, PeerRefused, StorageFailed
from kvstore.node.cluster_view import ClusterView
from kvstore.node.exchange import DAMAGED, DIFFERENT, SAME, Exchange
from kvstore.node.partition_trees import PartitionTrees
from kvstore.node.ports import Random
from kvstore.node.reach import Reach

RETRY_S = 5.0  # after a comparison that did not end; and for a peer out of reach
SETTLE_S = 0.3  # in which a write that one side has arrives at the other
BUSY_S = 0.2
BUSY_TRIES = 10
LED_S = 30.0  # for a peer that compares itself with others
_LED_AT_ONCE = 8
_BUILT_AT_ONCE = 16  # partitions that are built before they are compared
_MISSED_SHARE = 1 / 6  # of the interval, for a peer that failed to answer since it was last compared


class AntiEntropy:
    """`on_compared(partition, peer)`: the peer has all that this node, or the other homes, had of it.

    Called for every pair that was compared, so it must cost next to nothing. `urgent(partition, peer)`
    puts a pair first, for a peer that is known to have missed something there.
    """

    def __init__(
        self,
        *,
        view: ClusterView,
        trees: PartitionTrees,
        exchange: Exchange,
        reach: Reach,
        random: Random,
        limits: Limits,
        report: Callable[..., None],
    ) -> None:
        self._view, self._trees, self._exchange, self._reach = view, trees, exchange, reach
        self._random, self._limits, self._report = random, limits, report
        self._loop = asyncio.get_running_loop()
        self._turn = asyncio.Lock()
        self._wake: asyncio.Future[None] | None = None
        self._started_s = self._loop.time()
        self._due_s: dict[NodeId, float] = {}
        self._not_before_s: dict[NodeId, float] = {}
        self._ended_s: dict[NodeId, float] = {}
        self._failures: dict[NodeId, int] = {}
        self._pause_s: dict[NodeId, float] = {}
        self._urgent: dict[tuple[NodeId, int], None] = {}
        self._compared_s: dict[tuple[NodeId, int, int], float] = {}
        self._damaged_there: dict[tuple[NodeId, int], None] = {}
        self._refill_due_s: dict[tuple[NodeId, int, int], float] = {}
        self._shared: dict[tuple[NodeId, int], tuple[int, ...]] = {}
        self._shared_as_of: tuple[int, bytes] = (0, b"")
        self.on_compared: Callable[[int, NodeId], None] = lambda partition, peer: None

    # --- the loop -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled. Raises StorageFailed."""
        interval_s = self._limits.anti_entropy_interval_s
        first_s = self._started_s + interval_s * self._random.uniform("anti-entropy-first", 0.05, 0.15)
        while True:
            now_s = self._loop.time()
            peers = self.peers()
            for peer in peers:
                self._due_s.setdefault(peer, first_s)
            urgent = self._most_urgent()
            if urgent is not None:
                await self._begin(urgent, self._urgent_partitions(urgent))
                continue
            due = min(((self._due(peer), peer) for peer in peers), default=None)
            if due is None or due[0] > now_s:
                longest_s = min(interval_s * _MISSED_SHARE, BUSY_S if self._urgent else interval_s)
                await self._rest(min(longest_s, due[0] - now_s if due else 1.0))
            elif not self._reach(due[1]):
                self._not_before_s[due[1]] = now_s + min(RETRY_S, interval_s * _MISSED_SHARE)
            else:
                await self._begin(due[1], range(PARTITIONS))

    def _due(self, peer: NodeId) -> float:
        """Sooner if it failed to answer since the last time: writes may have missed it."""
        due_s = self._due_s[peer]
        if peer in self._ended_s and self._reach.failures(peer) != self._failures.get(peer, 0):
            missed_s = self._limits.anti_entropy_interval_s * _MISSED_SHARE
            due_s = min(due_s, self._ended_s[peer] + missed_s)
        return max(due_s, self._not_before_s.get(peer, 0.0))

    async def _begin(self, peer: NodeId, partitions: Sequence[int]) -> None:
        """One comparison, and when the next one is due."""
        interval_s = self._limits.anti_entropy_interval_s
        failures = self._reach.failures(peer)
        try:
            left = await self._compare_any(peer, partitions)
        except StorageFailed:
            raise
        except KVStoreError as error:
            self._report("comparison failed", peer=self._view.name_of(peer), reason=error.detail)
            left = list(partitions)
        for partition in partitions:
            if partition not in left:
                self._urgent.pop((peer, partition), None)
        pause_s = self._pause_s.get(peer, BUSY_S / 2) * 2 if left else BUSY_S
        self._pause_s[peer] = min(pause_s, RETRY_S)
        self._ended_s[peer] = now_s = self._loop.time()
        if any(not self.is_hopeless(partition, peer) for partition in left):
            self._due_s[peer] = now_s + min(RETRY_S, interval_s * _MISSED_SHARE)
        elif len(partitions) == PARTITIONS:
            self._failures[peer] = failures
            self._due_s[peer] = now_s + interval_s * self._random.uniform("anti-entropy-pause", 0.7, 0.9)

    async def _compare_any(self, peer: NodeId, partitions: Sequence[int]) -> list[int]:
        """`compare`; and for what this node holds no copy of, the peer itself compares with its homes.

        A node that stood in for a home may know that the home missed something, and be no home itself.
        """
        if len(partitions) == PARTITIONS:
            return await self.compare(peer, partitions)
        mine = {p for n in self._trees.classes() for p in self.shared(peer, n)}
        left = await self.compare(peer, [p for p in partitions if p in mine])
        foreign = tuple(p for p in partitions if p not in mine)
        for start in range(0, len(foreign), _LED_AT_ONCE):
            part = foreign[start : start + _LED_AT_ONCE]
            request = RepairPartitions(part, int(LED_S * 1000))
            reply = cast(PartitionsRepaired, await self._exchange.call(peer, request, LED_S + 1.0))
            failed = part if reply.missing else reply.failed
            left += failed
            for partition in part:
                if partition not in failed:
                    self.on_compared(partition, peer)
        return left

    async def _rest(self, for_s: float) -> None:
        self._wake = self._loop.create_future()
        with suppress(TimeoutError):
            async with asyncio.timeout(max(for_s, 0.0)):
                await self._wake

    # --- what is urgent -----------------------------------------------------------------------------

    def urgent(self, partition: int, peer: NodeId) -> None:
        """Compare this pair before all others. Forgotten when it was compared, or with the process."""
        if peer != self._view.me.node_id:
            self._urgent[peer, partition] = None
            if self._wake is not None and not self._wake.done():
                self._wake.set_result(None)

    def _most_urgent(self) -> NodeId | None:
        """A peer in reach that is not waiting for another try."""
        now_s = self._loop.time()
        for peer, _ in self._urgent:
            tried_s = self._ended_s.get(peer)
            waited = tried_s is None or now_s - tried_s >= self._pause_s.get(peer, BUSY_S)
            if waited and self._reach(peer):
                return peer
        return None

    def _urgent_partitions(self, peer: NodeId) -> list[int]:
        return [partition for node, partition in self._urgent if node == peer]

    # --- one peer -----------------------------------------------------------------------------------

    async def compare(self, peer: NodeId, partitions: Iterable[int]) -> list[int]:
        """Makes what both are homes of equal; the partitions that could not be compared now.

        Raises PeerError where the peer does not answer, StorageFull, StorageFailed.
        """
        wanted = set(partitions)
        left: set[int] = set()
        for n in self._trees.classes():
            both = [partition for partition in self.shared(peer, n) if partition in wanted]
            left.update(await self._compare_class(peer, n, both))
        shared = {partition for n in self._trees.classes() for partition in self.shared(peer, n)}
        for partition in sorted((wanted & shared) - left):
            self.on_compared(partition, peer)
        return sorted(left)

    async def _compare_class(self, peer: NodeId, n: int, partitions: Sequence[int]) -> list[int]:
        ready = [partition for partition in partitions if self._trees.tree(partition, n) is not None]
        left = await self._compare_ready(peer, n, ready)
        unready = [partition for partition in partitions if partition not in ready]
        for start in range(0, len(unready), _BUILT_AT_ONCE):
            built = []
            for partition in unready[start : start + _BUILT_AT_ONCE]:
                if await self._trees.build(partition):
                    built.append(partition)
                    continue
                left.append(partition)
                if partition in self._trees.damaged:
                    await self._refill(peer, n, partition)
            left += await self._compare_ready(peer, n, built)
        return left

    async def _compare_ready(self, peer: NodeId, n: int, partitions: Sequence[int]) -> list[int]:
        """Those of which the peer has no tree yet, or that changed hands meanwhile."""
        if not partitions:
            return []
        async with self._turn:
            try:
                verdicts = await self._exchange.compare_roots(peer, n, partitions)
            except NotReady:
                return list(partitions)
        left, different = [], []
        for partition, verdict in zip(partitions, verdicts, strict=True):
            self._damaged_there.pop((peer, partition), None)
            if verdict == DAMAGED:
                self._damaged_there[peer, partition] = None
            if verdict == DIFFERENT:
                different.append(partition)
            elif verdict == SAME:
                self._compared_s[peer, n, partition] = self._loop.time()
            else:
                left.append(partition)
        return left + await self._heal_all(peer, n, different)

    async def _heal_all(self, peer: NodeId, n: int, partitions: Sequence[int]) -> list[int]:
        """Those that could not be healed now.

        A listing reads the whole partition on both sides, and under load nearly every partition differs
        at any moment by a write that one side has already: what differs twice is listed.
        """
        suspects: dict[int, frozenset[int]] = {}
        left = []
        for partition in partitions:
            try:
                async with self._turn:
                    suspects[partition] = await self._exchange.differing(peer, n, partition)
            except (NotReady, PeerRefused):
                left.append(partition)
        if any(suspects.values()):
            await asyncio.sleep(SETTLE_S)
        for partition, segments in suspects.items():
            if segments and not await self._heal_partition(peer, n, partition, segments):
                left.append(partition)
            else:
                self._compared_s[peer, n, partition] = self._loop.time()
        return left

    async def _refill(self, peer: NodeId, n: int, partition: int) -> None:
        """A partition that cannot be scanned here. Takes a list of all there is, so not at every chance."""
        now_s = self._loop.time()
        if now_s >= self._refill_due_s.get((peer, n, partition), 0.0):
            async with self._turn:
                await self._exchange.refill(peer, n, partition)
            self._refill_due_s[peer, n, partition] = now_s + self._limits.anti_entropy_interval_s

    def is_hopeless(self, partition: int, peer: NodeId) -> bool:
        """On one of the two sides no scan gets through it: no reason to try again at once."""
        return partition in self._trees.damaged or (peer, partition) in self._damaged_there

    async def _heal_partition(self, peer: NodeId, n: int, partition: int, segments: frozenset[int]) -> bool:
        """False: not now."""
        for _ in range(BUSY_TRIES):
            try:
                async with self._turn:
                    await self._exchange.heal(peer, n, partition, segments)
            except NotReady:
                return False
            except PeerRefused as refusal:
                if refusal.code != "Overloaded":
                    return False
                await asyncio.sleep(self._random.uniform("anti-entropy-busy", BUSY_S / 2, BUSY_S))
            else:
                return True
        return False

    # --- who shares what ----------------------------------------------------------------------------

    def peers(self) -> list[NodeId]:
        """The nodes that are homes of a partition together with this one; none without a layout."""
        layout = self._view.layout
        if layout is None:
            return []
        classes = self._trees.classes()
        others = sorted(m.node_id for m in layout.members if m.node_id != self._view.me.node_id)
        return [peer for peer in others if any(self.shared(peer, n) for n in classes)]

    def shared(self, peer: NodeId, n: int) -> tuple[int, ...]:
        """Partitions of whose keys with n homes both are homes."""
        layout = self._view.layout
        as_of = (layout.version if layout else 0, self._trees.terms)
        if as_of != self._shared_as_of:
            self._shared_as_of, self._shared = as_of, {}
        found = self._shared.get((peer, n))
        if found is None:
            me, homes = self._view.me.node_id, self._view.homes
            found = tuple(p for p in range(PARTITIONS) if me in homes(p, n) and peer in homes(p, n))
            self._shared[peer, n] = found
        return found

    # --- what it tells ------------------------------------------------------------------------------

    def oldest_s(self) -> float:
        """Age of the oldest comparison of a pair; since the start for one that was never compared."""
        return max((age_s for _, age_s in self._ages()), default=0.0)

    def _ages(self) -> list[tuple[NodeId, float]]:
        """(peer, age of its oldest comparison)."""
        now_s = self._loop.time()
        ages = []
        for peer in self.peers():
            pairs = ((peer, n, p) for n in self._trees.classes() for p in self.shared(peer, n))
            oldest = min((self._compared_s.get(pair, self._started_s) for pair in pairs), default=now_s)
            ages.append((peer, now_s - oldest))
        return ages

    def status(self) -> dict[str, Any]:
        """Ready for JSON."""
        counts = self._exchange.counts
        return {
            "peers": [
                {
                    "id": peer,
                    "name": self._view.name_of(peer),
                    "oldest_comparison_s": round(age_s, 3),
                    "in_reach": self._reach(peer),
                }
                for peer, age_s in self._ages()
            ],
            "urgent": len(self._urgent),
            "partitions_compared": counts.compared,
            "partitions_different": counts.different,
            "keys_sent": counts.sent,
            "keys_received": counts.received,
            "tree_bytes": counts.tree_bytes,
            "state_bytes": counts.state_bytes,
            "trees_built": self._trees.built,
            "partitions_damaged": sorted(self._trees.damaged),
        }
