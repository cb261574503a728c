"""Key -> partition, on a fixed ring of Q equal slices.

Source: Dynamo §6.2, strategy 3. Q is set when the cluster is created and never changes; the
partition is the unit of ownership, transfer, repair and metric. Random tokens per node were Dynamo's
own first mistake.
"""

from __future__ import annotations

from hashlib import blake2b

PARTITIONS = 256


def full_key(bucket: str, key: bytes) -> bytes:
    """Bucket and key in one: names of buckets hold no NUL, so the first one divides."""
    return b"%b\0%b" % (bucket.encode(), key)


def split_key(full: bytes) -> tuple[str, bytes]:
    bucket, _, key = full.partition(b"\0")
    return bucket.decode(), key


def partition_of(full: bytes, partitions: int = PARTITIONS) -> int:
    """`partitions` is a power of two, at most 65,536: the first bits of an even hash are even too."""
    return int.from_bytes(blake2b(full, digest_size=2).digest(), "big") % partitions
