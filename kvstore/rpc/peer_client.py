"""`ports.Peers` over TCP: one link per peer, one timer for all deadlines."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from functools import partial

from kvstore.core.generation import is_proven_twin
from kvstore.core.limits import DEFAULT_LIMITS, Limits
from kvstore.core.membership import NodeId
from kvstore.core.message import Reply, Request
from kvstore.errors import PeerUnreachable
from kvstore.rpc.calls import Told, settle
from kvstore.rpc.identity import Identity
from kvstore.rpc.link import Link, PeerStats, State, Timing
from kvstore.rpc.reporting import RateLimited, Report, report_nothing
from kvstore.rpc.wire import CallClass

SWEEP_S = 0.02
"""A call ends at most this long after its deadline."""

SEEDS_MAX = 64
_DATA, _BACKGROUND = int(CallClass.DATA), int(CallClass.BACKGROUND)
_STOPPED = "this node is stopping"


class PeerClient:
    """Calls to other nodes. Calls never raise; the future fails with a PeerError:

    - PeerUnreachable: no connection, no room, or no connection before the deadline: nothing was sent.
    - PeerTimeout: sent, and no answer before the deadline or before the connection broke.
    - PeerRefused: the peer answered with an error (`code`, and `outcome`, `advice`, `problem` as it said),
      or the request itself is impossible (codes TooLarge, InvalidRequest).

    The deadline covers waiting for a first connection too. A future that the caller cancels is let go:
    the peer may do the work all the same. `uniform(low, high)` draws the jitter of reconnecting;
    `report(event, **fields)` is told of trouble, rate limited. `on_twin(text)` is told, again and again, when
    peers have proved that another process runs with this node's identity.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        uniform: Callable[[float, float], float],
        limits: Limits = DEFAULT_LIMITS,
        timing: Timing | None = None,
        report: Report = report_nothing,
        on_twin: Callable[[str], None] = lambda _: None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._identity, self._uniform, self._limits = identity, uniform, limits
        self._timing, self._report = timing or Timing(), report
        self._on_twin, self._tls = on_twin, tls
        self._refused_first_s: float | None = None
        self._loop: asyncio.AbstractEventLoop
        self._limited: RateLimited
        self._links: dict[NodeId, Link] = {}
        self._seeds: dict[str, Link] = {}  # by address: who answers there is not known beforehand
        self._timer: asyncio.TimerHandle | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False

    async def start(self) -> None:
        """Binds to the running loop. To be called before anything else."""
        self._loop = asyncio.get_running_loop()
        self._limited = RateLimited(self._report, self._loop.time)

    async def close(self) -> None:
        """Fails every call that is in flight. Idempotent."""
        self._closed = True
        for link in (*self._links.values(), *self._seeds.values()):
            self._let_go(link, _STOPPED)
        self._links.clear()
        self._seeds.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._closing:
            await asyncio.wait(self._closing)

    def ask(self, node: NodeId, request: Request, deadline_s: float, told: Told) -> None:
        link = self._links.get(node)
        refusal = self._unknown(node) if link is None else link.ask(request, deadline_s, _DATA, told)
        if refusal is not None:
            self._loop.call_soon(told, refusal)

    def call(
        self, node: NodeId, request: Request, deadline_s: float, *, background: bool = False
    ) -> asyncio.Future[Reply]:
        link = self._links.get(node)
        if link is None:
            return self._failed(self._unknown(node))
        return self._called(link, request, deadline_s, _BACKGROUND if background else _DATA)

    def call_address(self, address: str, request: Request, deadline_s: float) -> asyncio.Future[Reply]:
        """To whoever listens there; over the link of a known node if that one does."""
        link = self._at(address)
        if link is None:
            text = _STOPPED if self._closed else f"more than {SEEDS_MAX} addresses are in use"
            return self._failed(PeerUnreachable(text))
        return self._called(link, request, deadline_s, _DATA)

    def _called(self, link: Link, request: Request, deadline_s: float, class_: int) -> asyncio.Future[Reply]:
        future: asyncio.Future[Reply] = self._loop.create_future()
        refusal = link.ask(request, deadline_s, class_, partial(settle, future))
        if refusal is not None:
            settle(future, refusal)
        return future

    def learn(self, node: NodeId, address: str) -> None:
        """Connects at once, or again if the address is another than before. Our own id is not learned."""
        if node == self._identity.node_id or self._closed:
            return
        link = self._links.get(node)
        if link is None:
            self._links[node] = link = self._adopt(node, address) or self._link(node, address)
            link.connect()
        elif link.address != address:
            link.move(address)

    def forget(self, node: NodeId) -> None:
        link = self._links.pop(node, None)
        if link is not None:
            self._let_go(link, "this node was forgotten")

    def connected(self, node: NodeId) -> bool:
        link = self._links.get(node)
        return link is not None and link.state is State.CONNECTED

    def stats(self) -> dict[NodeId, PeerStats]:
        """Counters of every node that was learned."""
        return {node: link.stats() for node, link in self._links.items()}

    def _link(self, node: NodeId, address: str) -> Link:
        return Link(
            self._loop,
            self._identity,
            node,
            address,
            limits=self._limits,
            timing=self._timing,
            uniform=self._uniform,
            report=self._limited,
            sweep_due=self._sweep_soon,
            refused_as_twin=self._refused_as_twin,
            tls=self._tls,
        )

    def _at(self, address: str) -> Link | None:
        if self._closed:
            return None
        for link in self._links.values():
            if link.address == address and link.state is State.CONNECTED:
                return link
        seed = self._seeds.get(address)
        if seed is None:
            if len(self._seeds) >= SEEDS_MAX and not self._make_room():
                return None
            seed = self._seeds[address] = self._link("", address)
        return seed

    def _make_room(self) -> bool:
        for address, link in self._seeds.items():
            if not link.calls:
                self._let_go(self._seeds.pop(address), "not used any more")
                return True
        return False

    def _adopt(self, node: NodeId, address: str) -> Link | None:
        """The connection that was made to this address for a seed, if it leads to this node.

        Other idle ones to the same node (its address written another way) are of no more use.
        """
        adopted: Link | None = None
        for seed, link in list(self._seeds.items()):
            if link.peer is None or link.peer.node_id != node:
                continue
            if seed == address:
                adopted = self._seeds.pop(seed)
                adopted.node = node
            elif not link.calls:
                self._let_go(self._seeds.pop(seed), "not used any more")
        return adopted

    def _let_go(self, link: Link, reason: str) -> None:
        task = link.close(reason)
        if task is not None:
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _unknown(self, node: NodeId) -> PeerUnreachable:
        return PeerUnreachable(_STOPPED if self._closed else f"no address is known of node {node}")

    def _failed(self, error: PeerUnreachable) -> asyncio.Future[Reply]:
        future: asyncio.Future[Reply] = self._loop.create_future()
        settle(future, error)
        return future

    def _refused_as_twin(self, text: str) -> None:
        now_s = self._loop.time()
        if self._refused_first_s is None:
            self._refused_first_s = now_s
        if is_proven_twin(self._refused_first_s, now_s):
            self._on_twin(text)

    def _sweep_soon(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        """Stops by itself when nothing is in flight."""
        self._timer = None
        now_s = self._loop.time()
        in_flight = 0
        for link in (*self._links.values(), *self._seeds.values()):
            if link.calls:
                link.expire(now_s)
                in_flight += len(link.calls)
        if in_flight:
            self._sweep_soon()
