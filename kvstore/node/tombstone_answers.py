"""What a member says about tombstones that another one wants to collect, and the dropping of its own.

Looking comes first, waiting after it: what this node had begun before it looked has ended when it answers,
and what it begins afterwards finds nothing older than it has looked at. What was sent is before a `Flush` on
the same link, and a node that has answered that one has read it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from kvstore.core.encoding import digest
from kvstore.core.limits import Limits
from kvstore.core.ring import PARTITIONS
from kvstore.core.tombstone import Answer, shows_nothing
from kvstore.core.upkeep_message import (
    DropTombstones,
    Flush,
    ProveTombstones,
    TombstonesDropped,
    TombstonesProven,
)
from kvstore.errors import CorruptRecord, InvalidRequest, NotReady, StorageFull
from kvstore.node.cluster_view import ClusterView
from kvstore.node.exchange import Exchange
from kvstore.node.grace import Grace
from kvstore.node.hint_store import HintStore
from kvstore.node.pace import RECORDS_AT_ONCE, Pace
from kvstore.node.ports import WallClock
from kvstore.node.replica import Replica

GRACE_S = 10.0
FLUSH_S = 3.0

Item = tuple[int, bytes, bytes]
"""(partition, key, digest of the state)."""


class TombstoneAnswers:
    def __init__(
        self,
        *,
        view: ClusterView,
        replica: Replica,
        hints: HintStore,
        exchange: Exchange,
        grace: Grace,
        pace: Pace,
        wall: WallClock,
        limits: Limits,
    ) -> None:
        self._view, self._replica, self._hints, self._exchange = view, replica, hints, exchange
        self._grace, self._pace, self._wall = grace, pace, wall
        self.skew_ms = int(limits.clock_skew_max_s * 1000)

    async def prove(self, request: ProveTombstones) -> TombstonesProven:
        """Raises NotReady, StorageFailed, PeerError for a member that does not answer a Flush."""
        answers = bytearray()
        await self._paced(request.items, lambda item: answers.append(self.look(*item)))
        await self._replica.sync()
        if not await self._grace.passed(GRACE_S):
            raise NotReady("states that were read before are still being sent")
        me = self._view.me.node_id
        others = sorted(node for node in self._view.members if node != me)
        await asyncio.gather(*(self._exchange.call(node, Flush(), FLUSH_S) for node in others))
        return TombstonesProven(bytes(answers))

    def look(self, partition: int, key: bytes, expected: bytes) -> Answer:
        """What is here of the key now; its durability is not looked at."""
        if self._hints.held(partition, key)[1]:
            return Answer.HINTED
        if self._hints.is_marked(partition):
            return Answer.MARKED
        try:
            held = self._replica.read(partition, key)
            if not held:
                return Answer.ABSENT
            if digest(held) != expected:
                return Answer.DIFFERENT
            return Answer.HELD if self.is_over(held) else Answer.ALIVE
        except CorruptRecord:
            return Answer.UNREADABLE

    def is_over(self, state: bytes) -> bool:
        """Nothing in it but tombstones, and values that have expired by any clock. Raises CorruptRecord."""
        return shows_nothing(state, self._wall.now_ms(), self.skew_ms)

    async def drop(self, request: DropTombstones) -> TombstonesDropped:
        """Raises NotReady, StorageFailed."""
        dropped = bytearray()
        await self._paced(request.items, lambda item: dropped.append(self._drop(*item)))
        await self._replica.sync()
        return TombstonesDropped(bytes(dropped))

    def _drop(self, partition: int, key: bytes, expected: bytes) -> bool:
        try:
            return self._replica.drop(partition, key, expected, self.is_over)
        except (CorruptRecord, StorageFull):
            return False

    async def _paced(self, items: tuple[Item, ...], each: Callable[[Item], None]) -> None:
        for start in range(0, len(items), RECORDS_AT_ONCE):
            part = items[start : start + RECORDS_AT_ONCE]
            for item in part:
                if not 0 <= item[0] < PARTITIONS:
                    raise InvalidRequest(f"there is no partition {item[0]}")
                each(item)
            await self._pace.read(len(part))
