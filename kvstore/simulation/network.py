"""`ports.Peers` over links that lose, delay, repeat, reorder and cut.

Every pair of nodes has two directed links. What is sent arrives at the process that the sender was
connected to, or nowhere: a message to a process that has ended since dies with it. A message, and
every repetition of it, arrives at most `MESSAGE_LIFE_S` after it was sent. The deadline of a call is
time that remains when it is read, as on the real wire, so a late request is served although nobody
waits for it any more. A forwarded put alone is never repeated: once superseded it is not idempotent,
and a stream, unlike these links, delivers a frame at most once.

Errors are those of the real adapter: PeerUnreachable if nothing was sent (nobody listens, or the peer
has been silent for `SILENCE_S`), PeerTimeout if no answer came, PeerRefused for an answer that is an
error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextvars import Context, copy_context
from typing import Any

from kvstore.core.generation import is_proven_twin, is_twin
from kvstore.core.gossip_message import Gossip
from kvstore.core.membership import NodeId
from kvstore.core.message import (
    EMPTY_REPLY,
    FetchCluster,
    Put,
    Reply,
    Request,
)
from kvstore.errors import KVStoreError, PeerRefused, PeerTimeout, PeerUnreachable
from kvstore.node.ports import Told, outcome_of
from kvstore.simulation.chance import LinkChance
from kvstore.simulation.loop import Owner, VirtualTimeLoop
from kvstore.simulation.trace import Trace

MESSAGE_LIFE_S = 3.0
SILENCE_S = 2.0
"""A peer of which nothing came for so long, while calls expired, counts as not connected."""

RECONNECT_S = 0.5
"""How often a lost connection is tried again."""

_CONTROL = (Gossip, FetchCluster)
_FACTS = ("required", "received", "asked", "hinted", "replicas", "retry_after_s")

Serve = Callable[[NodeId, Request, float], "Reply | asyncio.Future[Reply] | asyncio.Future[None]"]


class Effect:
    """What a fault does to links or disks, and how often that has mattered."""

    __slots__ = ("amount", "data_only", "hits")

    def __init__(self, amount: float = 1.0, *, data_only: bool = False) -> None:
        self.amount, self.data_only = amount, data_only
        self.hits = 0


class Endpoint:
    """One process on the network: from its start to its end."""

    __slots__ = ("held", "name", "node_id", "on_twin", "owner", "refused_first_s", "serve")

    def __init__(
        self,
        name: str,
        node_id: NodeId,
        owner: Owner,
        serve: Serve,
        on_twin: Callable[[], None] = lambda: None,
    ) -> None:
        self.name, self.node_id, self.owner, self.serve = name, node_id, owner, serve
        self.on_twin = on_twin
        self.refused_first_s: float | None = None
        self.held: list[tuple[float, Callable[[], None]]] = []
        """(when it was sent, what to do) of all that reached it while it was stalled."""


class _Link:
    """One direction. `quiet`: no fault is in force."""

    __slots__ = (
        "chance",
        "cuts",
        "delays",
        "duplicates",
        "heard_s",
        "losses",
        "quiet",
        "retry_at_s",
        "silent_since_s",
    )

    def __init__(self, chance: LinkChance) -> None:
        self.chance = chance
        self.cuts: list[Effect] = []
        self.losses: list[Effect] = []
        self.duplicates: list[Effect] = []
        self.delays: list[Effect] = []
        self.quiet = True
        self.heard_s = 0.0  # when something last came back the other way
        self.silent_since_s: float | None = None
        self.retry_at_s = 0.0

    def effects(self, kind: str) -> list[Effect]:
        found = getattr(self, kind)
        assert isinstance(found, list)
        return found


class Network:
    """`latency_s` is the least a message takes, `jitter_s` the mean of what is added to it."""

    def __init__(
        self,
        loop: VirtualTimeLoop,
        seed: object,
        trace: Trace,
        *,
        latency_s: float = 0.0005,
        jitter_s: float = 0.0005,
        loss: float = 0.0,
        duplicates: float = 0.0,
    ) -> None:
        self._loop, self._seed, self._trace = loop, seed, trace
        self._latency_s, self._jitter_s, self._loss, self._duplicates = latency_s, jitter_s, loss, duplicates
        self._links: dict[tuple[str, str], _Link] = {}
        self._up: dict[str, Endpoint] = {}
        self._names: dict[NodeId, str] = {}
        self._addresses: dict[str, str] = {}
        self._heard: dict[tuple[str, NodeId], tuple[Endpoint, float]] = {}
        self.context: Context = copy_context()
        self.sent = self.dropped = self.repeated = self.late = 0
        self.requests: dict[str, int] = {}
        """Requests delivered, by name of their class."""

    # --- who is there -------------------------------------------------------------------------------

    def attach(self, endpoint: Endpoint, address: str) -> None:
        self._up[endpoint.name] = endpoint
        self._names[endpoint.node_id] = endpoint.name
        self._addresses[address] = endpoint.name
        for pair, link in self._links.items():
            if endpoint.name in pair:
                link.silent_since_s = None  # it connects anew

    def detach(self, endpoint: Endpoint) -> None:
        """Its process has ended: connections to it break."""
        if self._up.get(endpoint.name) is endpoint:
            del self._up[endpoint.name]
        endpoint.held.clear()

    def release(self, endpoint: Endpoint) -> None:
        """It runs again after a stall: what waited in its sockets, it reads now."""
        held, endpoint.held = endpoint.held, []
        for sent_s, deliver in held:
            if self._loop.time() - sent_s <= MESSAGE_LIFE_S:
                self.late += 1
                self._loop.call_soon(deliver, context=self.context)

    def peers_of(self, endpoint: Endpoint) -> SimulatedPeers:
        return SimulatedPeers(self, endpoint)

    # --- faults -------------------------------------------------------------------------------------

    def begin(self, kind: str, effect: Effect, pairs: Iterable[tuple[str, str]]) -> None:
        """`kind`: cuts; losses and duplicates (amount: a probability); delays (amount: seconds)."""
        for pair in pairs:
            link = self._link(*pair)
            link.effects(kind).append(effect)
            link.quiet = False

    def end(self, effect: Effect) -> None:
        for link in self._links.values():
            for effects in (link.cuts, link.losses, link.duplicates, link.delays):
                if effect in effects:
                    effects.remove(effect)
            link.quiet = not (link.cuts or link.losses or link.duplicates or link.delays)

    # --- calls --------------------------------------------------------------------------------------

    def call(
        self, source: Endpoint, target: str | None, request: Request, deadline_s: float
    ) -> asyncio.Future[Reply]:
        reply: asyncio.Future[Reply] = self._loop.create_future()
        endpoint = self._up.get(target) if target is not None else None
        if source.owner.ended or endpoint is None or deadline_s <= 0:
            return _fail(reply, PeerUnreachable(f"{target}: nobody listens"))
        if self._is_refused_as_twin(source, endpoint):
            return _fail(reply, PeerUnreachable(f"{target}: hears another process of this node"))
        link = self._link(source.name, endpoint.name)
        if not self._connected(link, source, endpoint):
            return _fail(reply, PeerUnreachable(f"{target}: silent"))
        sent_s = self._loop.time()
        timer = self._loop.call_later(deadline_s, self._expired, link, reply, sent_s)
        arrival = _Arrival(self, source, endpoint, request, deadline_s, reply, timer, sent_s)
        control, once = type(request) in _CONTROL, isinstance(request, Put)
        self._transmit(link, control, arrival.request_here, once=once)
        return reply

    def _connected(self, link: _Link, source: Endpoint, target: Endpoint) -> bool:
        """False while a link is known to be dead. It is found alive again by trying."""
        now_s = self._loop.time()
        if link.silent_since_s is None or now_s - link.silent_since_s < SILENCE_S:
            return True
        if now_s < link.retry_at_s:
            return False
        back = self._link(target.name, source.name)
        if link.cuts or back.cuts or target.owner.stalled is not None:
            for cut in (*link.cuts, *back.cuts):
                cut.hits += 1
            link.retry_at_s = now_s + RECONNECT_S
            return False
        link.silent_since_s = None
        return True

    def _is_refused_as_twin(self, source: Endpoint, target: Endpoint) -> bool:
        """As rpc/ does it: by whom the target has heard under this identity, and when."""
        other, heard_s = self._heard.get((target.name, source.node_id), (source, 0.0))
        now_s = self._loop.time()
        if other is source or other.owner.ended or not is_twin(b"", b"other", now_s - heard_s):
            return False
        if source.refused_first_s is None:
            source.refused_first_s = now_s
        if is_proven_twin(source.refused_first_s, now_s):
            source.on_twin()
        return True

    def _expired(self, link: _Link, reply: asyncio.Future[Reply], sent_s: float) -> None:
        if link.silent_since_s is None and link.heard_s <= sent_s:
            link.silent_since_s = sent_s
        if not reply.done():
            _fail(reply, PeerTimeout("no answer"))

    def _transmit(
        self, link: _Link, control: bool, deliver: Callable[[float], None], *, once: bool = False
    ) -> None:
        """One message on its way: draws its luck once, whatever faults are in force."""
        luck, slow, repeat, long_after = link.chance.draw()
        self.sent += 1
        delay_s = self._latency_s + self._jitter_s * slow * slow * 3
        loss, repeats = self._loss, self._duplicates
        if not link.quiet:
            if link.cuts:
                for cut in link.cuts:
                    cut.hits += 1
                self.dropped += 1
                return
            for effect in link.losses:
                effect.hits += loss <= luck < loss + effect.amount
                loss += effect.amount
            for effect in link.duplicates:
                effect.hits += repeats <= repeat < repeats + effect.amount
                repeats += effect.amount
            for effect in link.delays:
                if not (control and effect.data_only):
                    effect.hits += 1
                    delay_s += effect.amount * slow
        if luck < loss:
            self.dropped += 1
            return
        sent_s = self._loop.time()
        delay_s = min(delay_s, MESSAGE_LIFE_S)
        self._loop.call_later(delay_s, deliver, sent_s, context=self.context)
        if repeat < repeats and not once:
            self.repeated += 1
            again_s = delay_s + (MESSAGE_LIFE_S - delay_s) * long_after**4
            self._loop.call_later(again_s, deliver, sent_s, context=self.context)

    def _link(self, source: str, target: str) -> _Link:
        link = self._links.get((source, target))
        if link is None:
            link = self._links[source, target] = _Link(LinkChance(self._seed, "link", source, target))
        return link


class _Arrival:
    """One call: what happens when its request, and then its reply, has come through."""

    __slots__ = ("deadline_s", "network", "reply", "request", "sent_s", "source", "target", "timer")

    def __init__(
        self,
        network: Network,
        source: Endpoint,
        target: Endpoint,
        request: Request,
        deadline_s: float,
        reply: asyncio.Future[Reply],
        timer: asyncio.TimerHandle,
        sent_s: float,
    ) -> None:
        self.network, self.source, self.target, self.request = network, source, target, request
        self.deadline_s, self.reply, self.timer, self.sent_s = deadline_s, reply, timer, sent_s

    def request_here(self, sent_s: float) -> None:
        target = self.target
        if target.owner.ended:
            return
        if target.owner.stalled is not None:
            target.held.append((sent_s, lambda: self.request_here(sent_s)))
            return
        self.network._heard[target.name, self.source.node_id] = self.source, self.network._loop.time()
        name = type(self.request).__name__
        requests = self.network.requests
        requests[name] = requests.get(name, 0) + 1
        self.network._trace.add("request", self.source.name, target.name, name, self.request)
        target.owner.run(self._serve)

    def _serve(self) -> None:
        try:
            answer = self.target.serve(self.source.node_id, self.request, self.deadline_s)
        except KVStoreError as error:
            self._send_back(error)
            return
        if isinstance(answer, asyncio.Future):
            answer.add_done_callback(self._later)
        else:
            self._send_back(answer)

    def _later(self, done: asyncio.Future[Any]) -> None:
        if done.cancelled():
            return
        error = done.exception()
        if error is None:
            result = done.result()
            self._send_back(EMPTY_REPLY[type(self.request)] if result is None else result)
        elif isinstance(error, KVStoreError):
            self._send_back(error)
        else:
            raise error

    def _send_back(self, answer: Reply | KVStoreError) -> None:
        network = self.network
        if self.target.owner.ended:
            return
        link = network._link(self.target.name, self.source.name)
        control = type(self.request) in _CONTROL
        network._transmit(link, control, lambda sent_s: self._reply_here(answer, sent_s))

    def _reply_here(self, answer: Reply | KVStoreError, sent_s: float) -> None:
        source, network = self.source, self.network
        if source.owner.ended:
            return
        if source.owner.stalled is not None:
            source.held.append((sent_s, lambda: self._reply_here(answer, sent_s)))
            return
        link = network._link(source.name, self.target.name)
        link.heard_s, link.silent_since_s = network._loop.time(), None
        refused = isinstance(answer, KVStoreError)
        told: Any = type(answer).__name__ if refused else answer
        network._trace.add("reply", self.target.name, source.name, told)
        if self.reply.done():
            return
        self.timer.cancel()
        if isinstance(answer, KVStoreError):
            _fail(self.reply, _refusal(answer))
        else:
            self.reply.set_result(answer)


class SimulatedPeers:
    """`ports.Peers` of one process."""

    def __init__(self, network: Network, endpoint: Endpoint) -> None:
        self._network, self._endpoint = network, endpoint
        self._known: dict[NodeId, str] = {}

    def ask(self, node: NodeId, request: Request, deadline_s: float, told: Told) -> None:
        self.call(node, request, deadline_s).add_done_callback(lambda call: told(outcome_of(call)))

    def call(
        self, node: NodeId, request: Request, deadline_s: float, *, background: bool = False
    ) -> asyncio.Future[Reply]:
        address = self._known.get(node, "")
        target = self._network._addresses.get(address)
        return self._network.call(self._endpoint, target, request, deadline_s)

    def call_address(self, address: str, request: Request, deadline_s: float) -> asyncio.Future[Reply]:
        target = self._network._addresses.get(address)
        return self._network.call(self._endpoint, target, request, deadline_s)

    def learn(self, node: NodeId, address: str) -> None:
        self._known[node] = address

    def forget(self, node: NodeId) -> None:
        self._known.pop(node, None)


def _fail(reply: asyncio.Future[Reply], error: KVStoreError) -> asyncio.Future[Reply]:
    reply.set_exception(error)
    reply.exception()  # nobody needs to look at it
    return reply


def _refusal(error: KVStoreError) -> PeerRefused:
    """The error as it travels: its name, what it says, and its counts."""
    refusal = PeerRefused(error.detail or str(error), code=type(error).__name__)
    refusal.outcome, refusal.advice = error.outcome, error.advice
    refusal.problem = {name: value for name in _FACTS if (value := getattr(error, name, None))}
    return refusal
