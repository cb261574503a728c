"""Sending a request to a home of its key, from a node that is none.

A request is forwarded once. Dynamo §4.6 goes on where no home can be reached: then this node stands in.
A read may go to several homes, a late one is hedged; a write only goes on if nothing of it was sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

from kvstore.core.limits import Limits
from kvstore.core.membership import NodeId
from kvstore.core.message import Get, Got, Put, Written
from kvstore.core.preference_list import by_reach
from kvstore.core.quorum import Outcome, Tally
from kvstore.errors import (
    KVStoreError,
    NotReady,
    PeerError,
    PeerRefused,
    QuorumNotMet,
    QuorumUnavailable,
    named,
)
from kvstore.node.cluster_view import ClusterView
from kvstore.node.fan_out import FanOut, Instead
from kvstore.node.hedges import Hedges
from kvstore.node.peer_latency import PeerLatency
from kvstore.node.ports import Peers
from kvstore.node.reach import Reach
from kvstore.node.stand_ins import StandIns

_ASK_ANOTHER = ("NotReady", "Overloaded")
"""Refusals of a home that another one need not share."""


class Forwarding:
    """`hedges`: of forwarded reads, by a measure of their own: a home asks others before it answers."""

    def __init__(
        self,
        view: ClusterView,
        peers: Peers,
        reach: Reach,
        stand_ins: StandIns,
        fan_out: Callable[[Tally, Instead], FanOut],
        now: Callable[[], float],
        limits: Limits,
    ) -> None:
        self._view, self._peers, self._reach, self._stand_ins = view, peers, reach, stand_ins
        self._fan_out, self._now = fan_out, now
        self._latency = PeerLatency(now, limits)
        self.hedges = Hedges(asyncio.get_running_loop(), now, reach, self._latency, limits)
        self._turn = 0

    def _ordered(self, request: Get | Put, homes: Sequence[NodeId]) -> list[NodeId]:
        if request.forwarded:
            raise NotReady("forwarded to a node that is no home of the key: the layouts differ")
        self._turn += 1
        return by_reach(homes, self._view.me.node_id, self._reach, self._turn)

    async def write(
        self, request: Put, homes: Sequence[NodeId], partition: int, *, sloppy: bool
    ) -> Written | None:
        """To one home; to another one only if nothing was sent.

        None: it is sloppy, no home could be reached, and this node can stand in.
        """
        stands_in = sloppy and self._stand_ins.can_be_me(partition, len(homes))
        last: KVStoreError | None = None
        for node in self._reach.quick_first(self._ordered(request, homes)):
            if stands_in and not self._reach(node):
                continue  # a deadline spent on it would be taken from the stand-ins
            self._reach.asked(node)
            try:
                # The home needs some of the time for its own replicas; this wait is the outer one.
                call = self._peers.call(node, request._replace(forwarded=True), request.timeout_ms / 1000)
                reply = await call
            except PeerRefused as refusal:
                self._reach.succeeded(node)
                if refusal.code not in _ASK_ANOTHER:
                    raise _as_raised_there(refusal) from None
                last, stands_in = refusal, False
            except PeerError as error:
                self._reach.failed(node, hard=not error.sent)
                if error.sent:
                    detail = f"forwarded to {self._view.name_of(node)}, which did not answer: {error.detail}"
                    raise QuorumNotMet(detail, outcome="unknown") from None
                last = error
            else:
                self._reach.succeeded(node)
                return cast(Written, reply)
        if stands_in:
            return None
        raise _none_in_reach(last, len(homes))

    async def read(
        self, request: Get, homes: Sequence[NodeId], partition: int, *, sloppy: bool
    ) -> Got | None:
        """The first answer of a home. Where one is late, or fails, the next one is asked. None: as above."""
        stands_in = sloppy and self._stand_ins.can_be_me(partition, len(homes))
        others = self._reach.quick_first(self._ordered(request, homes), probes=self._latency)
        sent, timeout_s = request._replace(forwarded=True), request.timeout_ms / 1000
        if stands_in and not self._reach(others[0]):
            return None
        reads = self._fan_out(Tally(asked=1, need=1), partial(self._next, sent, others, timeout_s, stands_in))
        first = others.pop(0)
        self._latency.asked(first)
        reads.ask(first, sent, timeout_s)
        self.hedges.watch(reads, sent, [first], others, timeout_s)
        if await reads.decided() is Outcome.MET:
            return cast(Got, reads.answers[0][1])
        refusals = _refusals(reads)
        for refusal in refusals:
            if refusal.code not in _ASK_ANOTHER:
                raise _as_raised_there(refusal)
        if stands_in and not refusals:
            return None
        raise _none_in_reach(reads.failures[-1][1], len(homes))

    def _next(
        self,
        sent: Get,
        others: list[NodeId],
        timeout_s: float,
        stands_in: bool,
        reads: FanOut,
        _failed: NodeId,
        error: KVStoreError,
    ) -> None:
        """In place of a home that failed: the next one, with the time that is left."""
        left_s = reads.started_s + timeout_s - self._now()
        if reads.tally.outcome is not Outcome.PENDING or not others or left_s <= 0:
            return
        refusals = _refusals(reads)
        if any(refusal.code not in _ASK_ANOTHER for refusal in refusals):
            return
        if self._reach(others[0]) or refusals or not stands_in:
            reads.ask_one_more(others.pop(0), sent, left_s)


def _refusals(reads: FanOut) -> list[PeerRefused]:
    return [error for _, error, _ in reads.failures if isinstance(error, PeerRefused)]


def _none_in_reach(last: KVStoreError | None, homes: int) -> QuorumUnavailable:
    return QuorumUnavailable(
        f"no home of this key is in reach; the last one said: {last.detail if last else 'nothing'}",
        required=1,
        asked=homes,
    )


def _as_raised_there(refusal: PeerRefused) -> KVStoreError:
    """The home's own error, with its outcome and counts."""
    error = named(refusal.code)(refusal.detail, outcome=refusal.outcome, advice=refusal.advice)
    for name, count in refusal.problem.items():
        if hasattr(error, name):
            setattr(error, name, count)
    return error
