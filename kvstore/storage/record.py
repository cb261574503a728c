"""The bytes of a record on disk; nothing else in the project knows them.

    stored key = partition: 2 bytes big-endian ‖ key
    sealed     = format: 1 byte ‖ crc32: 4 bytes big-endian ‖ value

Stored keys sort by partition, then by key, so a partition is one range of the engine. The checksum
runs over the stored key and the value, seeded with the format: a value that turns up under another
key is as corrupt as one with a flipped bit. The engine has checksums per block; these hold end to
end, through its caches, its compactions and our own copying.
"""

from __future__ import annotations

from struct import Struct, error
from zlib import crc32

from kvstore.errors import CorruptRecord

FORMAT = 1
HEAD_BYTES = 5
PARTITION_BYTES = 2

END = b"\xff" * 4096
"""Behind every stored key: none is so long (core/limits.py)."""

_HEAD = Struct(">BI")
_pack, _unpack = _HEAD.pack, _HEAD.unpack_from


def stored_key(partition: int, key: bytes) -> bytes:
    """`partition` lies between 0 and 65,535; anything else raises OverflowError."""
    return partition.to_bytes(2, "big") + key


def partition_end(partition: int) -> bytes | None:
    """The first stored key behind the partition; None behind the last one."""
    return None if partition == 0xFFFF else (partition + 1).to_bytes(2, "big")


def seal(stored: bytes, value: bytes) -> bytes:
    return _pack(FORMAT, crc32(value, crc32(stored, FORMAT))) + value


def unseal(stored: bytes, sealed: bytes) -> bytes:
    """The value. Raises CorruptRecord if these are not the bytes that were sealed under this key."""
    try:
        version, checksum = _unpack(sealed)
    except error:
        raise CorruptRecord(f"record of {len(sealed)} bytes is shorter than its head") from None
    if version != FORMAT:
        raise CorruptRecord(f"record has format {version}; this release reads {FORMAT}")
    value = sealed[HEAD_BYTES:]
    if crc32(value, crc32(stored, FORMAT)) != checksum:
        raise CorruptRecord(f"checksum of a record of {len(value)} bytes does not hold")
    return value
