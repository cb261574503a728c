"""Whether an answer covers what a session has seen, where a part of that may have been collected since.

A home knows every dot that its copy has made: one that its record does not cover was superseded, and the
record that said so was collected (core/tombstone.py). So a session that has seen a delete is not stale for
ever. Of a dot whose copy has given its id up since nobody can tell; then the session is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

from kvstore.core.encoding import decode_causal, decode_context
from kvstore.core.membership import NodeId
from kvstore.core.message import CopyHeld, FetchCopy
from kvstore.core.quorum import Quorum
from kvstore.core.vector_clock import EMPTY_CONTEXT, CausalContext
from kvstore.errors import KVStoreError, StaleRead
from kvstore.node.ports import Peers
from kvstore.node.replica import Replica


def covers(state: bytes, session: bytes) -> bool:
    """Whether an encoded state knows all of an encoded context."""
    return _context(state).includes(decode_context(session))


class SessionReads:
    def __init__(self, me: NodeId, replica: Replica, peers: Peers) -> None:
        self._me, self._replica, self._peers = me, replica, peers

    async def refuse_stale(
        self,
        partition: int,
        state: bytes,
        session: bytes,
        quorum: Quorum,
        answered: Sequence[NodeId],
        deadline_s: float,
    ) -> None:
        """`state`: the merge of what the homes that `answered` hold, which were asked before this.

        Raises StaleRead.
        """
        if covers(state, session):
            return
        made = await asyncio.gather(*(self._made_by(node, partition, deadline_s) for node in answered))
        known = _context(state)
        for context in made:
            known = known.join(context)
        if not known.includes(decode_context(session)):
            raise StaleRead(
                "no replica in reach has what this session has already seen",
                required=quorum.r,
                received=len(answered),
                asked=quorum.n,
                advice="send it again, or begin a new session",
            )

    async def _made_by(self, node: NodeId, partition: int, deadline_s: float) -> CausalContext:
        """All dots that the copy there has made."""
        try:
            if node == self._me:
                copy = self._replica.copy_held(partition)
            else:
                copy = cast(CopyHeld, await self._peers.call(node, FetchCopy(partition), deadline_s))
        except KVStoreError:
            return EMPTY_CONTEXT
        return CausalContext({copy.replica_id: copy.counter}) if copy.counter else EMPTY_CONTEXT


def _context(state: bytes) -> CausalContext:
    return decode_causal(state).context if state else EMPTY_CONTEXT
