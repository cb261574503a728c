"""Ask many, keep the answers in order of arrival, stop when it is decided.

One future per request, not per replica; no task and no timer: each call ends by its own deadline.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from kvstore.core.membership import NodeId
from kvstore.core.message import Reply, Request
from kvstore.core.quorum import Outcome, Tally
from kvstore.errors import KVStoreError, PeerError, PeerRefused, PeerTimeout
from kvstore.node.ports import Peers
from kvstore.node.reach import Reach


class FanOut:
    """The votes of one request. `answers` and `failures` go on growing after it is decided.

    `instead` may name one more replica to ask when one failed; None when there is nobody left.
    """

    __slots__ = (
        "_decided",
        "_instead",
        "_loop",
        "_now",
        "_peers",
        "_reach",
        "answers",
        "failures",
        "started_s",
        "tally",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        peers: Peers,
        reach: Reach,
        now: Callable[[], float],
        tally: Tally,
        instead: Callable[[], NodeId | None] | None = None,
    ) -> None:
        self._loop, self._peers, self._reach, self._now, self.tally = loop, peers, reach, now, tally
        self._instead = instead
        self._decided: asyncio.Future[None] | None = None
        self.answers: list[tuple[NodeId, Reply, float]] = []
        self.failures: list[tuple[NodeId, KVStoreError, float]] = []
        self.started_s = now()

    def ask(self, node: NodeId, request: Request, deadline_s: float) -> None:
        """One vote of the tally's `asked` is this node's."""
        self._reach.asked(node)
        call = self._peers.call(node, request, deadline_s)
        call.add_done_callback(partial(self._arrived, node, request, deadline_s))

    def vote(self, node: NodeId, durable: asyncio.Future[None], answer: Reply) -> None:
        """This node's own vote: `answer` once `durable` is done."""
        durable.add_done_callback(partial(self._own, node, answer))

    def vote_now(self, node: NodeId, answer: Reply) -> None:
        """This node's own vote, given without waiting for the disk."""
        self.answers.append((node, answer, self._now() - self.started_s))
        self._count(ack=True)

    async def decided(self) -> Outcome:
        """MET or LOST, never PENDING; returns at once if it is decided already."""
        if self.tally.outcome is Outcome.PENDING:
            self._decided = self._loop.create_future()
            await self._decided
        return self.tally.outcome

    def _own(self, node: NodeId, answer: Reply, durable: asyncio.Future[None]) -> None:
        error = durable.exception()
        if error is None:
            self.vote_now(node, answer)
        else:
            self._refused(node, error)
            self._count(ack=False)

    def _arrived(
        self, node: NodeId, request: Request, deadline_s: float, call: asyncio.Future[Reply]
    ) -> None:
        error: BaseException | None = PeerTimeout("cancelled") if call.cancelled() else call.exception()
        if error is None:
            self._reach.succeeded(node)
            self.answers.append((node, call.result(), self._now() - self.started_s))
            self._count(ack=True)
            return
        if isinstance(error, PeerRefused):
            self._reach.succeeded(node)  # it answers; what it answers is its vote
        else:
            self._reach.failed(node, hard=isinstance(error, PeerError) and not error.sent)
        self._refused(node, error)
        if self._instead is not None and self.tally.outcome is Outcome.PENDING:
            another = self._instead()
            if another is not None:
                self.tally.ask_one_more(primary=True)
                self.ask(another, request, deadline_s)
        self._count(ack=False)

    def _refused(self, node: NodeId, error: BaseException) -> None:
        known = error if isinstance(error, KVStoreError) else KVStoreError(str(error))
        self.failures.append((node, known, self._now() - self.started_s))

    def _count(self, *, ack: bool) -> None:
        self.tally.count(ack=ack)
        decided = self._decided
        if decided is not None and not decided.done() and self.tally.outcome is not Outcome.PENDING:
            decided.set_result(None)
