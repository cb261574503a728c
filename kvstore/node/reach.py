"""Which peers are worth asking now: one circuit breaker per peer, fed by every answer and failure."""

from __future__ import annotations

import asyncio

from kvstore.core.circuit_breaker import CircuitBreaker, State
from kvstore.core.membership import NodeId


class Reach:
    """In reach: the breaker lets calls through. Only a choice of whom to ask; never a vote.

    A peer has a breaker from its first failure to its next success, so while all is well every question
    here costs one look at an empty table.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._breakers: dict[NodeId, CircuitBreaker] = {}

    def __call__(self, node: NodeId) -> bool:
        breaker = self._breakers.get(node) if self._breakers else None
        return breaker is None or breaker.allows(self._loop.time())

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

    def state(self, node: NodeId) -> State:
        breaker = self._breakers.get(node)
        return State.CLOSED if breaker is None else breaker.state
