"""Which peers are worth asking now: one circuit breaker per peer, fed by every answer and failure.

Those that are merely slow are in reach: they are asked last where others can answer instead.
"""

from __future__ import annotations

import asyncio

from kvstore.core.circuit_breaker import CircuitBreaker, State
from kvstore.core.membership import NodeId
from kvstore.core.message import Reply
from kvstore.errors import KVStoreError, PeerError, PeerRefused
from kvstore.node.peer_latency import PeerLatency


class Reach:
    """In reach: the breaker lets calls through. Only a choice of whom to ask; never a vote.

    A peer has a breaker from its first failure to its next success, so while all is well every question
    here costs one look at an empty table.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, latency: PeerLatency) -> None:
        self._loop, self.latency = loop, latency
        self._breakers: dict[NodeId, CircuitBreaker] = {}
        self._failures: dict[NodeId, int] = {}

    def __call__(self, node: NodeId) -> bool:
        breaker = self._breakers.get(node) if self._breakers else None
        return breaker is None or breaker.allows(self._loop.time())

    @property
    def doubts(self) -> Reach | None:
        """None while every peer is in reach: who asks for all of them need not ask one by one."""
        return self if self._breakers else None

    def quick_first(self, homes: list[NodeId], *, probes: PeerLatency | None = None) -> list[NodeId]:
        """The same order, but slow ones after the quick ones, and last those that are out of reach.

        `probes`: by whose latency; then a slow one whose wait is over is in its turn.
        """
        slow = self.latency.slow if probes is None else probes.slow
        if not slow:
            return homes
        is_last = slow.__contains__ if probes is None else probes.is_last
        return sorted(homes, key=lambda node: 2 if not self(node) else int(is_last(node)))

    def asked(self, node: NodeId) -> None:
        if self._breakers:
            breaker = self._breakers.get(node)
            if breaker is not None and breaker.state is not State.CLOSED:
                breaker.asked(self._loop.time())

    def succeeded(self, node: NodeId) -> None:
        if self._breakers:
            self._breakers.pop(node, None)

    def failed(self, node: NodeId, *, hard: bool) -> None:
        """`hard`: nothing could even be sent."""
        breaker = self._breakers.get(node)
        if breaker is None:
            breaker = self._breakers[node] = CircuitBreaker()
        breaker.failed(self._loop.time(), hard=hard)
        self._failures[node] = self._failures.get(node, 0) + 1

    def failures(self, node: NodeId) -> int:
        """How often it failed since this node started."""
        return self._failures.get(node, 0)

    def state(self, node: NodeId) -> State:
        breaker = self._breakers.get(node)
        return State.CLOSED if breaker is None else breaker.state

    def heard(self, node: NodeId, outcome: Reply | KVStoreError) -> None:
        """Take note of what a call came to."""
        if not isinstance(outcome, KVStoreError) or isinstance(outcome, PeerRefused):
            self.succeeded(node)  # it answers; what it answers is its vote
        else:
            self.failed(node, hard=isinstance(outcome, PeerError) and not outcome.sent)
