"""Bytes that no encoder made: refused by name, whatever they are, at bounded cost."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kvstore.core.encoding import (
    causal_bytes,
    decode_causal,
    decode_context,
    decode_state,
    digest,
    encode_context,
    encode_state,
    merge_encoded,
    open_own,
)
from kvstore.core.sibling import KeyState, Version
from kvstore.core.vector_clock import CausalContext
from kvstore.errors import CorruptRecord, InvalidContext
from tests.core.strategies import states

_ONE_SIBLING = b"\x93\x92\x05\x01\x90\x92\x05\x01"
GOOD: bytes = encode_state(
    KeyState(
        {(1, 2): Version(b"value", metadata=(("name", "text"),)), (2, 9): Version(b"other")},
        CausalContext({1: 3}, frozenset({(2, 9)})),
    )
)
READERS: tuple[Callable[[bytes], Any], ...] = (
    decode_state,
    decode_causal,
    causal_bytes,
    digest,
    open_own,
    lambda encoded: merge_encoded(GOOD, encoded),
    lambda encoded: merge_encoded(encoded, GOOD),
)


def _readers_refuse_or_read(encoded: bytes) -> None:
    for read in READERS:
        with suppress(CorruptRecord):
            read(encoded)
    try:
        state = decode_state(encoded)
    except CorruptRecord:
        pass
    else:
        assert causal_bytes(encode_state(state)) == causal_bytes(encoded), "read what is not canonical"
        for version in state.siblings.values():
            assert list(map(type, version)) == [bytes, bool, str, tuple, int, bytes, int]
            assert all(type(text) is str for pair in version.metadata for text in pair)
    try:
        context = decode_context(encoded)
    except InvalidContext:
        pass
    else:
        assert encode_context(context) == encoded, "read what is not canonical"


@given(st.binary(max_size=64))
def test_arbitrary_bytes_are_refused_by_name(encoded: bytes) -> None:
    _readers_refuse_or_read(encoded)


@given(states(), st.data())
def test_damaged_bytes_are_refused_by_name_or_read_as_a_state(state: KeyState, data: st.DataObject) -> None:
    encoded = bytearray(encode_state(state))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(encoded) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "insert", "remove"])):
            case "flip":
                encoded[at] ^= 1 << data.draw(st.integers(0, 7))
            case "cut":
                del encoded[at + 1 :]
            case "insert":
                encoded[at:at] = data.draw(st.binary(min_size=1, max_size=5))
            case "remove":
                del encoded[at : at + max(1, min(3, len(encoded) - 1))]
        encoded = encoded or bytearray(b"\x00")
    _readers_refuse_or_read(bytes(encoded))


msgpack_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.binary(max_size=4)
    | st.text(max_size=4)
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=4)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=12,
)


@given(st.data())
def test_well_formed_msgpack_of_another_shape_is_refused_by_name(data: st.DataObject) -> None:
    """Also with the right outer shape, so that every inner part is reached."""
    part = msgpack_values | st.lists(msgpack_values, min_size=2, max_size=3)
    causal = st.just(decode_parts(GOOD)[1]) | part.map(msgpack.packb)
    contents = st.just(decode_parts(GOOD)[2]) | part.map(msgpack.packb)
    whole = data.draw(part | st.tuples(st.just(1) | msgpack_values, causal, contents))
    _readers_refuse_or_read(msgpack.packb(whole))


@given(st.integers(0, 6), msgpack_values | st.lists(msgpack_values, max_size=4))
def test_a_field_of_another_type_is_refused_by_name(position: int, value: Any) -> None:
    fields: list[Any] = [b"value", False, "text/plain", ["name", "text"], 7, b"op", 9]
    fields[position] = value
    _readers_refuse_or_read(msgpack.packb([1, _ONE_SIBLING, msgpack.packb([fields])]))


@given(st.lists(msgpack_values, max_size=4), st.integers(0, 2))
@example([None, None], 0)
@example([[], {}], 1)
@example([5], 2)
def test_dots_of_other_types_are_refused_by_name(numbers: list[Any], position: int) -> None:
    """On either side of a merge: what is read from several replicas is nobody's own."""
    parts: list[list[Any]] = [[5, 1], [], []]
    parts[position] = numbers
    _readers_refuse_or_read(msgpack.packb([1, msgpack.packb(parts), msgpack.packb([])]))


def decode_parts(encoded: bytes) -> list[Any]:
    parts: list[Any] = msgpack.unpackb(encoded)
    return parts


