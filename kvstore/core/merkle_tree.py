"""What a replica holds of one partition, as hashes: two of them find where they differ in few bytes.

Source: Dynamo §4.7. A leaf is a segment of the keys by their hash; leaves, the level above them and the
root combine what is below by XOR, so that one write changes one path and reads nothing else, and so that
the order of writes does not matter. An item's hash covers its key and the causal part of its state: equal
causal parts are equal states, since a dot names one write ever.

Two sets of items that differ have equal roots with probability 2^-64 per comparison. That holds for
accidents. Somebody who picks keys to make XORs meet can hide a difference among keys of his own only.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from hashlib import blake2b

FAN_OUT = 32
SEGMENTS = FAN_OUT * FAN_OUT  # with 4,000 keys in a partition a segment holds four, a tree takes 8 KiB
HASH_BYTES = 8
ROOT, INNER, LEAVES = range(3)
"""Levels: 1, 32 and 1024 hashes."""


def item_hash(key: bytes, causal: bytes) -> int:
    """The causal part goes first: it says where it ends, so no two items are the same bytes."""
    return int.from_bytes(blake2b(causal + key, digest_size=HASH_BYTES).digest(), "big")


def segment_of(key: bytes) -> int:
    """Of another hash than the partition: the keys of one partition share bits of that one."""
    return int.from_bytes(blake2b(key, digest_size=4).digest(), "big") % SEGMENTS


class MerkleTree:
    """Hashes of the items of one partition. 8 KiB, once there is an item."""

    __slots__ = ("_inner", "_leaves", "root")

    def __init__(self) -> None:
        self.root = 0
        self._inner: array[int] | None = None
        self._leaves: array[int] | None = None

    def toggle(self, segment: int, difference: int) -> None:
        """Add an item's hash, or take it out again: XOR does not know which.

        Replacing one item by another is one toggle with the XOR of both hashes.
        """
        if self._inner is None or self._leaves is None:
            self._inner, self._leaves = array("Q", bytes(8 * FAN_OUT)), array("Q", bytes(8 * SEGMENTS))
        self._leaves[segment] ^= difference
        self._inner[segment // FAN_OUT] ^= difference
        self.root ^= difference

    def hashes(self, level: int, positions: Iterable[int]) -> list[int]:
        if level == ROOT:
            return [self.root for _ in positions]
        hashes = self._inner if level == INNER else self._leaves
        return [hashes[position] if hashes else 0 for position in positions]


def children(positions: Iterable[int]) -> list[int]:
    """Positions one level further down."""
    return [child for position in positions for child in range(position * FAN_OUT, (position + 1) * FAN_OUT)]


def differing_segments(mine: MerkleTree, theirs: MerkleTree) -> list[int]:
    """Walks down both trees as two nodes do by messages."""
    positions: Sequence[int] = [0]
    for level in (ROOT, INNER, LEAVES):
        pairs = zip(positions, mine.hashes(level, positions), theirs.hashes(level, positions), strict=True)
        positions = [position for position, left, right in pairs if left != right]
        if level != LEAVES:
            positions = children(positions)
    return list(positions)


def pack_hashes(hashes: Iterable[int]) -> bytes:
    return b"".join(each.to_bytes(HASH_BYTES, "big") for each in hashes)


def unpack_hashes(packed: bytes) -> list[int]:
    """Raises ValueError if it does not come out even."""
    if len(packed) % HASH_BYTES:
        raise ValueError(f"{len(packed)} bytes are no list of hashes")
    return [int.from_bytes(packed[at : at + HASH_BYTES], "big") for at in range(0, len(packed), HASH_BYTES)]


def pack_segments(segments: Iterable[int]) -> bytes:
    """As bits, 128 bytes for any number of segments."""
    bits = 0
    for segment in segments:
        bits |= 1 << segment
    return bits.to_bytes(SEGMENTS // 8, "big")


def unpack_segments(packed: bytes) -> frozenset[int]:
    """Raises ValueError for another length."""
    if len(packed) != SEGMENTS // 8:
        raise ValueError(f"{len(packed)} bytes are no set of segments")
    bits = int.from_bytes(packed, "big")
    return frozenset(segment for segment in range(SEGMENTS) if bits >> segment & 1)
