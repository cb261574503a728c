"""Sends replicas what a read found them to lack.

Source: Dynamo §5. Who lacks what is core/read_repair.py; what fails here is left to anti-entropy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kvstore.core.membership import NodeId
from kvstore.core.message import Store, Stored
from kvstore.core.quorum import Tally
from kvstore.node.fan_out import FanOut
from kvstore.node.replica import Replica

_STORED = Stored()


class ReadRepair:
    def __init__(self, me: NodeId, replica: Replica, fan_out: Callable[[Tally], FanOut]) -> None:
        self._me, self._replica, self._fan_out = me, replica, fan_out

    async def send(
        self, partition: int, key: bytes, state: bytes, lacking: Sequence[NodeId], deadline_s: float
    ) -> None:
        await self.voted(partition, key, state, lacking, len(lacking), deadline_s)

    async def voted(
        self, partition: int, key: bytes, state: bytes, nodes: Sequence[NodeId], need: int, deadline_s: float
    ) -> FanOut:
        """A vote of each node that holds `state` durably; returns once `need` do, or cannot."""
        votes = self._fan_out(Tally(asked=len(nodes), need=need))
        for node in nodes:
            if node == self._me:
                self._replica.store(partition, key, state)
                votes.vote(node, self._replica.sync(), _STORED)
            else:
                votes.ask(node, Store(partition, key, state), deadline_s)
        await votes.decided()
        return votes
