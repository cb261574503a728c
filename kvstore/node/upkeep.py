"""What keeps replicas equal and readable while nobody asks: its parts, their loops, what they tell."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from kvstore.core.bucket import check_bucket_name
from kvstore.core.limits import Limits
from kvstore.core.membership import NodeId
from kvstore.core.message import Done, Reply, Request
from kvstore.core.ring import PARTITIONS, full_key, partition_of
from kvstore.core.upkeep_message import (
    CompareTrees,
    DeliverHints,
    DropTombstones,
    FetchStates,
    Flush,
    ListKeys,
    ProveTombstones,
    RepairPartitions,
    StoreStates,
)
from kvstore.errors import InvalidRequest, NotReady
from kvstore.node.anti_entropy import AntiEntropy
from kvstore.node.cluster_view import ClusterView
from kvstore.node.exchange import Exchange
from kvstore.node.exchange_answers import ExchangeAnswers
from kvstore.node.grace import Grace
from kvstore.node.hint_store import HintStore
from kvstore.node.key_repair import KeyRepair
from kvstore.node.pace import Pace
from kvstore.node.partition_trees import PartitionTrees
from kvstore.node.ports import Peers, Random, Storage, WallClock
from kvstore.node.reach import Reach
from kvstore.node.recovery import Recovery
from kvstore.node.repair import DEADLINE_S, Repair
from kvstore.node.replica import Replica
from kvstore.node.scrub import Scrub
from kvstore.node.tasks import Task, Tasks
from kvstore.node.tombstone_collector import REASONS, TombstoneCollector

Start = Callable[[str, Coroutine[Any, Any, None]], None]
Answer = Reply | asyncio.Future[Reply]
AsTask = Callable[[Coroutine[Any, Any, Reply]], asyncio.Future[Reply]]


POSTPONED = "tombstones_postponed_"
"""Begins the figures of attempts by the reason they failed for."""


class Figures(NamedTuple):
    """For metrics: what was done since the start; age, damage and what is pending are those of now."""

    partitions_compared: int
    partitions_different: int
    keys_sent: int
    keys_received: int
    tree_bytes: int
    state_bytes: int
    trees_built: int
    oldest_comparison_s: float
    paused_s: float
    partitions_damaged: int
    partitions_recovering: int
    scrub_passes: int
    scrub_records: int
    scrub_bytes: int
    corrupt_found: int
    corrupt_healed: int
    corrupt_unhealed: int
    tombstones_pending: int
    tombstones_collected: int
    tombstones_expired: int
    tombstones_postponed_out_of_reach: int
    tombstones_postponed_not_everywhere: int
    tombstones_postponed_not_expired: int
    tombstones_postponed_unreadable: int
    tombstones_postponed_hint: int


class Upkeep:
    """`start(name, loop)` runs a loop until the node stops."""

    def __init__(
        self,
        *,
        view: ClusterView,
        storage: Storage,
        replica: Replica,
        trees: PartitionTrees,
        pace: Pace,
        peers: Peers,
        reach: Reach,
        random: Random,
        hints: HintStore,
        grace: Grace,
        wall: WallClock,
        limits: Limits,
        start: Start,
        report: Callable[..., None],
    ) -> None:
        self._view, self._trees, self._pace, self._start = view, trees, pace, start
        self._replica, self._hints, self.tasks = replica, hints, Tasks(start)
        keys = self.keys = KeyRepair(
            view=view, trees=trees, replica=replica, peers=peers, limits=limits, grace=grace, report=report
        )
        exchange = self.exchange = Exchange(
            storage=storage,
            replica=replica,
            trees=trees,
            peers=peers,
            reach=reach,
            pace=pace,
            grace=grace,
            heal=keys.note,
        )
        anti_entropy = self.anti_entropy = AntiEntropy(
            view=view,
            trees=trees,
            exchange=exchange,
            reach=reach,
            random=random,
            limits=limits,
            report=report,
        )
        urgent = hints.on_missed = anti_entropy.urgent
        anti_entropy.on_compared = self._compared
        self.recovery = Recovery(
            storage=storage, view=view, replica=replica, trees=trees, urgent=urgent, report=report
        )
        self.answers = ExchangeAnswers(
            view=view, storage=storage, replica=replica, trees=trees, pace=pace, heal=keys.note
        )
        self.scrub = Scrub(
            storage=storage, random=random, pace=pace, limits=limits, note=keys.note, report=report
        )
        self.repair = Repair(view=view, trees=trees, anti_entropy=anti_entropy, exchange=exchange, keys=keys)
        self.tombstones = TombstoneCollector(
            view=view,
            storage=storage,
            replica=replica,
            trees=trees,
            hints=hints,
            exchange=exchange,
            grace=grace,
            reach=reach,
            pace=pace,
            wall=wall,
            random=random,
            limits=limits,
            heal=keys.note,
            report=report,
        )

    def start(self) -> None:
        self._start("trees", self._trees.run())
        self._start("anti-entropy", self.anti_entropy.run())
        self._start("key-repair", self.keys.run())
        self._start("scrub", self.scrub.run())
        self._start("tombstones", self.tombstones.run())

    def _compared(self, partition: int, peer: NodeId) -> None:
        self._hints.unmark(partition, peer)
        self.recovery.compared(partition, peer)

    def answers_to_peers(self, as_task: AsTask) -> dict[type[Request], Callable[[Any], Answer]]:
        """Handlers by message; `as_task` runs what takes longer."""
        answers, repair, tombstones = self.answers, self.repair, self.tombstones.answers
        return {
            CompareTrees: answers.compare,
            ListKeys: lambda request: as_task(answers.list(request)),
            FetchStates: lambda request: as_task(answers.fetch(request)),
            StoreStates: lambda request: as_task(answers.store(request)),
            RepairPartitions: lambda request: as_task(repair.lead(request)),
            DeliverHints: lambda request: as_task(repair.hints(request)),
            ProveTombstones: lambda request: as_task(tombstones.prove(request)),
            DropTombstones: lambda request: as_task(tombstones.drop(request)),
            Flush: lambda _: Done(),
        }

    # --- what operators ask ---------------------------------------------------------------------------

    def begin_repair(self, bucket: str, key: bytes, partition: int | None) -> Task:
        """Of one key, if there is one; else of one partition, or of all. Raises NotReady, Overloaded."""
        self._check_formed()
        if key:
            check_bucket_name(bucket)
            full = full_key(bucket, key)
            return self.tasks.begin("repair", 1, lambda task: self.repair.key(partition_of(full), full, task))
        if partition is not None and not 0 <= partition < PARTITIONS:
            raise InvalidRequest(f"partition={partition} must be a whole number from 0 to {PARTITIONS - 1}")
        wanted = range(PARTITIONS) if partition is None else (partition,)
        return self.tasks.begin(
            "repair", len(wanted), lambda task: self.repair.partitions(wanted, DEADLINE_S, task)
        )

    def begin_barrier(self, timeout_s: float) -> Task:
        """Raises NotReady, Overloaded."""
        self._check_formed()
        return self.tasks.begin("barrier", PARTITIONS, lambda task: self.repair.barrier(timeout_s, task))

    def _check_formed(self) -> None:
        if self._view.layout is None:
            raise NotReady("this node belongs to no cluster yet")

    def shown_tasks(self) -> list[dict[str, Any]]:
        """Ready for JSON: those that run and the last that ended, the newest first."""
        return self.tasks.shown()

    def status(self) -> dict[str, Any]:
        """Ready for JSON: what was compared and healed, and when each peer was last compared."""
        return {
            **self.anti_entropy.status(),
            "partitions_recovering": len(self._replica.recovering),
            "scrub": {
                "passes": self.scrub.passes,
                "records": self.scrub.records,
                "corrupt_found": self.keys.found,
                "corrupt_healed": self.keys.healed,
                "corrupt_unhealed": self.keys.unhealed,
            },
            "tombstones": {
                "passes": self.tombstones.passes,
                "pending": self.tombstones.pending,
                "collected": self.tombstones.collected,
                "expired": self.tombstones.expired,
                "postponed": {reason: self.tombstones.postponed[reason] for reason in REASONS},
            },
        }

    def figures(self) -> Figures:
        counts = self.exchange.counts
        return Figures(
            partitions_compared=counts.compared,
            partitions_different=counts.different,
            keys_sent=counts.sent,
            keys_received=counts.received,
            tree_bytes=counts.tree_bytes,
            state_bytes=counts.state_bytes,
            trees_built=self._trees.built,
            oldest_comparison_s=self.anti_entropy.oldest_s(),
            paused_s=self._pace.paused_s,
            partitions_damaged=len(self._trees.damaged),
            partitions_recovering=len(self._replica.recovering),
            scrub_passes=self.scrub.passes,
            scrub_records=self.scrub.records,
            scrub_bytes=self.scrub.read_bytes,
            corrupt_found=self.keys.found,
            corrupt_healed=self.keys.healed,
            corrupt_unhealed=self.keys.unhealed,
            tombstones_pending=self.tombstones.pending,
            tombstones_collected=self.tombstones.collected,
            tombstones_expired=self.tombstones.expired,
            **{POSTPONED + reason.replace(" ", "_"): self.tombstones.postponed[reason] for reason in REASONS},
        )
