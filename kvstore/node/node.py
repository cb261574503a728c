"""One node: owns the parts, their loops and their tasks; starts, drains and stops them.

Everything a client or a peer can ask of a node enters here. The node knows its ports only, so that it
runs the same over RocksDB and TCP and in a simulated world.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any

from kvstore.core.bucket import BucketProperties, check_bucket_name
from kvstore.core.encoding import digest
from kvstore.core.gossip_message import Gossip
from kvstore.core.limits import Limits
from kvstore.core.membership import NodeId
from kvstore.core.message import (
    BucketHeld,
    ClusterState,
    Commit,
    Done,
    FetchBucket,
    FetchCluster,
    FetchCopy,
    Get,
    Got,
    Held,
    Propose,
    Put,
    Read,
    Release,
    Reply,
    Request,
    Scan,
    Store,
    StoreBucket,
    Stored,
    Written,
)
from kvstore.core.outcome import AskOutcome, OutcomeTold
from kvstore.core.ring import full_key, partition_of
from kvstore.errors import InvalidRequest, KVStoreError, StorageError, StorageFailed
from kvstore.node.background import Background
from kvstore.node.bucket_changes import BucketChanges
from kvstore.node.bucket_registry import BucketRegistry
from kvstore.node.cluster_view import ClusterView
from kvstore.node.coordinator import Coordinator
from kvstore.node.explain import Explainer
from kvstore.node.formation import Formation
from kvstore.node.gossip import GossipLoop
from kvstore.node.grace import Grace
from kvstore.node.hinting import Hinting, too_far_ahead
from kvstore.node.hybrid_time import HybridTime
from kvstore.node.outcomes import Outcomes
from kvstore.node.pace import Pace
from kvstore.node.partition_trees import PartitionTrees
from kvstore.node.peer_latency import PeerLatency
from kvstore.node.ports import Peers, Random, Storage, WallClock
from kvstore.node.reach import Reach
from kvstore.node.recognition import Answer, Recognition, before_recognition, not_recognized, starting
from kvstore.node.replica import Replica
from kvstore.node.runs import Runs
from kvstore.node.scan import Page, Scanner, scan_here
from kvstore.node.slices import Slices
from kvstore.node.upkeep import Upkeep

_STORED = Stored()
_SAME = Held(True)


class Node:
    """`view` is open: it knows who this node is.

    `fatal` is called once when the disk can no longer be trusted: stop the process. `report` takes an
    event and its fields, for the log.
    """

    def __init__(
        self,
        *,
        storage: Storage,
        peers: Peers,
        wall: WallClock,
        random: Random,
        view: ClusterView,
        signing_key: bytes,
        defaults: BucketProperties,
        limits: Limits,
        seeds: tuple[str, ...] = (),
        bootstrap_expect: int = 1,
        fatal: Callable[[KVStoreError], None],
        report: Callable[..., None],
    ) -> None:
        self._storage, self._peers, self.wall, self._report = storage, peers, wall, report
        self.limits, self.signing_key, self._fatal = limits, signing_key, fatal
        self._loop = asyncio.get_running_loop()
        self.background = Background(self.fail, report)
        self._stopping = False
        self.view, self.name_of = view, view.name_of
        self.runs = Runs(storage, view, random)
        self.registry = BucketRegistry(storage, defaults)
        self.registry.start()
        self.time = HybridTime(wall, limits.clock_skew_max_s)
        self.pace, self.grace = Pace(limits), Grace(self._loop)
        self.reach = Reach(self._loop, PeerLatency(wall.elapsed_s, limits))
        self.slices = Slices()
        self.trees = PartitionTrees(storage, self.registry, self.pace, report)
        self.replica = Replica(storage, random, self.time, limits, self._sync_failed, self.trees)
        self.hinting = Hinting(
            view=self.view,
            buckets=self.registry,
            replica=self.replica,
            storage=storage,
            peers=peers,
            reach=self.reach,
            wall=wall,
            random=random,
            time=self.time,
            limits=limits,
            grace=self.grace,
            report=report,
        )
        self.coordinator = Coordinator(
            view=self.view,
            buckets=self.registry,
            replica=self.replica,
            peers=peers,
            reach=self.reach,
            stand_ins=self.hinting.stand_ins,
            wall=wall,
            limits=limits,
            grace=self.grace,
            spawn=self.background.spawn,
        )
        self._wait_for_clients()
        kept = self.hinting.kept
        self._explainer = Explainer(view, self.registry, self.replica, kept, peers, self.reach, limits, wall)
        self._meet(random, seeds, bootstrap_expect)
        self.upkeep = self._made_upkeep(random)
        self._remember(random)
        self.upkeep.repair.deliver_hints = self.hinting.handoff.deliver
        self._answers = self._answers_to_peers()
        self._handlers = before_recognition(self._answers)

    def _wait_for_clients(self) -> None:
        """The parts that answer them, beside the coordinator; nobody is served before `_recognized`."""
        self.get: Callable[[Get], Coroutine[Any, Any, Got]] = not_recognized
        self.put: Callable[[Put], Coroutine[Any, Any, Written]] = not_recognized
        self.outcome: Callable[[AskOutcome], Coroutine[Any, Any, OutcomeTold]] = not_recognized
        self._outcomes = Outcomes(
            view=self.view,
            buckets=self.registry,
            replica=self.replica,
            stand_ins=self.hinting.stand_ins,
            fan_out=self.coordinator.fan_out,
            limits=self.limits,
            grace=self.grace,
            now=self.wall.elapsed_s,
        )
        self._scanner = Scanner(
            view=self.view,
            buckets=self.registry,
            storage=self._storage,
            replica=self.replica,
            peers=self._peers,
            reach=self.reach,
            limits=self.limits,
            slices=self.slices,
        )
        self._bucket_changes = BucketChanges(
            view=self.view,
            buckets=self.registry,
            storage=self._storage,
            fan_out=self.coordinator.fan_out,
            limits=self.limits,
        )

    def _meet(self, random: Random, seeds: tuple[str, ...], expect: int) -> None:
        """The parts that find the other nodes."""
        self.gossip = GossipLoop(
            view=self.view,
            runs=self.runs,
            buckets=self.registry,
            storage=self._storage,
            peers=self._peers,
            reach=self.reach,
            wall=self.wall,
            random=random,
            seeds=seeds,
            on_past=lambda run: self.recognition.from_the_past(run),
            report=self._report,
            drift_warn_s=self.limits.clock_drift_warn_s,
        )
        self._formation = Formation(
            view=self.view,
            storage=self._storage,
            peers=self._peers,
            random=random,
            expect=expect,
            report=self._report,
        )

    def _made_upkeep(self, random: Random) -> Upkeep:
        return Upkeep(
            view=self.view,
            storage=self._storage,
            replica=self.replica,
            trees=self.trees,
            pace=self.pace,
            peers=self._peers,
            reach=self.reach,
            random=random,
            hints=self.hinting.kept,
            grace=self.grace,
            wall=self.wall,
            limits=self.limits,
            start=self.background.start_loop,
            report=self._report,
        )

    def _remember(self, random: Random) -> None:
        """The part that finds out what this directory has forgotten."""
        kept = self.hinting.kept
        self.recognition = Recognition(
            view=self.view,
            runs=self.runs,
            gossip=self.gossip,
            storage=self._storage,
            replica=self.replica,
            recovery=self.upkeep.recovery,
            peers=self._peers,
            random=random,
            changes=lambda: (self.replica.changes, kept.bytes, kept.delivered),
            on_recognized=self._recognized,
            fatal=self.fail,
            report=self._report,
        )

    def _answers_to_peers(self) -> dict[type[Request], Answer]:
        forming = self._formation
        return {
            Read: self._read,
            Store: self._store,
            Get: lambda request: self._as_task(self.get(request)),
            Put: lambda request: self._as_task(self.put(request)),
            Scan: lambda request: self.background.answer(
                scan_here(self._storage, self.replica, request, self.limits, self.slices)
            ),
            Gossip: self.gossip.hear,
            FetchCluster: lambda _: ClusterState(self.view.layout, self.registry.records()),
            Propose: lambda request: self._as_task(forming.promise(request)),
            Commit: lambda request: self._as_task(self._done(forming.commit(request.layout))),
            Release: lambda request: self._as_task(self._done(forming.release(request.proposer))),
            StoreBucket: self._store_bucket,
            FetchBucket: lambda request: BucketHeld(self.registry.record(request.name)),
            FetchCopy: lambda request: self.replica.copy_held(request.partition),
            **self.hinting.answers_to_peers(),
            **self.upkeep.answers_to_peers(self.background.answer),
        }

    # --- life -----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Storage is open, the peer server listens. Returns soon; `readiness` tells the rest."""
        self.replica.start()
        await self._storage.sync()
        self.runs.is_durable = True
        self.view.on_members = self._introduce
        self._introduce()
        if self.recognition.recognized:
            await self._recognized()
        self.background.start_loop("gossip", self.gossip.run())
        self.background.start_loop("recognition", self.recognition.run())
        if self.view.layout is None and not self.replica.recovering:
            self.background.start_loop("formation", self._formation.run())

    async def _recognized(self) -> None:
        """From now on this node serves, and what it holds is known to be its newest."""
        await self.hinting.kept.start()
        for partition, target in self.hinting.kept.marks():
            self.upkeep.anti_entropy.urgent(partition, target)
        if self.replica.recovering:
            self.upkeep.recovery.ask()
        self.background.start_loop("handoff", self.hinting.handoff.run())
        self.upkeep.start()
        self._handlers = self._answers
        self.get, self.put = self.coordinator.get, self.coordinator.put
        self.outcome = self._outcomes.told

    def _introduce(self) -> None:
        """Where every member is to be found."""
        for member in self.view.members.values():
            if member.node_id != self.node_id:
                self._peers.learn(member.node_id, member.rpc_address)

    async def stop(self) -> None:
        """No new work, the loops end, what is applied is synced by closing the storage."""
        self._stopping = True
        await self.background.stop()
        with suppress(StorageError):  # then the stop is not clean, and the ids are given up
            self.replica.stop()
        await self._storage.close()

    def drain(self) -> None:
        """From now on not ready: clients and balancers go elsewhere, requests are still served."""
        self._stopping = True

    def fail(self, error: KVStoreError) -> None:
        """The disk can no longer be trusted."""
        if not self._stopping:
            self._stopping = True
            self._fatal(error)

    # --- what clients ask -----------------------------------------------------------------------------

    @property
    def node_id(self) -> NodeId:
        return self.view.me.node_id

    @property
    def name(self) -> str:
        return self.view.me.name

    async def scan(
        self,
        bucket: str,
        *,
        prefix: bytes,
        after: bytes,
        limit: int,
        values: bool,
        r: int | None,
        timeout_s: float,
    ) -> Page:
        if not self.recognition.recognized:
            raise starting()
        return await self._scanner.page(
            bucket, prefix=prefix, after=after, limit=limit, values=values, r=r, timeout_s=timeout_s
        )

    def bucket(self, name: str) -> tuple[BucketProperties, bool]:
        """Effective properties, and whether somebody set them."""
        return self.registry.properties(name), self.registry.record(name) is not None

    def buckets(self) -> dict[str, BucketProperties]:
        return self.registry.named()

    async def set_bucket(self, name: str, values: Mapping[str, Any]) -> BucketProperties:
        """Durable on a majority of the members before it returns. Raises QuorumNotMet, InvalidRequest."""
        return await self._bucket_changes.set(name, values)

    # --- what operators ask ---------------------------------------------------------------------------

    async def explain(self, bucket: str, key: bytes) -> dict[str, Any]:
        check_bucket_name(bucket)
        return await self._explainer.explain(bucket, key)

    def cluster(self) -> dict[str, Any]:
        return self._explainer.cluster(self.gossip.drift_ms)

    def peers(self) -> dict[str, Any]:
        return self._explainer.peers(self.coordinator.hedges, self.coordinator.forwarding.hedges)

    def keeps(self, bucket: str, key: bytes) -> bool:
        """Raises NotReady."""
        n = self.registry.properties(bucket).n
        return self.node_id in self.view.homes(partition_of(full_key(bucket, key)), n)

    def clocks(self) -> tuple[dict[str, int], int]:
        return {self.name_of(n): ms for n, ms in self.gossip.drift_ms.items()}, self.time.refused

    def layout(self) -> dict[str, Any] | None:
        return self._explainer.layout()

    def pending_hints(self) -> dict[str, Any]:
        """What this node keeps for others."""
        return self.hinting.describe()

    def readiness(self) -> list[tuple[str, bool, str]]:
        """(check, holds, what it says)."""
        layout = self.view.layout
        known, expect = len(self.view.members), self._formation.expect
        if layout is None:
            formed = f"waiting for the first layout: {known} of {expect} expected nodes seen"
        else:
            formed = f"version {layout.version}, {len(layout.members)} members"
        return [
            ("layout", layout is not None, formed),
            ("recognition", *self.recognition.told()),
            ("serving", not self._stopping, "stopping" if self._stopping else "ready"),
        ]

    # --- what peers ask -------------------------------------------------------------------------------

    def serve(
        self, sender: NodeId, request: Request, deadline_s: float
    ) -> Reply | asyncio.Future[Reply] | asyncio.Future[None]:
        """Answer a peer, at once or later; a future of None stands for the reply without fields.

        Raises KVStoreError.
        """
        try:
            return self._handlers[type(request)](request)
        except OverflowError:  # storage has no place for such a partition; a look at each would cost more
            raise InvalidRequest("it names a partition that there is not") from None

    def _read(self, request: Read) -> Held:
        state = self.replica.witness(request.partition, request.key)
        if digest(state) == request.known:
            return _SAME
        return Held(False, state)

    def _store(self, request: Store) -> Reply | asyncio.Future[None]:
        partition, key, state, sync, hlc_time, base, writer = request
        if hlc_time and not self.time.seen(hlc_time):
            raise too_far_ahead(hlc_time, self.wall.now_ms())
        self.replica.store(partition, key, state, base, writer)
        return self.replica.sync() if sync else _STORED

    def _sync_failed(self, error: BaseException) -> None:
        if isinstance(error, StorageFailed):
            self.fail(error)

    def _store_bucket(self, request: StoreBucket) -> asyncio.Future[Reply]:
        self.registry.merge([request.record])
        return self._as_task(self._done(self._storage.sync()))

    async def _done(self, work: Awaitable[None]) -> Done:
        await work
        return Done()

    def _as_task(self, work: Coroutine[Any, Any, Reply]) -> asyncio.Future[Reply]:
        return self._loop.create_task(work)
