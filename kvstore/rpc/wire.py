"""The bytes of a call: msgpack arrays <-> the NamedTuples of core/message.py.

    request = [call id: u32, number, deadline: u32 ms, class, [field, …]]
    answer  = [call id: u32, 0, [field, …]]
    refusal = [call id: u32, 1, [field of Failure, …]]

`number` is the position of the class in REPLY_OF. The deadline is time that remains, not a time of
day. Elements beyond those known are ignored. Encoding needs no code per class: a NamedTuple packs as an
array. A message lies within one frame.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import IntEnum
from typing import Any, NamedTuple

import msgpack

from kvstore.core.gossip_message import Gossip
from kvstore.core.message import (
    REPLY_OF,
    Commit,
    FetchBucket,
    FetchCluster,
    Held,
    Propose,
    Read,
    Release,
    Reply,
    Request,
    Store,
    StoreBucket,
    Stored,
)
from kvstore.errors import KVStoreError, PeerRefused
from kvstore.rpc.decoding import Decoder, MalformedFrame, decoder

CALL_ID_MAX = DEADLINE_MS_MAX = 0xFFFF_FFFF
DETAIL_CHARACTERS_MAX = 1024


class CallClass(IntEnum):
    """What a call is for. Each class has its own queue, and those above are sent first."""

    CONTROL = 2  # the cluster about itself: a node busy with data must not look dead
    DATA = 0  # a client waits for it
    BACKGROUND = 1  # repair and transfer: may wait


_CONTROL = (Gossip, FetchCluster, Propose, Commit, Release, StoreBucket, FetchBucket)


class Failure(NamedTuple):
    """An error as it travels. `code`: name of the class; the counts of QuorumNotMet, where it is one."""

    code: str
    detail: str
    outcome: str = "unknown"
    advice: str = ""
    required: int = 0
    received: int = 0
    asked: int = 0
    hinted: int = 0
    replicas: tuple[tuple[str, str], ...] = ()
    retry_after_s: float = 0.0


_FACTS = ("required", "received", "asked", "hinted", "replicas", "retry_after_s")


# --- decoding -------------------------------------------------------------------------------------------

_new = tuple.__new__

# The four messages of the data path by hand: 0.25 µs each instead of 1 µs. Whatever is not exactly the
# expected form takes the derived decoder, which is also what a test compares them with.

_derived_read, _derived_held, _derived_store = decoder(Read), decoder(Held), decoder(Store)
_derived_stored, _STORED = decoder(Stored), Stored()


def _read(fields: Any) -> Any:
    if type(fields) is tuple and len(fields) == 3:
        partition, key, known = fields
        if type(partition) is int and type(key) is bytes and type(known) is bytes:
            return _new(Read, fields)
    return _derived_read(fields)


def _held(fields: Any) -> Any:
    if type(fields) is tuple and len(fields) == 2:
        same, state = fields
        if type(same) is bool and type(state) is bytes:
            return _new(Held, fields)
    return _derived_held(fields)


def _store(fields: Any) -> Any:
    if type(fields) is tuple and len(fields) == 7:
        partition, key, state, sync, hlc_time, base, writer = fields
        if (
            type(partition) is type(hlc_time) is type(writer) is int
            and type(key) is type(state) is type(base) is bytes
            and type(sync) is bool
        ):
            return _new(Store, fields)
    return _derived_store(fields)


def _stored(fields: Any) -> Any:
    return _STORED if fields == () else _derived_stored(fields)


_BY_HAND: dict[Any, Decoder] = {Read: _read, Held: _held, Store: _store, Stored: _stored}


def _decoder_of(message: Any) -> Decoder:
    return _BY_HAND.get(message) or decoder(message)


REQUESTS: tuple[type[Request], ...] = tuple(REPLY_OF)
REQUEST_DECODERS: tuple[Decoder, ...] = tuple(map(_decoder_of, REQUESTS))

ROUTES: dict[type[Request], tuple[int, Decoder, bool]] = {
    request: (number, _decoder_of(REPLY_OF[request]), request in _CONTROL)
    for number, request in enumerate(REQUESTS)
}
"""Request class -> (number, decoder of its reply, whether it is always of class CONTROL)."""

_decode_failure = decoder(Failure)


def open_request(message: Any) -> tuple[int, int, int, int, Any]:
    """(call id, number, deadline in ms, class, fields) of a request. `number` may be one not known here."""
    if type(message) is tuple and len(message) >= 5:
        call_id, number, deadline_ms, class_, fields = message[:5]
        if (
            type(call_id) is type(number) is type(deadline_ms) is type(class_) is int
            and 0 <= call_id <= CALL_ID_MAX
            and number >= 0
            and 0 <= class_ <= 2
        ):
            return call_id, number, deadline_ms, class_, fields
    raise MalformedFrame("not a request")


def open_reply(message: Any) -> tuple[int, int, Any]:
    """(call id, 0 for an answer and 1 for a refusal, fields)."""
    if type(message) is tuple and len(message) >= 3:
        call_id, status, fields = message[:3]
        if type(call_id) is type(status) is int and 0 <= status <= 1:
            return call_id, status, fields
    raise MalformedFrame("not a reply")


def refused(fields: Any) -> PeerRefused:
    """The error of a refusal: `outcome`, `advice` and the counts (in `problem`) as the peer gave them."""
    failure: Failure = _decode_failure(fields)
    error = PeerRefused(failure.detail, code=failure.code)
    error.outcome, error.advice = failure.outcome, failure.advice
    error.problem = {name: value for name in _FACTS if (value := getattr(failure, name))}
    return error


# --- encoding -------------------------------------------------------------------------------------------

# One packer for the process: packing is one C call under the GIL that calls back into nothing.
_pack: Callable[[Any], bytes] = msgpack.Packer(autoreset=True).pack
# Integers of fixed width: a deadline can be corrected in place, and it is faster than packing five values.
_request_header = struct.Struct(">BBIBBIB").pack
_reply_header = struct.Struct(">BBIB").pack
_empty_answer = struct.Struct(">BBIBB").pack
_DEADLINE = slice(8, 12)

assert len(REQUESTS) < 128, "numbers from 128 on take two bytes and another header"


def encode_request(call_id: int, number: int, deadline_s: float, class_: int, request: Request) -> bytes:
    """Raises what msgpack raises for values that it cannot express: ValueError, TypeError, OverflowError."""
    deadline_ms = int(deadline_s * 1000)
    if not 0 < deadline_ms <= DEADLINE_MS_MAX:
        deadline_ms = deadline_in_ms(deadline_s)
    return _request_header(0x95, 0xCE, call_id, number, 0xCE, deadline_ms, class_) + _packed(request)


class _Packed:
    """The bytes of the request that was packed last: a Store goes to all homes of its key, one after the
    other, and was packed for each of them otherwise (1.1 µs with 100 bytes, and it copies the value)."""

    __slots__ = ("_encoded", "_request")

    def __init__(self) -> None:
        self._request: Request | None = None
        self._encoded = b""

    def __call__(self, request: Request) -> bytes:
        if request is not self._request:
            self._request, self._encoded = None, _pack(request)
            self._request = request
        return self._encoded


_packed = _Packed()


def with_deadline(encoded: bytes, deadline_s: float) -> bytes:
    """The same request with less time: for one that had to wait before it was sent."""
    corrected = deadline_in_ms(deadline_s).to_bytes(4, "big")
    return b"%b%b%b" % (encoded[: _DEADLINE.start], corrected, encoded[_DEADLINE.stop :])


def deadline_in_ms(deadline_s: float) -> int:
    """0 only for no time at all: 0 is taken for expired."""
    if deadline_s <= 0:
        return 0
    return min(int(deadline_s * 1000) or 1, DEADLINE_MS_MAX)


def encode_answer(call_id: int, reply: Reply) -> bytes:
    """Raises as `encode_request`."""
    return _reply_header(0x93, 0xCE, call_id, 0) + _pack(reply)


def encode_empty_answer(call_id: int) -> bytes:
    """`encode_answer` of a reply without fields."""
    return _empty_answer(0x93, 0xCE, call_id, 0, 0x90)


def encode_failure(call_id: int, failure: Failure) -> bytes:
    """Raises nothing: an error that cannot be told whole is told by its name."""
    try:
        return _reply_header(0x93, 0xCE, call_id, 1) + _pack(failure)
    except (ValueError, TypeError, OverflowError):
        return encode_failure(call_id, Failure(_text(failure.code), "(its details cannot be encoded)"))


def failure_of(error: KVStoreError) -> Failure:
    """What of an error may travel: text is cut and made valid UTF-8."""
    facts = {name: value for name in _FACTS if (value := getattr(error, name, None)) is not None}
    return Failure(
        type(error).__name__,
        _text(error.detail or str(error)),
        error.outcome,
        _text(error.advice),
        **facts,
    )


def _text(text: str) -> str:
    return text[:DETAIL_CHARACTERS_MAX].encode("utf-8", "replace").decode()
