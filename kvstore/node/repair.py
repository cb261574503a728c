"""Repair and barrier on request: what anti-entropy does in its own time, done now and everywhere.

For each partition one live home compares with all others. What it learns from the last of them the first
ones lack, so a round that brought it news is followed by another one; after that all are equal. A home is
live if a message can be sent to it; those that are not are named in the result.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, cast

from kvstore.core.membership import NodeId
from kvstore.core.ring import PARTITIONS
from kvstore.core.upkeep_message import DeliverHints, HintsDelivered, PartitionsRepaired, RepairPartitions
from kvstore.errors import (
    KVStoreError,
    NotReady,
    PeerError,
    PeerRefused,
    PeerUnreachable,
    RequestTimeout,
    StorageError,
)
from kvstore.node.anti_entropy import BUSY_S, AntiEntropy
from kvstore.node.cluster_view import ClusterView
from kvstore.node.exchange import Exchange
from kvstore.node.key_repair import KeyRepair
from kvstore.node.partition_trees import PartitionTrees
from kvstore.node.tasks import Task

SLICE = 8  # partitions that one message asks for: the step of the progress that is shown
SLICE_S = 60.0  # after which another home is asked
FIRST_PAUSE_S = 0.005  # the peer builds its trees: small ones are soon there
ROUNDS_MAX = 5  # after which a partition that could not be compared has failed
DEADLINE_S = 3600.0


class Repair:
    """`deliver_hints(timeout_s)`: True when nothing is left here for a node in reach."""

    def __init__(
        self,
        *,
        view: ClusterView,
        trees: PartitionTrees,
        anti_entropy: AntiEntropy,
        exchange: Exchange,
        keys: KeyRepair,
    ) -> None:
        self._view, self._trees, self._anti_entropy = view, trees, anti_entropy
        self._exchange, self._keys = exchange, keys
        self._loop = asyncio.get_running_loop()
        self.deliver_hints: Callable[[float], Awaitable[bool]] = _no_hints

    # --- tasks --------------------------------------------------------------------------------------

    async def key(self, partition: int, key: bytes, task: Task) -> dict[str, Any]:
        repaired = await self._keys.repair(partition, key)
        task.done = 1
        return {
            "partition": partition,
            "found": repaired.found,
            "lacking": self._names(repaired.lacking),
            "healed": len(repaired.healed),
            "missing": self._names(repaired.missing),
        }

    async def partitions(self, partitions: Iterable[int], deadline_s: float, task: Task) -> dict[str, Any]:
        """All homes in reach of each of them. Counts every partition once. Raises NotReady."""
        until_s = self._loop.time() + deadline_s
        left, healed, missing = list(partitions), 0, dict[NodeId, None]()
        for _ in range(ROUNDS_MAX):
            leaders: dict[NodeId, list[int]] = {}
            alone: list[int] = []
            for partition in left:
                leader = self._leader(partition, missing)
                if leader is None:
                    alone.append(partition)
                else:
                    leaders.setdefault(leader, []).append(partition)
            rounds = await asyncio.gather(
                *(self._lead(leader, mine, until_s, task) for leader, mine in sorted(leaders.items()))
            )
            for reply in rounds:
                healed += reply.healed
                missing.update(dict.fromkeys(reply.missing))
            left = alone + [partition for reply in rounds for partition in reply.failed]
            if not left or not leaders or self._loop.time() >= until_s:
                break
            await asyncio.sleep(BUSY_S)
        return {
            "repaired": task.done,
            "failed": sorted(left),
            "healed": healed,
            "missing": self._names(sorted(missing)),
        }

    async def barrier(self, timeout_s: float, task: Task) -> dict[str, Any]:
        """Every write acknowledged before the call is on all live homes. Raises RequestTimeout, NotReady."""
        until_s = self._loop.time() + timeout_s
        while not await self._all_hints_delivered(until_s):
            if self._loop.time() >= until_s:
                raise RequestTimeout("hints for nodes in reach are still on their way", outcome="unknown")
            await asyncio.sleep(BUSY_S)
        result = await self.partitions(range(PARTITIONS), until_s - self._loop.time(), task)
        if result["failed"] or task.done < PARTITIONS:
            count = PARTITIONS - task.done
            raise RequestTimeout(f"{count} partitions could not be compared in time", outcome="unknown")
        return result

    # --- what they are made of ----------------------------------------------------------------------

    def _leader(self, partition: int, missing: dict[NodeId, None]) -> NodeId | None:
        """The first home that answers: what is compared for any n is compared by it.

        Whom a breaker keeps clients away from is asked all the same: it may live.
        """
        return next((home for home in self._homes(partition) if home not in missing), None)

    def _homes(self, partition: int) -> Sequence[NodeId]:
        return self._view.homes(partition, max(self._trees.classes()))

    async def _lead(
        self, leader: NodeId, partitions: Sequence[int], until_s: float, task: Task
    ) -> PartitionsRepaired:
        """Has one home work through its partitions, slice by slice."""
        failed: list[int] = []
        missing: dict[NodeId, None] = {}
        healed = 0
        for start in range(0, len(partitions), SLICE):
            part = tuple(partitions[start : start + SLICE])
            for_s = min(SLICE_S, until_s - self._loop.time())
            if for_s <= 0 or leader in missing:
                failed += part
                continue
            request = RepairPartitions(part, max(1, int(for_s * 1000)))
            try:
                if leader == self._view.me.node_id:
                    reply = await self.lead(request)
                else:
                    reply = cast(
                        PartitionsRepaired, await self._exchange.call(leader, request, for_s + BUSY_S)
                    )
            except PeerRefused:
                failed += part
                continue
            except PeerError:
                failed += part
                missing[leader] = None
                continue
            failed += reply.failed
            healed += reply.healed
            missing.update(dict.fromkeys(reply.missing))
            task.done += len(part) - len(reply.failed)
        return PartitionsRepaired(tuple(failed), healed, tuple(missing))

    async def lead(self, request: RepairPartitions) -> PartitionsRepaired:
        """Compare these partitions, of which this node is a home, with all other homes in reach."""
        until_s = self._loop.time() + request.timeout_ms / 1000
        partitions = [p for p in request.partitions if 0 <= p < PARTITIONS]
        me = self._view.me.node_id
        homes = sorted({home for p in partitions for home in self._homes(p) if home != me})
        counts = self._exchange.counts
        before, received = counts.sent + counts.received, counts.received
        failed: dict[int, None] = {}
        missing: dict[NodeId, None] = {}
        for peer in homes:
            await self._compare(peer, partitions, until_s, failed, missing)
        if counts.received > received and len(homes) > 1:
            for peer in homes[:-1]:
                await self._compare(peer, partitions, until_s, failed, missing)
        healed = counts.sent + counts.received - before
        return PartitionsRepaired(tuple(failed), healed, tuple(missing))

    async def _compare(
        self,
        peer: NodeId,
        partitions: list[int],
        until_s: float,
        failed: dict[int, None],
        missing: dict[NodeId, None],
    ) -> None:
        """Until the peer is equal, out of reach, or the time is up."""
        left, pause_s = partitions, FIRST_PAUSE_S
        while left:
            try:
                left = await self._anti_entropy.compare(peer, left)
            except StorageError:
                raise
            except KVStoreError as error:
                if isinstance(error, PeerUnreachable):
                    missing[peer] = None
                    return
            hopeless = all(self._anti_entropy.is_hopeless(partition, peer) for partition in left)
            if left and (hopeless or self._loop.time() >= until_s):
                failed.update(dict.fromkeys(left))
                return
            if left:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, BUSY_S)

    async def hints(self, request: DeliverHints) -> HintsDelivered:
        return HintsDelivered(await self.deliver_hints(request.timeout_ms / 1000))

    async def _all_hints_delivered(self, until_s: float) -> bool:
        """At every member. One to which nothing can be sent is not live: its hints wait with it."""
        layout = self._view.layout
        if layout is None:
            raise NotReady("this node belongs to no cluster yet")
        me = self._view.me.node_id
        for_s = max(BUSY_S, until_s - self._loop.time())
        others = [m.node_id for m in layout.members if m.node_id != me]
        request = DeliverHints(int(for_s * 1000))
        answers = await asyncio.gather(
            *(self._exchange.call(node, request, for_s + BUSY_S) for node in others), return_exceptions=True
        )
        done = await self.deliver_hints(max(BUSY_S, until_s - self._loop.time()))
        for answer in answers:
            if isinstance(answer, HintsDelivered):
                done = done and answer.done
            elif not isinstance(answer, PeerUnreachable):
                done = False
        return done

    def _names(self, nodes: Iterable[NodeId]) -> list[str]:
        return [self._view.name_of(node) for node in nodes]


async def _no_hints(timeout_s: float) -> bool:
    return True
