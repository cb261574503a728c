"""The runs of nodes (core/generation.py): this one's own, and the latest that is remembered of each other.

Both are on disk: what a node remembers of another one is what tells that one, after its directory was
restored or cloned, that it has forgotten something.
"""

from __future__ import annotations

import asyncio
import json

from kvstore.core.generation import Run, remembered_next, renewed
from kvstore.core.membership import NodeId
from kvstore.node.cluster_view import ClusterView
from kvstore.node.ports import Kind, Random, Storage, Write

_RUN = b"run\0"


class Runs:
    """`mine`: this run. Nobody hears of it before `is_durable`: a start that a crash undoes is counted again,
    and the next run would meet itself as another one that was there first.
    """

    def __init__(self, storage: Storage, view: ClusterView, random: Random) -> None:
        self._storage, self._view = storage, view
        me, began = view.me, view.progress
        run = b"".join(random.bits("run", 64).to_bytes(8, "big") for _ in range(2))
        self.mine = Run(me.node_id, me.incarnation, run, began, began)
        self.is_durable = False
        self._others: dict[NodeId, Run] = {}
        for key, record in storage.scan(Kind.META, 0, _RUN):
            if not key.startswith(_RUN):
                break
            if record is not None:  # an unreadable one is forgotten: others remember, too
                found = _decoded(record)
                self._others[found.node_id] = found

    def told(self) -> tuple[Run, ...]:
        return (self.mine, *self._others.values()) if self.is_durable else tuple(self._others.values())

    def of(self, node: NodeId) -> Run | None:
        return self._others.get(node)

    def hear(self, run: Run) -> bool:
        """Remember a run of another node. True: one that was not known, to be durable before it is said so.

        Raises StorageFull.
        """
        held = self._others.get(run.node_id)
        newest = remembered_next(held, run)
        if newest == held:
            return False
        self._storage.apply([(Kind.META, 0, _RUN + run.node_id.encode(), _encoded(newest))])
        self._others[run.node_id] = newest
        return held is None or (held.incarnation, held.run) != (newest.incarnation, newest.run)

    async def advance(self) -> None:
        """One more of progress, told once it is durable: a copy taken before that is behind it.

        Raises StorageFull, StorageFailed.
        """
        progress = self.mine.progress + 1
        self._storage.apply([self._view.identified(self.mine.incarnation, progress)])
        await self._storage.sync()
        self.mine = self.mine._replace(progress=max(progress, self.mine.progress))

    def renew(self, remembered: Run) -> tuple[Run, Write]:
        """(what this run becomes when it is from the past, the record that makes it so). See `become`."""
        run = renewed(self.mine, remembered)
        return run, self._view.identified(run.incarnation, run.progress)

    def untold_until(self, synced: asyncio.Future[None]) -> None:
        self.is_durable = False
        synced.add_done_callback(self._synced)

    def _synced(self, synced: asyncio.Future[None]) -> None:
        self.is_durable = not synced.cancelled() and synced.exception() is None

    def become(self, run: Run) -> None:
        self.mine = run
        self._view.renew_incarnation(run.incarnation)


def _encoded(run: Run) -> bytes:
    return json.dumps(run._replace(run=run.run.hex())).encode()  # type: ignore[arg-type]


def _decoded(record: bytes) -> Run:
    node, incarnation, run, started, progress = json.loads(record)
    return Run(node, incarnation, bytes.fromhex(run), started, progress)
