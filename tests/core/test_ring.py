"""Key -> partition: even, stable for ever, and one full key per bucket and key."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.core.ring import PARTITIONS, full_key, partition_of, split_key

bucket_names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,15}", fullmatch=True)


@given(bucket_names, st.binary(max_size=32))
def test_a_full_key_divides_into_its_bucket_and_key(bucket: str, key: bytes) -> None:
    """Keys may hold any bytes, NUL too."""
    assert split_key(full_key(bucket, key)) == (bucket, key)


@given(st.binary(max_size=64), st.sampled_from([1, 2, 16, 256, 1024, 65_536]))
def test_every_key_has_one_partition(full: bytes, partitions: int) -> None:
    assert 0 <= partition_of(full, partitions) < partitions
    assert partition_of(full, partitions) == partition_of(bytes(full), partitions)


@pytest.mark.parametrize(
    "key",
    [b"user:%d", b"%020d", b"%x", b"2024-01-01T00:00:00.%09dZ"],
    ids=["prefix", "padded", "hex", "time"],
)
def test_keys_that_look_alike_spread_evenly(key: bytes) -> None:
    """Chi-square over 256 partitions: 255 degrees of freedom, 0.1 % of even hashes exceed 330."""
    keys = 51_200
    counts = Counter(partition_of(full_key("b", key % number)) for number in range(keys))
    expected = keys / PARTITIONS
    chi_square = sum((counts[p] - expected) ** 2 / expected for p in range(PARTITIONS))
    assert chi_square < 330


def test_a_key_never_changes_its_partition() -> None:
    """These are on disks: another hash would lose every key."""
    assert PARTITIONS == 256
    found = [partition_of(full_key(b, k)) for b, k in (("a", b""), ("users", b"ann"), ("x", b"\0\xff"))]
    assert found == [186, 194, 63]
