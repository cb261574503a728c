"""All that a node does about hints, put together: keeps them, answers for them, brings them home."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

from kvstore.core.hybrid_clock import wall_ms_of
from kvstore.core.limits import Limits
from kvstore.core.message import FetchHints, HintsHeld, Reply, Request, Stored, StoreHint
from kvstore.core.ring import PARTITIONS
from kvstore.errors import InvalidRequest
from kvstore.node.bucket_registry import BucketRegistry
from kvstore.node.cluster_view import ClusterView
from kvstore.node.grace import Grace
from kvstore.node.hint_store import HintStore
from kvstore.node.hinted_handoff import HintedHandoff
from kvstore.node.hybrid_time import HybridTime
from kvstore.node.ports import Peers, Random, Storage, WallClock
from kvstore.node.reach import Reach
from kvstore.node.replica import Replica
from kvstore.node.stand_ins import StandIns

_STORED = Stored()
_NODE_ID = re.compile("[0-9a-f]{32}")


class Hinting:
    """`kept`: the hints here. `handoff`: the loop that delivers them. `stand_ins`: for the coordinator."""

    def __init__(
        self,
        *,
        view: ClusterView,
        buckets: BucketRegistry,
        replica: Replica,
        storage: Storage,
        peers: Peers,
        reach: Reach,
        wall: WallClock,
        random: Random,
        time: HybridTime,
        limits: Limits,
        grace: Grace,
        report: Callable[..., None],
    ) -> None:
        self._me, self._replica, self._wall, self._time = view.me.node_id, replica, wall, time
        self._loop = asyncio.get_running_loop()
        self.kept = HintStore(storage, wall, limits)
        self.handoff = HintedHandoff(
            view=view,
            buckets=buckets,
            hints=self.kept,
            replica=replica,
            peers=peers,
            reach=reach,
            random=random,
            limits=limits,
            grace=grace,
            report=report,
        )
        self.stand_ins = StandIns(
            view=view,
            hints=self.kept,
            reach=reach,
            random=random,
            time=time,
            limits=limits,
            now=wall.elapsed_s,
        )

    def describe(self) -> dict[str, Any]:
        """What is pending, ready for JSON."""
        return self.handoff.describe(self._wall.now_ms())

    # --- what peers ask -----------------------------------------------------------------------------

    def answers_to_peers(self) -> dict[type[Request], Callable[[Any], Reply | asyncio.Future[Any]]]:
        """Handlers by message."""
        return {StoreHint: self.store, FetchHints: self.fetch}

    def store(self, request: StoreHint) -> Reply | asyncio.Future[Any]:
        """Keep a state for another node; the answer comes once it is durable, later if room gets scarce.

        Raises what HintStore.keep raises, and InvalidRequest for a time too far ahead.
        """
        partition, key, state, target, sync, hlc_time = request
        if not 0 <= partition < PARTITIONS or not _NODE_ID.fullmatch(target):
            raise InvalidRequest(f"no partition {partition}, or no node {target[:64]!r}")
        if hlc_time and not self._time.seen(hlc_time):
            raise too_far_ahead(hlc_time, self._wall.now_ms())
        if target == self._me:  # the sender's layout is another one
            self._replica.store(partition, key, state)
        else:
            self.kept.keep(partition, key, target, state, hlc_time)
            delay_s = self.kept.delay_s()
            if delay_s:
                return self._loop.create_task(self._later(delay_s, sync=sync))
        return self._replica.sync() if sync else _STORED

    async def _later(self, delay_s: float, *, sync: bool) -> Stored:
        await asyncio.sleep(delay_s)
        if sync:
            await self._replica.sync()
        return _STORED

    def fetch(self, request: FetchHints) -> Reply | asyncio.Future[Any]:
        held = HintsHeld(
            *self.kept.held(request.partition, request.key), marked=self.kept.is_marked(request.partition)
        )
        return self._loop.create_task(self._durably(held)) if request.durable else held

    async def _durably(self, held: HintsHeld) -> HintsHeld:
        await self._replica.sync()
        return held


def too_far_ahead(hlc_time: int, now_ms: int) -> InvalidRequest:
    ahead_ms = wall_ms_of(hlc_time) - now_ms
    return InvalidRequest(f"the write's time is {ahead_ms} ms ahead of this node's clock: clock skew")
