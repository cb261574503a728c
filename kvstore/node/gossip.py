"""How members learn of each other, and of newer layouts and bucket properties.

Each round this node tells one other, picked at random, whom it knows and which versions it has; the
answer is the same of the other side. Whoever is behind fetches. Liveness is no part of it: down never
means removed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import cast

from kvstore.core.message import ClusterState, FetchCluster, Gossip, Gossiped, Reply
from kvstore.errors import KVStoreError, PeerError, PeerRefused
from kvstore.node.bucket_registry import BucketRegistry
from kvstore.node.cluster_view import ClusterView
from kvstore.node.ports import Peers, Random, WallClock
from kvstore.node.reach import Reach

ROUND_S = 0.5
CALL_S = 1.0


class GossipLoop:
    """`drift_ms[node]`: the peer's wall clock minus ours as last heard, within a round trip.

    `on_twin(incarnation)`: somebody remembers a start of this node that it does not; its disk is an
    old copy, or a clone of one that runs elsewhere.
    """

    def __init__(
        self,
        *,
        view: ClusterView,
        buckets: BucketRegistry,
        peers: Peers,
        reach: Reach,
        wall: WallClock,
        random: Random,
        seeds: tuple[str, ...],
        on_twin: Callable[[int], None],
        report: Callable[..., None],
    ) -> None:
        self._view, self._buckets, self._peers, self._reach = view, buckets, peers, reach
        self._wall, self._random, self._seeds = wall, random, seeds
        self._on_twin, self._report = on_twin, report
        self.drift_ms: dict[str, int] = {}

    async def run(self) -> None:
        """One round after the other until cancelled."""
        while True:
            try:
                await self.round()
            except KVStoreError as error:
                self._report("gossip failed", reason=str(error))
            await asyncio.sleep(ROUND_S * self._random.uniform("gossip-pause", 0.5, 1.5))

    async def round(self) -> None:
        """Talk to one member, or to every seed while nobody else is known."""
        others = sorted(self._view.members.keys() - {self._view.me.node_id})
        if not others:
            for address in self._seeds:
                with suppress(PeerError):  # the adapter reports what is wrong with an address
                    await self._talk(self._peers.call_address(address, self._mine(), CALL_S))
            return
        node = others[int(self._random.uniform("gossip-peer", 0, len(others)))]
        self._reach.asked(node)  # whatever its breaker says: this is how a peer that is back is found
        try:
            await self._talk(self._peers.call(node, self._mine(), CALL_S, background=True))
        except PeerRefused:
            self._reach.succeeded(node)
        except PeerError as error:
            # An idle node learns here, not from its next client, that a peer is gone.
            self._reach.failed(node, hard=not error.sent)
        else:
            self._reach.succeeded(node)

    def hear(self, gossip: Gossip) -> Gossiped:
        """The other side of a round."""
        self._learn(gossip)
        return Gossiped(*self._mine())

    def _mine(self) -> Gossip:
        view = self._view
        version = view.layout.version if view.layout else 0
        members = tuple(view.members.values())
        return Gossip(view.me, members, version, self._buckets.digest, self._wall.now_ms())

    async def _talk(self, call: asyncio.Future[Reply]) -> None:
        answer = cast(Gossiped, await call)
        self._learn(answer)
        layout = self._view.layout
        behind = answer.layout_version > (layout.version if layout else 0)
        if behind or answer.buckets_digest != self._buckets.digest:
            await self._catch_up(answer.sender.node_id)

    def _learn(self, heard: Gossip | Gossiped) -> None:
        me = self._view.me
        for member in (heard.sender, *heard.members):
            if member.node_id == me.node_id and member.incarnation > me.incarnation:
                self._on_twin(member.incarnation)
        self.drift_ms[heard.sender.node_id] = heard.wall_ms - self._wall.now_ms()
        self._view.merge((heard.sender, *heard.members))

    async def _catch_up(self, node: str) -> None:
        """Fetch what the other side has; a bucket digest that differs may mean that *it* is behind."""
        state = cast(ClusterState, await self._peers.call(node, FetchCluster(), CALL_S, background=True))
        if state.layout is not None:
            self._view.adopt(state.layout)
        self._buckets.merge(state.buckets)
