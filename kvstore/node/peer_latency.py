"""How long peers take to answer reads: what is usual, and who is slow beside the others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from kvstore.core.circuit_breaker import Event, LatencyBreaker, State, judged, may_be_last
from kvstore.core.hedging import QUANTILE, hedge_delay_s, median_low, quantile
from kvstore.core.limits import Limits
from kvstore.core.membership import NodeId

WINDOW_S = 0.1
_WINDOW_MAX = 256  # answers of one window that are looked at
_RECENT = 256  # of the latest answers of a peer: what the quantile is of
FRESH_S = 10.0
"""What a peer took longer ago tells nothing about how slow the others are."""


class _Peer:
    """`window`: seconds of the answers since the last judgement. `median_s` is of the one before."""

    __slots__ = ("at_s", "breaker", "high_s", "median_s", "recent", "window")

    def __init__(self) -> None:
        self.window: list[float] = []
        self.recent: deque[float] = deque(maxlen=_RECENT)
        self.breaker = LatencyBreaker()
        self.median_s = self.high_s = 0.0
        self.at_s = float("-inf")


class PeerLatency:
    """`now` is WallClock.elapsed_s. `delay_s`: after which a read is late.

    `opened`, `closed`: how often breakers did.

    `slow`: peers whose breaker is not closed; empty while all is well, so that who asks it pays one look.
    """

    def __init__(self, now: Callable[[], float], limits: Limits) -> None:
        self._now = now
        self._factor, self._answers_min = limits.slow_peer_factor, limits.slow_peer_answers_min
        self._fixed_s = limits.hedge_delay_s
        self._peers: dict[NodeId, _Peer] = {}
        self.slow: dict[NodeId, LatencyBreaker] = {}
        self.delay_s = hedge_delay_s((), fixed_s=self._fixed_s)
        self.opened = self.closed = 0
        self._judged_s = float("-inf")

    def heard(self, node: NodeId, elapsed_s: float) -> None:
        """A home answered a read after so long, or did not within that time."""
        peer = self._peers.get(node)
        if peer is None:
            peer = self._peers[node] = _Peer()
        if len(peer.window) < _WINDOW_MAX:
            peer.window.append(elapsed_s)

    def silent(self, node: NodeId, now_s: float) -> None:
        """It answers nothing any more: asked last at once, as far as so many may be."""
        peer = self._peers.setdefault(node, _Peer())
        fresh = [p for p in self._peers.values() if now_s - p.at_s < FRESH_S or p is peer]
        if node not in self.slow and may_be_last(len(self.slow), len(fresh)):
            peer.breaker.silent(now_s)
            self.slow[node] = peer.breaker
            self.opened += 1

    def asked(self, node: NodeId) -> None:
        breaker = self.slow.get(node)
        if breaker is not None:
            breaker.asked(self._now())

    def is_last(self, node: NodeId) -> bool:
        """Whether to ask this one after those that are quick. A probe is in its turn."""
        breaker = self.slow.get(node)
        return breaker is not None and not breaker.allows(self._now())

    def is_due(self, now_s: float) -> bool:
        return now_s - self._judged_s >= WINDOW_S

    def judge(self, now_s: float) -> None:
        """To be called while reads are asked, whenever it `is_due`."""
        self._judged_s = now_s
        new = [node for node, peer in self._peers.items() if self._is_enough(node, peer)]
        for node in new:
            self._look_at(self._peers[node], now_s)
        for node in new:
            self._decide(node, self._peers[node], now_s)
        if new:
            highs = (peer.high_s for peer in self._peers.values() if now_s - peer.at_s < FRESH_S)
            self.delay_s = hedge_delay_s(highs, fixed_s=self._fixed_s)

    def _is_enough(self, node: NodeId, peer: _Peer) -> bool:
        """A slow peer is asked by probes only: each of them counts."""
        return len(peer.window) >= (1 if node in self.slow else self._answers_min)

    def _look_at(self, peer: _Peer, now_s: float) -> None:
        peer.median_s, peer.at_s = median_low(peer.window), now_s
        peer.recent.extend(peer.window)
        peer.window.clear()
        peer.high_s = quantile(sorted(peer.recent), QUANTILE)

    def _decide(self, node: NodeId, peer: _Peer, now_s: float) -> None:
        fresh = [p for p in self._peers.values() if now_s - p.at_s < FRESH_S]
        verdict = judged(peer.median_s, [p.median_s for p in fresh if p is not peer], factor=self._factor)
        breaker = peer.breaker
        before = breaker.state
        if verdict is Event.FAILURE:
            breaker.slow(now_s, may_open=may_be_last(len(self.slow), len(fresh)))
        elif verdict is Event.SUCCESS:
            breaker.quick(now_s)
        if breaker.state is State.CLOSED:
            self.closed += self.slow.pop(node, None) is not None
        else:
            self.slow[node] = breaker
            self.opened += before is State.CLOSED

    # --- told ---------------------------------------------------------------------------------------

    def state(self, node: NodeId) -> State:
        breaker = self.slow.get(node)
        return State.CLOSED if breaker is None else breaker.state

    def median_s(self, node: NodeId) -> float | None:
        """Of the answers of a moment ago; None of one that has not answered enough reads."""
        peer = self._peers.get(node)
        return None if peer is None or not peer.recent else peer.median_s
