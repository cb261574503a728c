"""The bytes of a record: what was sealed comes back, and nothing else does."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kvstore.errors import CorruptRecord
from kvstore.storage.record import HEAD_BYTES, partition_end, seal, stored_key, unseal

partitions = st.integers(0, 0xFFFF)
keys = st.binary(max_size=40)
values = st.binary(max_size=200)


@given(partitions, keys, values)
def test_what_was_sealed_comes_back(partition: int, key: bytes, value: bytes) -> None:
    stored = stored_key(partition, key)
    sealed = seal(stored, value)
    assert unseal(stored, sealed) == value
    assert len(sealed) == len(value) + HEAD_BYTES


@given(partitions, keys, values)
def test_every_single_flipped_bit_is_detected(partition: int, key: bytes, value: bytes) -> None:
    stored = stored_key(partition, key)
    sealed = seal(stored, value)
    for bit in range(len(sealed) * 8):
        damaged = bytearray(sealed)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptRecord):
            unseal(stored, bytes(damaged))


@given(partitions, keys, partitions, keys, values)
def test_a_value_under_another_key_is_detected(
    partition: int, key: bytes, other_partition: int, other_key: bytes, value: bytes
) -> None:
    assume((partition, key) != (other_partition, other_key))
    sealed = seal(stored_key(partition, key), value)
    with pytest.raises(CorruptRecord):
        unseal(stored_key(other_partition, other_key), sealed)


@given(partitions, keys, values, st.data())
def test_a_cut_value_is_detected(partition: int, key: bytes, value: bytes, data: st.DataObject) -> None:
    stored = stored_key(partition, key)
    sealed = seal(stored, value)
    kept = data.draw(st.integers(0, len(sealed) - 1))
    with pytest.raises(CorruptRecord):
        unseal(stored, sealed[:kept])


@given(st.lists(st.tuples(partitions, keys), unique=True))
def test_stored_keys_sort_by_partition_then_key(pairs: list[tuple[int, bytes]]) -> None:
    assert [stored_key(*pair) for pair in sorted(pairs)] == sorted(stored_key(*pair) for pair in pairs)


@given(partitions, keys)
def test_the_end_of_a_partition_is_behind_all_its_keys_and_before_the_next(
    partition: int, key: bytes
) -> None:
    end = partition_end(partition)
    if partition == 0xFFFF:
        assert end is None
    else:
        assert stored_key(partition, key) < stored_key(partition, b"\xff" * 1024) < (end or b"")
        assert end == stored_key(partition + 1, b"")


@pytest.mark.parametrize("partition", [-1, 0x10000])
def test_a_partition_out_of_range_has_no_key(partition: int) -> None:
    with pytest.raises(OverflowError):
        stored_key(partition, b"")


def test_the_bytes_are_those_of_every_release() -> None:
    """A change here makes every data directory unreadable: it needs a new format number."""
    assert seal(stored_key(7, b"key"), b"value").hex() == "01cb5e420e76616c7565"
