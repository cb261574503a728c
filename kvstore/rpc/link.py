"""The way to one peer: one connection, made on first use and made again when it breaks."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

from kvstore.core.backoff import backoff_s
from kvstore.core.limits import Limits
from kvstore.core.membership import NodeId
from kvstore.core.message import Request
from kvstore.errors import PeerError, PeerUnreachable
from kvstore.rpc.calls import Calls, Told
from kvstore.rpc.connection import Connection, split_address
from kvstore.rpc.handshake import Established, Handshake, HandshakeFailed
from kvstore.rpc.identity import Identity
from kvstore.rpc.reporting import RateLimited

TWIN_PAUSE_S = 0.25
"""A twin asks again so soon: it has to end before it does harm, or is let in once the other one is silent."""


class State(Enum):
    IDLE = "idle"  # nobody has asked for it
    CONNECTING = "connecting"  # first attempt: calls wait for it
    CONNECTED = "connected"
    WAITING = "waiting"  # an attempt failed: calls fail at once
    RETRYING = "retrying"  # a further attempt: calls still fail at once


_CONNECTED = State.CONNECTED  # as core.quorum.MET: a look-up on an Enum is not for the way of every request


@dataclass(frozen=True, slots=True)
class Timing:
    """How links behave over time, in seconds.

    A connection that held for `stable_s` and broke is made again at once, and calls wait for that. Any
    other failure waits a random part of a ceiling that doubles from `backoff_first_s` to
    `backoff_max_s`. A peer that sends not one byte for `silence_s` while calls expire is taken for gone:
    TCP would need minutes to notice that, and as long to notice that the network is back.
    """

    stable_s: float = 1.0
    backoff_first_s: float = 0.1
    backoff_max_s: float = 2.0
    silence_s: float = 2.0


class PeerStats(NamedTuple):
    """Since the peer was learned. `failures`: calls that ended in any PeerError."""

    connected: bool
    in_flight: int
    calls: int
    failures: int
    connects: int
    bytes_sent: int
    bytes_received: int


class Link:
    """`node` is "" while nobody knows who will answer; until it is set the link is not kept up by itself.

    `refused_as_twin` hears each proven refusal as a second process of this node, with its text.
    `sweep_due` is told when a call is added to none: the deadlines need sweeping from then on.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        identity: Identity,
        node: NodeId,
        address: str,
        *,
        limits: Limits,
        timing: Timing,
        uniform: Callable[[float, float], float],
        report: RateLimited,
        sweep_due: Callable[[], None],
        refused_as_twin: Callable[[str], None],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._loop, self._identity, self.node, self.address = loop, identity, node, address
        self._limits, self._timing, self._uniform, self._report = limits, timing, uniform, report
        self._sweep_due = sweep_due
        self._refused_as_twin, self._tls = refused_as_twin, tls
        self.calls = Calls(loop, limits, self._whom, self._flush_soon)
        self.state = State.IDLE
        self.peer: Established | None = None
        self._why = ""
        self._twin = False  # another process with our identity is what the peer knows
        self._itself = False  # the address turned out to be our own
        self._connection: Connection | None = None
        self._up: asyncio.Future[str]  # of the attempt: "" once established, else why not
        self._down: asyncio.Future[str]  # why the connection is no more
        self._task: asyncio.Task[None] | None = None
        self._connects = self._bytes_sent = self._bytes_received = 0

    def ask(self, request: Request, deadline_s: float, class_: int, told: Told) -> PeerError | None:
        """As Calls.add."""
        state = self.state
        if state is not _CONNECTED and state is not State.CONNECTING:
            if state is not State.IDLE:
                return self.calls.refused(PeerUnreachable(f"{self._whom()}: {self._why}"))
            self.connect()
        return self.calls.add(request, deadline_s, class_, told)

    def expire(self, now_s: float) -> None:
        """Fails what is over its deadline, and gives a silent connection up."""
        connection = self._connection
        silent_s = self.calls.expire(now_s, connection.heard_s if connection is not None else now_s)
        if silent_s > self._timing.silence_s and self.state is State.CONNECTED:
            self._drop(f"not a byte for {silent_s:.1f} s")

    def stats(self) -> PeerStats:
        sent, received = self._bytes_sent, self._bytes_received
        if self._connection is not None:
            sent += self._connection.bytes_sent
            received += self._connection.bytes_received
        connected = self.state is State.CONNECTED
        calls = self.calls
        return PeerStats(connected, len(calls), calls.made, calls.failed, self._connects, sent, received)

    def _flush_soon(self) -> None:
        self._sweep_due()
        self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        if self._connection is not None and self.state is _CONNECTED:
            self.calls.send_to(self._connection)
        else:
            self.calls.waited()

    def _whom(self) -> str:
        return f"node {self.node} at {self.address}" if self.node else f"node at {self.address}"

    # --- owner of the connection ----------------------------------------------------------------------

    def established(self, connection: Connection, peer: Established) -> None:
        self.peer = peer
        self.state = State.CONNECTED
        self._connects += 1
        self.calls.send_to(connection)
        if not self._up.done():
            self._up.set_result("")

    def received(self, messages: tuple[Any, ...]) -> None:
        self.calls.received(messages)

    def writable(self) -> None:
        self._flush()

    def lost(self, connection: Connection, reason: str, failure: HandshakeFailed | None) -> None:
        self._itself = failure is not None and failure.code == "self"
        self._twin = failure is not None and failure.proven
        if self._twin:
            self._refused_as_twin(reason)
        self._ended(connection, reason)

    def _drop(self, reason: str) -> None:
        if self._connection is not None:
            self._connection.abort()
            self._ended(self._connection, reason)

    def _ended(self, connection: Connection, reason: str) -> None:
        """What depends on the connection changes in this turn of the loop; `_run` goes on in the next."""
        self._bytes_sent += connection.bytes_sent
        self._bytes_received += connection.bytes_received
        self._connection = self.peer = None
        if self.state is State.CONNECTED:
            self.state = State.CONNECTING
            self.calls.connection_lost(reason)
        for future in (self._up, self._down):
            if not future.done():
                future.set_result(reason)

    # --- connecting -----------------------------------------------------------------------------------

    def connect(self) -> None:
        """Begin to connect, unless that goes on already."""
        if self._task is None or self._task.done():
            self.state = State.CONNECTING
            self._task = self._loop.create_task(self._run(), name=f"rpc link to {self.address}")

    def move(self, address: str) -> None:
        """The peer is elsewhere now. Calls that wait for a connection wait for that one."""
        self.address = address
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._drop(f"the peer moved to {address}")
        self.connect()

    def close(self, reason: str) -> asyncio.Task[None] | None:
        """Fails every call; further ones fail at once. Returns what is still to be awaited."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        self._drop(reason)
        self.state, self._why = State.WAITING, reason
        self.calls.fail_unsent(reason)
        return task

    async def _run(self) -> None:
        """Keep the connection up: for ever to a known node, once to whoever is there."""
        attempt = 0
        while True:
            self.state = State.CONNECTING if attempt == 0 else State.RETRYING
            reason = await self._attempt()
            held_s = -1.0
            if not reason:
                since_s = self._loop.time()
                reason = await self._down
                held_s = self._loop.time() - since_s
            if not self._itself:
                self._report("peer lost", self.address, node=self.node, address=self.address, reason=reason)
            if self.node and held_s >= self._timing.stable_s:
                attempt = 0
                continue
            self.state, self._why = State.WAITING, reason
            self.calls.fail_unsent(reason)
            pause_s = self._pause_s(attempt)
            await asyncio.sleep(min(pause_s, TWIN_PAUSE_S) if self._twin else pause_s)
            attempt += 1
            if not self.node:
                self.state = State.IDLE
                return

    def _pause_s(self, attempt: int) -> float:
        timing, chance = self._timing, self._uniform(0.0, 1.0)
        return backoff_s(attempt, chance, base_s=timing.backoff_first_s, cap_s=timing.backoff_max_s)

    async def _attempt(self) -> str:
        """One connection and its handshake. Returns "" once it is established, else why it is not."""
        timeout_s = self._limits.connect_timeout_s
        handshake = Handshake(self._identity, client=True, address=self.address, expected=self.node)
        connection = Connection(self._loop, handshake, self, self._limits, handshake_timeout_s=timeout_s)
        self._connection = connection
        self._up, self._down = self._loop.create_future(), self._loop.create_future()
        try:
            async with asyncio.timeout(timeout_s):
                host, port = split_address(self.address)
                await self._loop.create_connection(lambda: connection, host, port, ssl=self._tls)
                return await self._up
        except TimeoutError:
            reason = f"no connection within {timeout_s:g} s"
        except (OSError, ValueError) as error:
            reason = str(error)
        self._drop(reason)
        return reason
