"""How a new cluster agrees on its first layout.

When as many nodes as `bootstrap_expect` know each other, the one with the lowest id proposes the
layout that follows from them. Every one of them must promise it, on disk, and nobody promises two: so
at most one first layout ever gets all its promises. A proposer that is refused releases what it holds
and tries again after a while; one that crashed proposes again when it is back. Unanimity is no loss
here: the operator has said how many nodes there will be.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from kvstore.core.layout import Layout, first_layout
from kvstore.core.membership import Member, NodeId
from kvstore.core.message import Commit, Promised, Propose, Release
from kvstore.errors import KVStoreError
from kvstore.node.cluster_view import ClusterView
from kvstore.node.ports import Kind, Peers, Random, Storage

_PROMISE = b"first-layout-promise"
CALL_S = 2.0
PAUSE_S = 0.25


class Formation:
    """Both sides of the agreement. `expect` counts this node."""

    def __init__(
        self,
        *,
        view: ClusterView,
        storage: Storage,
        peers: Peers,
        random: Random,
        expect: int,
        report: Callable[..., None],
    ) -> None:
        self._view, self._storage, self._peers, self._random = view, storage, peers, random
        self.expect, self._report = expect, report

    async def run(self) -> None:
        """Until this node has a layout, from here or from gossip."""
        while self._view.layout is None:
            members = sorted(self._view.members.values())
            if len(members) >= self.expect and members[0].node_id == self._view.me.node_id:
                await self._propose(members[: self.expect])
            await asyncio.sleep(PAUSE_S * self._random.uniform("formation-pause", 0.5, 1.5))
        self._storage.apply([(Kind.META, 0, _PROMISE, None)])
        await self._storage.sync()

    # --- the proposer -------------------------------------------------------------------------------

    async def _propose(self, members: list[Member]) -> None:
        layout = first_layout(members)
        me = self._view.me.node_id
        others = [m.node_id for m in members if m.node_id != me]
        mine = await self.promise(Propose(layout, me))
        promises = [mine, *[await self._ask(node, Propose(layout, me)) for node in others]]
        existing = next((p.layout for p in promises if p is not None and p.layout is not None), None)
        if existing is not None:
            self._view.adopt(existing)
        elif all(p is not None and p.accepted for p in promises):
            await self.commit(layout)
            for node in others:
                await self._ask(node, Commit(layout))  # whoever misses it learns it by gossip
            self._report("cluster formed", members=len(members), cluster_id=layout.cluster_id)
        else:
            await self.release(me)
            for node in others:
                await self._ask(node, Release(me))

    async def _ask(self, node: NodeId, request: Propose | Commit | Release) -> Promised | None:
        try:
            reply = await self._peers.call(node, request, CALL_S)
        except KVStoreError as error:
            self._report("formation: no answer", node=node, reason=str(error))
            return None
        return cast(Promised, reply) if isinstance(request, Propose) else None

    # --- every member -------------------------------------------------------------------------------

    async def promise(self, proposal: Propose) -> Promised:
        """Durable before it is given. The same proposer may ask again."""
        if self._view.layout is not None:
            return Promised(False, layout=self._view.layout)
        held = self._storage.get(Kind.META, 0, _PROMISE)
        if held and held.decode() != proposal.proposer:
            return Promised(False, holder=held.decode())
        # The same proposer may ask with other members: it commits at home first, so as long as it
        # proposes it has committed nothing.
        self._storage.apply([(Kind.META, 0, _PROMISE, proposal.proposer.encode())])
        await self._storage.sync()
        return Promised(True)

    async def commit(self, layout: Layout) -> None:
        if self._view.adopt(layout):
            await self._storage.sync()

    async def release(self, proposer: NodeId) -> None:
        held = self._storage.get(Kind.META, 0, _PROMISE)
        if held and held.decode() == proposer:
            self._storage.apply([(Kind.META, 0, _PROMISE, None)])
            await self._storage.sync()
