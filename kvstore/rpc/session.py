"""One peer that calls this node: its requests go to the handler, its replies back, in any order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from kvstore.core.limits import Limits
from kvstore.core.membership import NodeId
from kvstore.core.message import EMPTY_REPLY, REPLY_OF, Reply, Request
from kvstore.core.upkeep_message import Flush
from kvstore.errors import KVStoreError
from kvstore.rpc.connection import Connection
from kvstore.rpc.frames import PAYLOAD_OVERHEAD_BYTES
from kvstore.rpc.handshake import Established, HandshakeFailed
from kvstore.rpc.outbox import Outbox, ceilings
from kvstore.rpc.wire import (
    REQUEST_DECODERS,
    REQUESTS,
    Failure,
    encode_answer,
    encode_empty_answer,
    encode_failure,
    failure_of,
    open_request,
)

Handler = Callable[[NodeId, Request, float], Reply | asyncio.Future[Any]]
"""(sender, request, seconds that remain) -> the reply, or a future of it; KVStoreErrors travel back.

A future of None stands for a reply without fields: many calls can share one.
"""

_FLUSH = REQUESTS.index(Flush)
_REPLIES = tuple(REPLY_OF.values())
_WITHOUT_FIELDS = frozenset(REQUESTS.index(request) for request in EMPTY_REPLY)
_STOPPING = Failure("NotReady", "this node is stopping", "failed", "ask another node")
_STOPPED = Failure("NotReady", "this node stopped before it had an answer", "unknown", "ask another node")
_BUSY = Failure("Overloaded", "too many calls of this peer are being worked on", "failed", retry_after_s=0.1)
_BROKEN = Failure("InternalError", "the peer failed in a way it did not expect; its log says more")


class Host(Protocol):
    """What a session needs of the server."""

    handler: Handler
    draining: bool
    expired: int
    dropped: int

    def flushed(self, session: Session) -> None: ...

    def is_given_up(self, session: Session) -> bool: ...

    def broke(self, session: Session, request: str, error: BaseException) -> None: ...

    def progressed(self) -> None: ...

    def ended(self, session: Session, reason: str, failure: HandshakeFailed | None) -> None: ...


class Session:
    """Owner of a Connection, the `number`-th accepted. `node` is "" until the peer has proved itself."""

    def __init__(self, host: Host, loop: asyncio.AbstractEventLoop, limits: Limits, number: int) -> None:
        self._host, self._loop, self.number = host, loop, number
        self._now = loop.time
        self._outbox = Outbox(limits.peer_outbox_bytes_max, limits.frame_bytes_max)
        self._message_bytes_max = limits.frame_bytes_max - PAYLOAD_OVERHEAD_BYTES
        self._in_flight_max = ceilings(limits.peer_in_flight_max)
        self._replies = 0
        self._shared: asyncio.Future[Any] | None = None  # of the latest call that is not answered yet
        self._waiting: list[tuple[int, int, int]] = []  # (call id, number, class) of those that wait for it
        self._flush_due = False
        self._over = False
        self.in_flight = 0
        self.node: NodeId = ""
        self.instance = b""
        self.connection: Connection

    @property
    def is_idle(self) -> bool:
        """No work in hand and nothing to send."""
        return not self.in_flight and not self._outbox.bytes

    # --- owner of the connection ----------------------------------------------------------------------

    def established(self, connection: Connection, peer: Established) -> None:
        self.node, self.instance = peer.node_id, peer.instance
        if self._host.is_given_up(self):
            self._over = True
            connection.close("the peer uses a newer connection")

    def received(self, messages: tuple[Any, ...]) -> None:
        """The requests of one frame; what is answered at once leaves in one frame too."""
        if self._over:
            return
        arrived_s = self._now()
        self._flush_due = True
        try:
            for message in messages:
                self._serve(message, arrived_s)
        finally:
            self._flush()

    def writable(self) -> None:
        self._flush()

    def lost(self, connection: Connection, reason: str, failure: HandshakeFailed | None) -> None:
        self._over = True
        self._outbox.clear()
        self._host.ended(self, reason, failure)

    # --- requests ---------------------------------------------------------------------------------------

    def _serve(self, message: Any, arrived_s: float) -> None:
        call_id, number, deadline_ms, class_, fields = open_request(message)
        if number >= len(REQUESTS):
            # A newer release may well ask; it has to live with a no (B27).
            text = f"this node does not know requests of number {number}: it is of an older release"
            self._refuse(call_id, class_, Failure("InvalidRequest", text, "failed"))
            return
        request = REQUEST_DECODERS[number](fields)
        if number == _FLUSH:
            self._host.flushed(self)
        if self._host.draining or self.in_flight >= self._in_flight_max[class_]:
            self._refuse(call_id, class_, _STOPPING if self._host.draining else _BUSY)
            return
        deadline_s = deadline_ms / 1000 - (self._now() - arrived_s)
        if deadline_s <= 0:
            self._host.expired += 1  # nobody waits for it any more
            return
        try:
            reply = self._host.handler(self.node, request, deadline_s)
        except Exception as error:  # whatever it is, it ends this call and no other
            self._failed(call_id, number, class_, error)
            return
        if isinstance(reply, tuple):
            self._answer(call_id, number, class_, reply)
            return
        self.in_flight += 1
        if reply is not self._shared:
            # Calls that wait for the same sync share its future: one callback answers all of them.
            self._shared, self._waiting = reply, []
            reply.add_done_callback(partial(self._all_finished, self._waiting))
        self._waiting.append((call_id, number, class_))

    def _all_finished(self, waiting: list[tuple[int, int, int]], future: asyncio.Future[Any]) -> None:
        if self._shared is future:
            self._shared = None
        self.in_flight -= len(waiting)
        if not self._over:
            self._answer_all(waiting, future)
        if self._host.draining:
            self._host.progressed()

    def _answer_all(self, waiting: list[tuple[int, int, int]], future: asyncio.Future[Any]) -> None:
        error = None if future.cancelled() else future.exception()
        for call_id, number, class_ in waiting:
            if future.cancelled():
                self._refuse(call_id, class_, _STOPPED)
            elif error is not None:
                self._failed(call_id, number, class_, error)
            elif (reply := future.result()) is not None:
                self._answer(call_id, number, class_, reply)
            elif number in _WITHOUT_FIELDS:
                self._send(class_, encode_empty_answer(call_id))
            else:
                self._failed(call_id, number, class_, TypeError("None is no reply to it"))

    # --- replies ----------------------------------------------------------------------------------------

    def _answer(self, call_id: int, number: int, class_: int, reply: Any) -> None:
        try:
            if type(reply) is not _REPLIES[number]:
                raise TypeError(f"{type(reply).__name__} is no reply to {REQUESTS[number].__name__}")
            message = encode_answer(call_id, reply)
        except (ValueError, TypeError, OverflowError) as error:
            self._failed(call_id, number, class_, error)
            return
        if len(message) > self._message_bytes_max:
            text = f"the reply has {len(message)} bytes, the limit is {self._message_bytes_max}"
            self._refuse(call_id, class_, Failure("TooLarge", text))
            return
        self._send(class_, message)

    def _failed(self, call_id: int, number: int, class_: int, error: BaseException) -> None:
        if isinstance(error, KVStoreError):
            self._refuse(call_id, class_, failure_of(error))
            return
        self._host.broke(self, REQUESTS[number].__name__, error)
        self._refuse(call_id, class_, _BROKEN)

    def _refuse(self, call_id: int, class_: int, failure: Failure) -> None:
        self._send(class_, encode_failure(call_id, failure))

    def _send(self, class_: int, message: bytes) -> None:
        self._replies += 1
        if not self._outbox.add(class_, self._replies, message):
            # The peer does not read. Saying nothing is true: the work may have been done.
            self._host.dropped += 1
            return
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        outbox, connection = self._outbox, self.connection
        while outbox.bytes and connection.writable:
            connection.send(outbox.take().values())
        if self._host.draining:
            self._host.progressed()
