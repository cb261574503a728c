"""The calls to one peer that have no answer yet.

A call is in exactly one place. In the outbox, nothing of it has left: it fails as PeerUnreachable.
Given to a connection, it may have arrived: it fails as PeerTimeout. No task and no timer belongs to a
call; somebody sweeps the deadlines now and then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from kvstore.core.limits import Limits
from kvstore.core.message import Reply, Request
from kvstore.errors import KVStoreError, PeerError, PeerRefused, PeerTimeout, PeerUnreachable
from kvstore.rpc.connection import Connection
from kvstore.rpc.decoding import Decoder, MalformedFrame
from kvstore.rpc.frames import PAYLOAD_OVERHEAD_BYTES
from kvstore.rpc.outbox import Outbox, ceilings
from kvstore.rpc.wire import (
    CALL_ID_MAX,
    ROUTES,
    CallClass,
    encode_request,
    open_reply,
    refused,
    with_deadline,
)

_CONTROL = int(CallClass.CONTROL)


Told = Callable[[Reply | KVStoreError], None]
"""Hears what a call came to."""

_Call = tuple[Told, float, Decoder, int, float]
"""(who is told, loop time of its deadline, decoder of the reply, class, loop time of the call).

A NamedTuple takes 0.3 µs to make, this 0.05.
"""


class Calls:
    """`made` and `failed` count calls; a call that the caller gave up counts as neither answered nor failed.

    `whom()` says in error texts which peer this is.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limits: Limits,
        whom: Callable[[], str],
        flush_soon: Callable[[], None],
    ) -> None:
        self._loop, self._whom, self._flush_soon = loop, whom, flush_soon
        self._now = loop.time
        self._calls: dict[int, _Call] = {}
        self._message_bytes_max = limits.frame_bytes_max - PAYLOAD_OVERHEAD_BYTES
        self._calls_max = ceilings(limits.peer_in_flight_max)
        self._outbox = Outbox(limits.peer_outbox_bytes_max, limits.frame_bytes_max)
        self._last_id = 0
        self._waited = False  # the outbox may hold what was not sent in its turn: its deadline is stale
        self._silent_since_s: float | None = None
        self.made = 0
        self.failed = 0

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, request: Request, deadline_s: float, class_: int, told: Told) -> PeerError | None:
        """To be sent by the next `send_to`; `flush_soon` asks for one if there was nothing to send before.

        `told` will be called once: a future, and a turn of the loop for each answer, take 1 µs more. What
        stands in the way is returned instead, and nobody is told.
        """
        number, decode, control = ROUTES[type(request)]
        if control:
            class_ = _CONTROL
        refusal: PeerError | None = None
        call_id, message = (self._last_id + 1) & CALL_ID_MAX, b""
        if len(self._calls) >= self._calls_max[class_]:
            refusal = PeerUnreachable(f"{self._whom()}: too many calls in flight")
        elif deadline_s <= 0:
            refusal = PeerUnreachable(f"{self._whom()}: no time left for a call")
        else:
            try:
                message = encode_request(call_id, number, deadline_s, class_, request)
            except (ValueError, TypeError, OverflowError) as error:
                text = f"the request cannot be encoded: {error}"
                refusal = PeerRefused(text, code="InvalidRequest")
            if len(message) > self._message_bytes_max:
                text = f"the request has {len(message)} bytes, the limit is {self._message_bytes_max}"
                refusal = PeerRefused(text, code="TooLarge")
        idle = not self._outbox.bytes
        if refusal is None and not self._outbox.add(class_, call_id, message):
            refusal = PeerUnreachable(f"{self._whom()}: too many bytes wait to be sent")
        if refusal is not None:
            return self.refused(refusal)
        self.made += 1
        self._last_id = call_id
        now_s = self._now()
        self._calls[call_id] = (told, now_s + deadline_s, decode, class_, now_s)
        if idle:
            self._flush_soon()
        return None

    def send_to(self, connection: Connection) -> None:
        """Everything that waits: one frame, unless it is much or the connection has enough for now."""
        outbox = self._outbox
        while outbox.bytes and connection.writable:
            messages = outbox.take()
            connection.send(self._corrected(messages) if self._waited else messages.values())
        self._waited = bool(outbox.bytes)

    def waited(self) -> None:
        """What is in the outbox has been there for longer than one turn of the loop."""
        self._waited = True

    def _corrected(self, messages: dict[int, bytes]) -> list[bytes]:
        calls, now_s = self._calls, self._now()
        return [with_deadline(message, calls[id_][1] - now_s) for id_, message in messages.items()]

    def received(self, messages: tuple[Any, ...]) -> None:
        """Replies in any order. Raises MalformedFrame."""
        calls = self._calls
        for message in messages:
            call_id, status, fields = open_reply(message)
            call = calls.pop(call_id, None)
            if call is None:
                continue  # late: the caller was told long ago
            told, _, decode, _, _ = call
            try:
                reply: Any = decode(fields) if status == 0 else refused(fields)
            except MalformedFrame:
                calls[call_id] = call  # it ends with the connection
                raise
            if status:
                self._fail(told, reply)
            else:
                self._tell(told, reply)

    def expire(self, now_s: float, heard_s: float) -> float:
        """Fails what is over its deadline: one pass over the calls in flight, 0.1 µs each.

        `heard_s`: when the peer last sent anything. Returns for how long calls have been expiring
        without a single byte from there; 0 while there is no such sign.
        """
        expired = [call_id for call_id, call in self._calls.items() if call[1] <= now_s]
        if not expired:
            return 0.0
        if self._silent_since_s is not None and heard_s > self._silent_since_s:
            self._silent_since_s = None
        whom = self._whom()
        for call_id in expired:
            told, deadline_at_s, _, class_, made_at_s = self._calls.pop(call_id)
            took_s = deadline_at_s - made_at_s
            if self._outbox.drop(class_, call_id):
                self._fail(told, PeerUnreachable(f"{whom}: nothing could be sent for {took_s:.3g} s"))
                continue
            self._fail(told, PeerTimeout(f"{whom}: no answer within {took_s:.3g} s"))
            if self._silent_since_s is None and heard_s <= made_at_s:
                self._silent_since_s = made_at_s
        return 0.0 if self._silent_since_s is None else now_s - self._silent_since_s

    def fail_unsent(self, why: str) -> None:
        whom = self._whom()
        for call_id, (told, _, _, class_, _) in list(self._calls.items()):
            if self._outbox.drop(class_, call_id):
                del self._calls[call_id]
                self._fail(told, PeerUnreachable(f"{whom}: {why}"))

    def connection_lost(self, why: str) -> None:
        """Nothing waits any more: unsent calls fail as unreachable, the others as timed out."""
        self.fail_unsent(f"connection lost: {why}")
        calls, self._calls = self._calls, {}
        self._silent_since_s = None
        whom = self._whom()
        for told, _, _, _, _ in calls.values():
            self._fail(told, PeerTimeout(f"{whom}: connection lost: {why}"))

    def refused(self, error: PeerError) -> PeerError:
        """Of a call that never was in flight."""
        self.made += 1
        self.failed += 1
        return error

    def _fail(self, told: Told, error: KVStoreError) -> None:
        self.failed += 1
        self._tell(told, error)

    def _tell(self, told: Told, outcome: Reply | KVStoreError) -> None:
        """What is wrong with one who is told is no fault of the connection, nor of the other calls."""
        try:
            told(outcome)
        except Exception as error:
            context = {"message": f"{self._whom()}: what became of a call was not taken", "exception": error}
            self._loop.call_exception_handler(context)


def settle(future: asyncio.Future[Reply], outcome: Reply | KVStoreError) -> None:
    """`Told` of who waits for a future, and may have given it up."""
    if future.done():
        return
    if isinstance(outcome, KVStoreError):
        future.set_exception(outcome)
        future.exception()  # a vote that nobody waits for any more is no error to log
    else:
        future.set_result(outcome)
