"""A hint: the state of a key, kept by a node that stands in for a home that is away.

Source: Dynamo §4.6 (hinted handoff). Per stand-in there is one record for each (target, key): later
writes merge into it, so that what is kept is bounded by keys and not by writes.

    record key   = target [16 bytes] ‖ full key
    record value = HLC time [u64] ‖ kept since, Unix ms [u64] ‖ encoded state of the key

The HLC time is that of the newest version where time decides, else 0: the target checks it as it would
check the write itself. `kept since` is for display only.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

from kvstore.core.encoding import decode_causal, merge_encoded
from kvstore.core.membership import NodeId
from kvstore.errors import CorruptRecord

TARGET_BYTES = 16
SLOW_FROM = 0.75  # of the cap: from here on answers are delayed, so that writers feel it before it is full

_HEADER = struct.Struct(">QQ")


class Hint(NamedTuple):
    """`state` is encoded; see the module for the rest."""

    state: bytes
    hlc_time: int = 0
    kept_ms: int = 0


def hint_key(target: NodeId, key: bytes) -> bytes:
    return bytes.fromhex(target) + key


def split_hint_key(record_key: bytes) -> tuple[NodeId, bytes]:
    """(target, full key)."""
    return record_key[:TARGET_BYTES].hex(), record_key[TARGET_BYTES:]


def encode_hint(hint: Hint) -> bytes:
    return _HEADER.pack(hint.hlc_time, hint.kept_ms) + hint.state


def decode_hint(record: bytes) -> Hint:
    """Raises CorruptRecord for a record too short to be one. The state is not looked at."""
    if len(record) <= _HEADER.size:
        raise CorruptRecord(f"a hint of {len(record)} bytes")
    return Hint(record[_HEADER.size :], *_HEADER.unpack_from(record))


def merge_hints(held: Hint | None, incoming: Hint) -> Hint:
    """One record for several writes: it knows all of them, and is as old as the first.

    Raises CorruptRecord if the incoming state does not parse.
    """
    causal = decode_causal(incoming.state)
    if held is None:
        return incoming
    return Hint(
        merge_encoded(held.state, incoming.state, causal),
        max(held.hlc_time, incoming.hlc_time),
        min(held.kept_ms, incoming.kept_ms),
    )


def owners(target: NodeId, homes: Sequence[NodeId]) -> Sequence[NodeId]:
    """Who gets the hint now: its target, or every home if the target is none any more (B11)."""
    return (target,) if target in homes else homes


def is_due(owners: Sequence[NodeId], may_ask: Callable[[NodeId], bool]) -> bool:
    """All owners can take it: the record may only go when every one of them has it."""
    return all(map(may_ask, owners))


def answer_delay_s(held: int, cap: int, delay_max_s: float) -> float:
    """How long a stand-in waits before it answers: not at all below SLOW_FROM of the cap, longest at it."""
    over = held / cap - SLOW_FROM
    return 0.0 if over <= 0 else min(over / (1 - SLOW_FROM), 1.0) * delay_max_s
