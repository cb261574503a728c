"""Ask many, keep the answers in order of arrival, stop when it is decided.

One future per request, not per replica; no task and no timer: each call ends by its own deadline.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from kvstore.core.membership import NodeId
from kvstore.core.message import HintsHeld, Reply, Request
from kvstore.core.quorum import PENDING, Outcome, Tally
from kvstore.errors import KVStoreError, NotFound, QuorumNotMet
from kvstore.node.grace import Grace
from kvstore.node.ports import Peers
from kvstore.node.reach import Reach

Hinted = tuple[tuple[NodeId, Reply, float, NodeId], ...]
Instead = Callable[["FanOut", NodeId, KVStoreError], None]


class FanOut:
    """The votes of one request. `answers` and `failures` go on growing after it is decided.

    `instead(votes, node, error)` is told of each failure before it is counted, also after it is decided:
    it may ask somebody else. `stand_ins` were asked in place of homes; `hinted`: (stand-in, its answer,
    seconds, home) of those that did what they were asked. It is inside of `grace` while a call is in flight.
    """

    __slots__ = (
        "_asked_after_s",
        "_decided",
        "_epoch",
        "_grace",
        "_in_flight",
        "_instead",
        "_loop",
        "_now",
        "_peers",
        "_reach",
        "answers",
        "failures",
        "hinted",
        "stand_ins",
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
        instead: Instead | None = None,
        *,
        grace: Grace,
    ) -> None:
        self._loop, self._peers, self._reach, self._now, self.tally = loop, peers, reach, now, tally
        self._instead, self._grace = instead, grace
        self._epoch = self._in_flight = 0
        self._decided: asyncio.Future[None] | None = None
        self.answers: list[tuple[NodeId, Reply, float]] = []
        self.failures: list[tuple[NodeId, KVStoreError, float]] = []
        self.stand_ins: tuple[NodeId, ...] = ()
        self.hinted: Hinted = ()
        self._asked_after_s: dict[NodeId, float] | None = None
        self.started_s = now()

    def ask(self, node: NodeId, request: Request, deadline_s: float) -> None:
        """One vote of the tally's `asked` is this node's."""
        self._sending()
        self._reach.asked(node)
        self._peers.ask(node, request, deadline_s, partial(self._arrived, node))

    def ask_one_more(self, node: NodeId, request: Request, deadline_s: float) -> None:
        """Another home, beyond those the tally knows of."""
        self.tally.ask_one_more(primary=True)
        if self._asked_after_s is None:
            self._asked_after_s = {}
        self._asked_after_s[node] = self._now() - self.started_s
        self.ask(node, request, deadline_s)

    def asked_after_s(self, node: NodeId) -> float:
        """How long after the first ones a home was asked."""
        return self._asked_after_s.get(node, 0.0) if self._asked_after_s else 0.0

    def ask_stand_in(
        self,
        node: NodeId,
        request: Request,
        deadline_s: float,
        *,
        counts: bool,
        home: NodeId = "",
        instead: Callable[[], None] | None = None,
    ) -> None:
        """Beyond those the tally knows of, too. `counts`: its answer is a vote, though never a primary's.

        `instead` is called before its failure is counted.
        """
        self.stand_ins += (node,)
        if counts:
            self.tally.ask_one_more(primary=False)
        self._sending()
        self._reach.asked(node)
        self._peers.ask(node, request, deadline_s, partial(self._stood_in, node, home, counts, instead))

    def vote(
        self, node: NodeId, durable: asyncio.Future[None], answer: Reply, home: NodeId | None = None
    ) -> None:
        """This node's own vote: `answer` once `durable` is done. `home`: for whom it stands in."""
        durable.add_done_callback(partial(self._own, node, answer, home))

    def vote_now(self, node: NodeId, answer: Reply, home: NodeId | None = None) -> None:
        """This node's own vote, given without waiting for the disk."""
        elapsed_s = self._now() - self.started_s
        if home is None:
            self.answers.append((node, answer, elapsed_s))
        else:
            self.hinted += ((node, answer, elapsed_s, home),)
        self._count(ack=True, primary=home is None)

    async def decided(self) -> Outcome:
        """MET or LOST, never PENDING; returns at once if it is decided already."""
        while self.tally.outcome is PENDING:
            self._decided = self._loop.create_future()
            await self._decided
        return self.tally.outcome

    async def finished(self) -> None:
        """Everybody who was asked has answered or failed."""
        tally = self.tally
        while tally.acks + tally.failures < tally.asked:
            self._decided = self._loop.create_future()
            await self._decided

    def _sending(self) -> None:
        if not self._in_flight:
            self._epoch = self._grace.enter()
        self._in_flight += 1

    def _ended(self) -> None:
        """After whoever takes the place of a call that failed was asked."""
        self._in_flight -= 1
        if not self._in_flight:
            self._grace.leave(self._epoch)

    def _own(self, node: NodeId, answer: Reply, home: NodeId | None, durable: asyncio.Future[None]) -> None:
        error = durable.exception()
        if error is None:
            self.vote_now(node, answer, home)
        else:
            self._failed(node, error if isinstance(error, KVStoreError) else KVStoreError(str(error)))
            self._count(ack=False, primary=home is None)

    def _arrived(self, node: NodeId, outcome: Reply | KVStoreError) -> None:
        self._reach.heard(node, outcome)
        if isinstance(outcome, KVStoreError):
            self._failed(node, outcome)
            if self._instead is not None:
                self._instead(self, node, outcome)
            self._count(ack=False)
        else:
            self.answers.append((node, outcome, self._now() - self.started_s))
            self._count(ack=True)
        self._ended()

    def _stood_in(
        self,
        node: NodeId,
        home: NodeId,
        counts: bool,
        instead: Callable[[], None] | None,
        outcome: Reply | KVStoreError,
    ) -> None:
        self._reach.heard(node, outcome)
        if isinstance(outcome, HintsHeld) and not outcome.state:
            outcome = NotFound("it keeps no hint of the key, which says nothing about the key")
        if not isinstance(outcome, KVStoreError):
            self.hinted += ((node, outcome, self._now() - self.started_s, home),)
            if counts:
                self._count(ack=True, primary=False)
            self._ended()
            return
        self._failed(node, outcome)
        if instead is not None:
            instead()
        if counts:
            self._count(ack=False, primary=False)
        self._ended()

    def _failed(self, node: NodeId, error: KVStoreError) -> None:
        self.failures.append((node, error, self._now() - self.started_s))

    def _count(self, *, ack: bool, primary: bool = True) -> None:
        self.tally.count(ack=ack, primary=primary)
        decided = self._decided
        if decided is not None and not decided.done() and self.tally.outcome is not PENDING:
            decided.set_result(None)


def lost(
    votes: FanOut, need: int, own_votes: int, name_of: Callable[[NodeId], str], *, outcome: str
) -> KVStoreError:
    """A vote that is lost, with what each replica did. A failed disk here speaks for itself."""
    replicas = [(name_of(node), "answered") for node, _, _ in votes.answers]
    replicas += [(name_of(node), "hinted") for node, _, _, _ in votes.hinted]
    replicas += [(name_of(node), type(error).__name__) for node, error, _ in votes.failures]
    return QuorumNotMet(
        required=need,
        received=own_votes + votes.tally.acks,
        asked=own_votes + votes.tally.asked,
        hinted=len(votes.hinted),
        replicas=tuple(replicas),
        outcome=outcome,
        advice="the write may be applied: send it again with the same Idempotency-Key"
        if outcome == "unknown"
        else "send it again, or ask for a smaller r",
    )
