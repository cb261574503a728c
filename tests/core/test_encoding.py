"""The bytes of states and contexts: canonical, exact, and safe to read from anybody."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.core.encoding import (
    causal_bytes,
    decode_causal,
    decode_context,
    decode_state,
    digest,
    encode_context,
    encode_state,
    etag,
    merge_encoded,
    open_own,
)
from kvstore.core.sibling import EMPTY_STATE, KeyState, Version, merge, write
from kvstore.core.vector_clock import EMPTY_CONTEXT, CausalContext, Dot, context_of
from kvstore.errors import CorruptRecord, InvalidContext
from tests.core.strategies import contexts, dots, states, states_of_one_history

# --- round trip and canonical form ----------------------------------------------------------------------


@given(states())
def test_a_state_survives_the_round_trip(state: KeyState) -> None:
    encoded = encode_state(state)
    assert decode_state(encoded) == state
    assert decode_causal(encoded) == (state.context, tuple(sorted(state.siblings)))


@given(states())
def test_what_a_node_wrote_itself_opens_to_the_same_without_the_checks(state: KeyState) -> None:
    """Also the canonical order of its contents, which `open_own` leaves unparsed."""
    encoded = encode_state(state)
    causal, contents = open_own(encoded)
    assert causal == decode_causal(encoded)
    values = [version[0] for version in msgpack.unpackb(contents)]
    assert values == [state.siblings[dot].value for dot in causal.dots]


@given(contexts())
def test_a_context_survives_the_round_trip(context: CausalContext) -> None:
    assert decode_context(encode_context(context)) == context


@given(states(), st.data())
def test_the_bytes_do_not_depend_on_the_order_in_which_a_state_was_made(
    state: KeyState, data: st.DataObject
) -> None:
    siblings = dict(data.draw(st.permutations(list(state.siblings.items()))))
    vector = dict(data.draw(st.permutations(list(state.context.vector.items()))))
    again = KeyState(siblings, CausalContext(vector, state.context.cloud))
    assert encode_state(again) == encode_state(state)


@given(states_of_one_history(2))
def test_equal_states_and_only_those_are_equal_bytes(drawn: list[KeyState]) -> None:
    a, b = drawn
    assert (encode_state(a) == encode_state(b)) == (a == b)
    assert (causal_bytes(encode_state(a)) == causal_bytes(encode_state(b))) == (a == b)
    assert (digest(encode_state(a)) == digest(encode_state(b))) == (a == b)


@given(st.lists(dots, max_size=6), st.lists(dots, max_size=6))
def test_an_etag_stands_for_a_set_of_siblings(a: list[Dot], b: list[Dot]) -> None:
    assert (etag(set(a)) == etag(set(b))) == (set(a) == set(b))
    assert etag(sorted(set(a))) == etag(sorted(set(a), reverse=True))


def test_digest_and_etag_have_their_documented_form() -> None:
    encoded = encode_state(write(EMPTY_STATE, EMPTY_CONTEXT, Version(b"x"), (1, 1)))
    assert len(digest(encoded)) == 16
    assert digest(b"") == b""
    assert len(etag([(1, 1)])) == 16
    int(etag([(1, 1)]), 16)


def test_the_digest_leaves_out_the_contents() -> None:
    """What is compared between replicas is what they know; a dot names its contents."""
    one = encode_state(KeyState({(1, 1): Version(b"x")}, context_of([(1, 1)])))
    other = encode_state(KeyState({(1, 1): Version(b"y")}, context_of([(1, 1)])))
    assert one != other
    assert digest(one) == digest(other)


def test_format_1_keeps_its_bytes() -> None:
    """Records on disk and peers of the release before must stay readable."""
    version = Version(b"v", False, "text/plain", (("k", "t"),), 7, b"op", 9)
    state = KeyState({(5, 2): version}, CausalContext({5: 2}, frozenset({(6, 3)})))
    causal = "93920502920603920502"
    contents = "9197c40176c2aa746578742f706c61696e92a16ba17407c4026f7009"
    assert encode_state(state).hex() == f"93 01 c40a {causal} c41c {contents}".replace(" ", "")
    assert encode_context(state.context).hex() == "92920502920603"


# --- merge on bytes -------------------------------------------------------------------------------------


@given(states_of_one_history(2))
def test_merging_bytes_is_merging_states(drawn: list[KeyState]) -> None:
    mine, theirs = map(encode_state, drawn)
    wanted = encode_state(merge(*drawn))
    assert merge_encoded(mine, theirs) == merge_encoded(mine, theirs, decode_causal(theirs)) == wanted


@given(states_of_one_history(2))
def test_bytes_that_win_are_passed_on_as_they_are(drawn: list[KeyState]) -> None:
    """The fast path of every replicated put: no version is read or encoded again."""
    a, b = drawn
    mine, theirs = encode_state(a), encode_state(merge(a, b))
    assert merge_encoded(mine, theirs) is (mine if mine == theirs else theirs)
    assert merge_encoded(theirs, mine) is theirs


def test_a_state_that_knows_of_everything_can_still_hold_what_the_other_knows_to_be_superseded() -> None:
    """b overwrote `old` blindly; the client of that write, who never saw `old`, went on through a.

    So a knows every dot that b knows and must not win as a whole: its sibling `old` is superseded.
    """
    old = write(EMPTY_STATE, EMPTY_CONTEXT, Version(b"old"), (1, 1))
    b = write(old, old.context, Version(b"over old"), (2, 1))
    a = write(old, context_of([(2, 1)]), Version(b"next"), (1, 2))
    assert a.context.includes(b.context)
    merged = decode_state(merge_encoded(encode_state(b), encode_state(a)))
    assert merged == merge(a, b)
    assert [v.value for v in merged.siblings.values()] == [b"next"]


def test_empty_bytes_stand_for_the_empty_state() -> None:
    encoded = encode_state(write(EMPTY_STATE, EMPTY_CONTEXT, Version(b"x"), (1, 1)))
    assert merge_encoded(b"", encoded) is encoded
    assert merge_encoded(encoded, b"") is encoded
    assert merge_encoded(b"", b"") == b""


# --- malformed bytes ------------------------------------------------------------------------------------

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


def test_what_cannot_be_encoded_leaves_nothing_behind() -> None:
    """The packer is shared: half a state in its buffer would come out in front of the next one."""
    before = encode_state(EMPTY_STATE)
    broken = KeyState({(1, 1): Version(b"x", content_type="\ud800")}, context_of([(1, 1)]))
    with pytest.raises(ValueError, match="surrogates"):
        encode_state(broken)
    assert encode_state(EMPTY_STATE) == before
