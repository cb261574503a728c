"""What nodes say to each other while nobody asks: frozen values like those of core/message.py, which see.

They are in `REPLY_OF` there, as all messages are.
"""

from __future__ import annotations

from typing import NamedTuple

from kvstore.core.membership import NodeId

# --- anti-entropy: what two homes of a partition say to each other -----------------------------------


class CompareTrees(NamedTuple):
    """Hashes of these positions of one level of the trees of these partitions, 8 bytes each.

    `n`: of the keys that live on n nodes. `terms`: digest of what both must agree on before hashes mean
    anything (BucketRegistry); refused as NotReady where it differs.
    """

    terms: bytes
    n: int
    partitions: tuple[int, ...]
    level: int
    positions: tuple[int, ...]
    hashes: bytes


class TreesCompared(NamedTuple):
    """One byte for each hash: 0 equal, 1 different, 2 no tree yet: ask again, 3 no scan gets through."""

    verdicts: bytes


class ListKeys(NamedTuple):
    """Keys of these segments (bits) strictly after `after`."""

    terms: bytes
    n: int
    partition: int
    segments: bytes
    after: bytes = b""


class KeysListed(NamedTuple):
    """(key, hash of the item; b"" for an unreadable record), in order of keys.

    `more`: nothing up to `last` is left out, and there may be keys after it.
    """

    items: tuple[tuple[bytes, bytes], ...]
    last: bytes
    more: bool


class FetchStates(NamedTuple):
    partition: int
    keys: tuple[bytes, ...]


class StatesFetched(NamedTuple):
    """Of the first keys asked for, as many as the limits allow; b"" for none or an unreadable one."""

    states: tuple[bytes, ...]


class StoreStates(NamedTuple):
    """Merge these (key, state) into yours, and answer when they are durable."""

    partition: int
    items: tuple[tuple[bytes, bytes], ...]


class StatesStored(NamedTuple):
    """How many were merged; those this node is no home of are not."""

    stored: int


class RepairPartitions(NamedTuple):
    """Make all homes in reach equal, with you as the one that compares."""

    partitions: tuple[int, ...]
    timeout_ms: int


class PartitionsRepaired(NamedTuple):
    """`failed`: partitions of which a home in reach could not be compared in time.

    `healed`: states that one home lacked and has now. `missing`: homes out of reach.
    """

    failed: tuple[int, ...]
    healed: int
    missing: tuple[NodeId, ...]


class DeliverHints(NamedTuple):
    """Deliver what you keep for nodes in reach, and answer when that is done."""

    timeout_ms: int


class HintsDelivered(NamedTuple):
    """`done`: nothing is left for a node in reach."""

    done: bool


# --- tombstones (core/tombstone.py) -------------------------------------------------------------------


class ProveTombstones(NamedTuple):
    """What do you know of these (partition, key, digest of the state), each of nothing but tombstones?

    Answered once everything that might send an older state of them has ended, and all members have read
    what it sent. Refused as NotReady where that takes too long.
    """

    items: tuple[tuple[int, bytes, bytes], ...]


class TombstonesProven(NamedTuple):
    """One byte for each: an Answer of core/tombstone.py."""

    answers: bytes


class DropTombstones(NamedTuple):
    """Nothing older than these is left anywhere: forget each record that still has this digest."""

    items: tuple[tuple[int, bytes, bytes], ...]


class TombstonesDropped(NamedTuple):
    """One byte for each, durable: 1 if no such record is here now, 0 if another one is."""

    dropped: bytes


class Flush(NamedTuple):
    """Answer when you have read all that this node sent before: a link keeps the order."""
