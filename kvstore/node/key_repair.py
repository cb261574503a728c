"""One key at all its homes: read everywhere, merge, and store where it is lacking or unreadable.

For keys that somebody asks to repair, and for records that turn out to be unreadable. An unreadable one is
replaced only by what *all* other homes know together: less could take the place of a vote for a write that
only a home out of reach still has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

from kvstore.core.limits import Limits
from kvstore.core.membership import NodeId
from kvstore.core.message import KNOWN_BY_NOBODY, Held, Read, Reply, Store
from kvstore.core.read_repair import merged, plan_read_repair
from kvstore.errors import CorruptRecord, KVStoreError, NotReady, PeerRefused, StorageFailed
from kvstore.node.cluster_view import ClusterView
from kvstore.node.grace import Grace
from kvstore.node.partition_trees import PartitionTrees
from kvstore.node.ports import Peers
from kvstore.node.replica import Replica

WAITING_MAX = 10_000  # unreadable records that are known and not yet healed; the scrub finds the rest again


class KeyRepaired(NamedTuple):
    """`lacking`: homes that were behind; `healed`: of these, those that have it now, durably.

    `missing`: homes that did not answer. `found`: somebody has it.
    """

    found: bool
    lacking: tuple[NodeId, ...]
    healed: tuple[NodeId, ...]
    missing: tuple[NodeId, ...]


class KeyRepair:
    """`note` is told of records unreadable here, `run` heals them one by one.

    `healed` and `unhealed` count these; an unhealed one stays as it is until it is noted again.
    """

    def __init__(
        self,
        *,
        view: ClusterView,
        trees: PartitionTrees,
        replica: Replica,
        peers: Peers,
        limits: Limits,
        grace: Grace,
        report: Callable[..., None],
    ) -> None:
        self._view, self._trees, self._replica, self._peers = view, trees, replica, peers
        self._limits, self._grace, self._report = limits, grace, report
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[tuple[int, bytes], None] = {}
        self._wake: asyncio.Future[None] | None = None
        self.found = self.healed = self.unhealed = 0

    def note(self, partition: int, key: bytes) -> None:
        """A record is unreadable here, or was when a scan that is a view of the past read it."""
        if (partition, key) in self._waiting or len(self._waiting) >= WAITING_MAX:
            return
        if self._is_readable(partition, key):
            return
        self.found += 1
        self._waiting[partition, key] = None
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def run(self) -> None:
        """Until cancelled. Raises StorageFailed."""
        while True:
            while self._waiting:
                partition, key = next(iter(self._waiting))
                try:
                    healed = await self._heal(partition, key)
                except StorageFailed:
                    raise
                except KVStoreError as error:
                    healed = False
                    self._report("unreadable record", partition=partition, reason=error.detail)
                self.healed += healed
                self.unhealed += not healed
                del self._waiting[partition, key]
            self._wake = self._loop.create_future()
            await self._wake

    async def _heal(self, partition: int, key: bytes) -> bool:
        await self.repair(partition, key)
        return self._is_readable(partition, key)

    def _is_readable(self, partition: int, key: bytes) -> bool:
        try:
            self._replica.read(partition, key)
        except CorruptRecord:
            return False
        return True

    async def repair(self, partition: int, key: bytes) -> KeyRepaired:
        """Raises NotReady, StorageFull, StorageFailed."""
        epoch = self._grace.enter()
        try:
            return await self._repair(partition, key)
        finally:
            self._grace.leave(epoch)

    async def _repair(self, partition: int, key: bytes) -> KeyRepaired:
        homes = self._view.homes(partition, self._trees.n_of(key))
        me = self._view.me.node_id
        asked = [me, *(home for home in homes if home != me)]
        answers = await self._ask(asked, partition, key)
        held = [(node, state) for node, state in answers if isinstance(state, bytes)]
        unreadable = [node for node, error in answers if _is_corrupt(error)]
        missing = [node for node, error in answers if not isinstance(error, bytes) and not _is_corrupt(error)]
        state = merged(held_state for _, held_state in held)
        lacking = plan_read_repair(state, held)
        if state and not missing:
            lacking += unreadable
        if me not in homes and me not in unreadable:
            lacking = [node for node in lacking if node != me]  # it only asks for others
        healed = await self._store(lacking, partition, key, state)
        return KeyRepaired(bool(state), tuple(lacking), tuple(healed), tuple(missing))

    async def _ask(
        self, nodes: Sequence[NodeId], partition: int, key: bytes
    ) -> list[tuple[NodeId, bytes | BaseException]]:
        """(node, state or what went wrong), in the order of `nodes`; this node is the first."""
        mine: bytes | BaseException
        try:
            mine = self._replica.witness(partition, key)
        except (CorruptRecord, NotReady) as error:
            mine = error
        read = Read(partition, key, KNOWN_BY_NOBODY)
        replies = await asyncio.gather(
            *(self._call(node, read) for node in nodes[1:]), return_exceptions=True
        )
        theirs = [reply.state if isinstance(reply, Held) else reply for reply in replies]
        return list(zip(nodes, [mine, *cast(list[bytes | BaseException], theirs)], strict=True))

    async def _store(self, nodes: Sequence[NodeId], partition: int, key: bytes, state: bytes) -> list[NodeId]:
        """Those that have it durably."""
        me = self._view.me.node_id
        nodes = sorted(nodes, key=lambda node: node != me)  # what fails here fails before anything is sent
        calls: list[asyncio.Future[Reply] | asyncio.Future[None]] = []
        for node in nodes:
            if node == me:
                self._replica.store(partition, key, state)
                calls.append(self._replica.sync())
            else:
                calls.append(self._call(node, Store(partition, key, state)))
        results = await asyncio.gather(*calls, return_exceptions=True)
        for result in results:
            if isinstance(result, StorageFailed):
                raise result
        return [
            node for node, result in zip(nodes, results, strict=True) if not isinstance(result, BaseException)
        ]

    def _call(self, node: NodeId, request: Read | Store) -> asyncio.Future[Reply]:
        return self._peers.call(node, request, self._limits.request_timeout_s, background=True)


def _is_corrupt(answer: bytes | BaseException) -> bool:
    if isinstance(answer, PeerRefused):
        return answer.code == "CorruptRecord"
    return isinstance(answer, CorruptRecord)
