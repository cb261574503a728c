"""Sending a request to a home of its key, from a node that is none.

A request is forwarded once. Dynamo §4.6 goes on where no home can be reached: then this node stands in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar, cast

from kvstore.core.membership import NodeId
from kvstore.core.message import Get, Got, Put, Written
from kvstore.core.preference_list import by_reach
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
from kvstore.node.ports import Peers
from kvstore.node.reach import Reach
from kvstore.node.stand_ins import StandIns

_R = TypeVar("_R", Got, Written)


class Forwarding:
    def __init__(self, view: ClusterView, peers: Peers, reach: Reach, stand_ins: StandIns) -> None:
        self._view, self._peers, self._reach, self._stand_ins = view, peers, reach, stand_ins
        self._turn = 0

    async def forward(
        self,
        request: Get | Put,
        homes: Sequence[NodeId],
        partition: int,
        expected: type[_R],
        *,
        sloppy: bool,
    ) -> _R | None:
        """To one home, once. Another one only if nothing was sent, or if it is a read.

        None: it is sloppy, no home could be reached, and this node can stand in.
        """
        if request.forwarded:
            raise NotReady("forwarded to a node that is no home of the key: the layouts differ")
        self._turn += 1
        me = self._view.me.node_id
        stands_in = sloppy and self._stand_ins.can_be_me(partition, len(homes))
        last: KVStoreError | None = None
        ordered = by_reach(homes, me, self._reach, self._turn)
        for node in self._reach.quick_first(ordered, probes=False):
            if stands_in and not self._reach(node):
                continue  # a deadline spent on it would be taken from the stand-ins
            self._reach.asked(node)
            try:
                # The home needs some of the time for its own replicas; this wait is the outer one.
                call = self._peers.call(node, request._replace(forwarded=True), request.timeout_ms / 1000)
                reply = await call
            except PeerRefused as refusal:
                self._reach.succeeded(node)
                if refusal.code not in ("NotReady", "Overloaded"):
                    raise _as_raised_there(refusal) from None
                last, stands_in = refusal, False
            except PeerError as error:
                self._reach.failed(node, hard=not error.sent)
                if error.sent and expected is Written:
                    detail = f"forwarded to {self._view.name_of(node)}, which did not answer: {error.detail}"
                    raise QuorumNotMet(detail, outcome="unknown") from None
                last = error
            else:
                self._reach.succeeded(node)
                return cast(_R, reply)
        if stands_in:
            return None
        raise QuorumUnavailable(
            f"no home of this key is in reach; the last one said: {last.detail if last else 'nothing'}",
            required=1,
            asked=len(homes),
        )


def _as_raised_there(refusal: PeerRefused) -> KVStoreError:
    """The home's own error, with its outcome and counts."""
    error = named(refusal.code)(refusal.detail, outcome=refusal.outcome, advice=refusal.advice)
    for name, count in refusal.problem.items():
        if hasattr(error, name):
            setattr(error, name, count)
    return error
