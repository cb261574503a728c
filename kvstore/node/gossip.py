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

from kvstore.core.generation import Run, is_from_the_past
from kvstore.core.gossip_message import Gossip, Gossiped
from kvstore.core.membership import Member
from kvstore.core.message import (
    ClusterState,
    FetchCluster,
    Reply,
)
from kvstore.errors import KVStoreError, PeerError, PeerRefused, StorageFull
from kvstore.node.bucket_registry import BucketRegistry
from kvstore.node.cluster_view import ClusterView
from kvstore.node.ports import Peers, Random, Storage, WallClock
from kvstore.node.reach import Reach
from kvstore.node.runs import Runs

ROUND_S = 0.5
CALL_S = 1.0


class GossipLoop:
    """`drift_ms[node]`: the peer's wall clock minus ours as last heard, within a round trip.

    `on_past(run)`: somebody remembers a run of this node that it does not come from: its disk is an old
    copy, or a clone of one that runs elsewhere. `recognized`: whether this node serves.
    """

    def __init__(
        self,
        *,
        view: ClusterView,
        runs: Runs,
        buckets: BucketRegistry,
        storage: Storage,
        peers: Peers,
        reach: Reach,
        wall: WallClock,
        random: Random,
        seeds: tuple[str, ...],
        on_past: Callable[[Run], None],
        report: Callable[..., None],
        drift_warn_s: float,
    ) -> None:
        self._runs, self._storage = runs, storage
        self._view, self._buckets, self._peers, self._reach = view, buckets, peers, reach
        self._wall, self._random, self._seeds = wall, random, seeds
        self._on_past, self._report = on_past, report
        self.recognized = False
        self.drift_ms: dict[str, int] = {}
        self._drifting: set[str] = set()
        self._drift_warn_ms = drift_warn_s * 1000

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
                    await self._talk(self._peers.call_address(address, self.mine(), CALL_S))
            return
        node = others[int(self._random.uniform("gossip-peer", 0, len(others)))]
        self._reach.asked(node)  # whatever its breaker says: this is how a peer that is back is found
        try:
            await self._talk(self._peers.call(node, self.mine(), CALL_S, background=True))
        except PeerRefused:
            self._reach.succeeded(node)
        except PeerError as error:
            # An idle node learns here, not from its next client, that a peer is gone.
            self._reach.failed(node, hard=not error.sent)
        else:
            self._reach.succeeded(node)

    def hear(self, gossip: Gossip) -> Gossiped | asyncio.Future[Gossiped]:
        """The other side of a round: at once, or when what is new of the sender's run is durable here."""
        if not self.learn(gossip) and gossip.recognized:
            return Gossiped(*self.mine())
        return asyncio.get_running_loop().create_task(self._remembered())

    async def _remembered(self) -> Gossiped:
        await self._storage.sync()
        return Gossiped(*self.mine())

    def mine(self) -> Gossip:
        """What this node says of itself and of the others."""
        view = self._view
        version = view.layout.version if view.layout else 0
        members = tuple(view.members.values())
        serves = self.recognized or view.layout is None
        runs, digest = self._runs.told(), self._buckets.digest
        return Gossip(view.me, members, version, digest, self._wall.now_ms(), runs, serves)

    async def _talk(self, call: asyncio.Future[Reply]) -> None:
        answer = cast(Gossiped, await call)
        self.learn(answer)
        layout = self._view.layout
        behind = answer.layout_version > (layout.version if layout else 0)
        if behind or answer.buckets_digest != self._buckets.digest:
            await self._catch_up(answer.sender.node_id)

    def learn(self, heard: Gossip | Gossiped) -> bool:
        """True: of a run of the sender that was not known."""
        view, sender = self._view, heard.sender
        known = (sender, *heard.members) if heard.recognized else heard.members
        news = False
        for run in heard.runs:
            if run.node_id == view.me.node_id:
                if is_from_the_past(self._runs.mine, run):
                    self._on_past(run)
            else:
                with suppress(StorageFull):  # then it is not remembered, and whoever asks sees that
                    news |= self._runs.hear(run) and run.node_id == sender.node_id
        for member in known:
            if member.node_id == view.me.node_id and member.incarnation > view.me.incarnation:
                self._on_past(Run(member.node_id, member.incarnation, b""))
        self._note_drift(sender, heard.wall_ms - self._wall.now_ms())
        view.merge(known)
        return news

    def _note_drift(self, sender: Member, drift_ms: int) -> None:
        """Reported when it begins, and again only after it was less than half of that."""
        node = sender.node_id
        self.drift_ms[node] = drift_ms
        if abs(drift_ms) > self._drift_warn_ms:
            if node not in self._drifting:
                self._drifting.add(node)
                self._report(
                    "clocks differ",
                    peer=sender.name,
                    drift_s=drift_ms / 1000,
                    advice="set both clocks by NTP: last-write-wins buckets and expiry go by them",
                )
        elif abs(drift_ms) * 2 < self._drift_warn_ms:
            self._drifting.discard(node)

    async def _catch_up(self, node: str) -> None:
        """Fetch what the other side has; a bucket digest that differs may mean that *it* is behind."""
        state = cast(ClusterState, await self._peers.call(node, FetchCluster(), CALL_S, background=True))
        if state.layout is not None:
            self._view.adopt(state.layout)
        self._buckets.merge(state.buckets)