def _causal(vector: list[int], cloud: list[int], siblings: list[int]) -> bytes:
    contents = [list(Version(b"", metadata=()))] * (len(siblings) // 2)
    packed: bytes = msgpack.packb([1, msgpack.packb([vector, cloud, siblings]), msgpack.packb(contents)])
    return packed


NOT_CANONICAL = {
    "replica id twice": _causal([5, 1, 5, 2], [], []),
    "vector out of order": _causal([6, 1, 5, 1], [], []),
    "cloud out of order": _causal([], [6, 3, 5, 3], []),
    "cloud dot twice": _causal([], [5, 3, 5, 3], []),
    "cloud dot that the vector reaches": _causal([5, 3], [5, 2], []),
    "cloud dot that continues the vector": _causal([5, 3], [5, 4], []),
    "cloud dot that starts a vector": _causal([], [5, 1], []),
    "siblings out of order": _causal([5, 3], [], [5, 2, 5, 1]),
    "sibling twice": _causal([5, 3], [], [5, 2, 5, 2]),
    "sibling that the context does not cover": _causal([5, 3], [], [5, 4]),
    "counter of zero": _causal([5, 0], [], []),
    "negative counter": _causal([5, -1], [], []),
    "half a dot": _causal([5], [], []),
    "true for one": msgpack.packb([True, *msgpack.unpackb(GOOD)[1:]]),
    "number in a longer form": msgpack.packb([1, b"\x93\x92\x05\xcc\x02\x90\x90", b"\x90"]),
    "more versions than siblings": msgpack.packb(
        [1, b"\x93\x90\x90\x90", msgpack.packb([list(Version(b""))])]
    ),
    "more of anything than an honest state has": _causal(
        [n for i in range(40_000) for n in (i + 1, 1)], [], []
    ),
    "a later format": msgpack.packb([2, *msgpack.unpackb(GOOD)[1:]]),
    "something behind": GOOD + b"\x00",
}


@pytest.mark.parametrize("encoded", NOT_CANONICAL.values(), ids=NOT_CANONICAL)
def test_a_second_form_of_a_state_is_refused(encoded: bytes) -> None:
    """Read, it would be a state that never becomes byte-equal to its own copy."""
    with pytest.raises(CorruptRecord):
        decode_state(encoded)


@pytest.mark.parametrize(
    "encoded",
    [
        b"\x92\x92\x05\x02\x92\x05\x03",
        b"\x92\x92\x05\xcc\x02\x90",
        b"\x92\x90\x92\x05\x01",
        b"\x93\x90\x90\x90",
    ],
)
def test_a_second_form_of_a_context_is_refused(encoded: bytes) -> None:
    with pytest.raises(InvalidContext):
        decode_context(encoded)


HOSTILE = {
    "nested arrays that promise much": b"\xdd\x00\x00\xff\xff" * 2000,
    "nested arrays that promise all": b"\xdd\xff\xff\xff\xff" * 2000,
    "deeply nested arrays": b"\x91" * 100_000,
    "an array that promises all": b"\xdd\xff\xff\xff\xff",
    "a map that promises all": b"\xdf\xff\xff\xff\xff",
    "bytes that promise all": b"\xc6\xff\xff\xff\xff",
    "text that promises all": b"\xdb\xff\xff\xff\xff",
    "an extension that promises all": b"\xc9\xff\xff\xff\xff\x01",
}
HOSTILE_BYTES_MAX = 128 * 1024 * 1024  # 1,024 levels of msgpack's stack, each allocated ahead


@pytest.mark.parametrize("bomb", HOSTILE.values(), ids=HOSTILE)
def test_hostile_lengths_cost_bounded_memory(bomb: bytes) -> None:
    """Outside, and within each part: a length is believed up to a bound only."""
    inside = [
        bomb,
        b"\x93\x01" + bomb,
        msgpack.packb([1, bomb, b""]),
        msgpack.packb([1, decode_parts(GOOD)[1], bomb]),
        msgpack.packb([1, b"\x93\x90\x90" + bomb, b"\x90"]),
    ]
    tracemalloc.start()
    try:
        for encoded in inside:
            with pytest.raises(CorruptRecord):
                decode_state(encoded)
        for encoded in (bomb, b"\x92" + bomb, b"\x92\x90" + bomb):
            with pytest.raises(InvalidContext):
                decode_context(encoded)
        assert tracemalloc.get_traced_memory()[1] < HOSTILE_BYTES_MAX
    finally:
        tracemalloc.stop()
