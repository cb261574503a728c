"""Trees: equal for equal sets whatever the order, and they find exactly what differs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.core.encoding import causal_bytes, encode_state, own_causal_bytes
from kvstore.core.merkle_tree import (
    FAN_OUT,
    INNER,
    LEAVES,
    ROOT,
    SEGMENTS,
    MerkleTree,
    children,
    differing_segments,
    item_hash,
    pack_hashes,
    pack_segments,
    segment_of,
    unpack_hashes,
    unpack_segments,
)
from kvstore.core.sibling import KeyState
from kvstore.core.vector_clock import CausalContext
from kvstore.errors import CorruptRecord
from tests.core.strategies import states

keys = st.binary(min_size=1, max_size=4)
causals = st.sampled_from([b"\x93\x01", b"\x93\x02", b"\x93\x03"])
holdings = st.dictionaries(keys, causals, max_size=40)


def tree_of(items: dict[bytes, bytes]) -> MerkleTree:
    tree = MerkleTree()
    for key, causal in items.items():
        tree.toggle(segment_of(key), item_hash(key, causal))
    return tree


def whole(tree: MerkleTree) -> list[list[int]]:
    return [tree.hashes(level, range(FAN_OUT**level)) for level in (ROOT, INNER, LEAVES)]


@given(holdings, st.data())
def test_the_order_of_arrival_does_not_matter(items: dict[bytes, bytes], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(list(items.items())))
    assert whole(tree_of(items)) == whole(tree_of(dict(shuffled)))


@given(holdings, holdings)
def test_equal_trees_are_equal_sets_of_items_and_nothing_else(
    one: dict[bytes, bytes], other: dict[bytes, bytes]
) -> None:
    assert (tree_of(one).root == tree_of(other).root) == (one == other)
    assert (whole(tree_of(one)) == whole(tree_of(other))) == (one == other)


@given(holdings, holdings)
def test_the_segments_that_differ_are_those_of_the_items_that_differ(
    one: dict[bytes, bytes], other: dict[bytes, bytes]
) -> None:
    differing = {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}
    found = differing_segments(tree_of(one), tree_of(other))
    assert found == sorted({segment_of(key) for key in differing})


@given(holdings, holdings)
def test_a_tree_kept_up_by_changes_is_the_tree_of_what_is_held(
    before: dict[bytes, bytes], after: dict[bytes, bytes]
) -> None:
    tree = tree_of(before)
    for key in before.keys() | after.keys():
        difference = 0
        if key in before:
            difference ^= item_hash(key, before[key])
        if key in after:
            difference ^= item_hash(key, after[key])
        tree.toggle(segment_of(key), difference)
    assert whole(tree) == whole(tree_of(after))


@given(holdings)
def test_what_was_added_and_taken_out_again_leaves_the_empty_tree(items: dict[bytes, bytes]) -> None:
    tree = tree_of(items)
    for key, causal in items.items():
        tree.toggle(segment_of(key), item_hash(key, causal))
    assert whole(tree) == whole(MerkleTree())


@given(holdings)
def test_every_level_is_the_combination_of_the_one_below(items: dict[bytes, bytes]) -> None:
    tree = tree_of(items)
    for level in (ROOT, INNER):
        for position in range(FAN_OUT**level):
            combined = 0
            for child in tree.hashes(level + 1, children([position])):
                combined ^= child
            assert tree.hashes(level, [position]) == [combined]


def test_children_are_the_next_level_in_order() -> None:
    assert children([0]) == list(range(FAN_OUT))
    assert children(children([0])) == list(range(SEGMENTS))


@given(states(), states())
def test_no_causal_part_begins_like_another(one: KeyState, other: KeyState) -> None:
    """So causal part and key in one are the bytes of one item only."""
    first, second = causal_bytes(encode_state(one)), causal_bytes(encode_state(other))
    assert first == second or not second.startswith(first)


def test_keys_spread_over_the_segments() -> None:
    counts = [0] * SEGMENTS
    for i in range(100 * SEGMENTS):
        counts[segment_of(b"bucket\0user:%08d" % i)] += 1
    assert min(counts) > 50
    assert max(counts) < 160


@given(st.lists(st.integers(0, 2**64 - 1)))
def test_hashes_travel_as_eight_bytes_each(hashes: list[int]) -> None:
    packed = pack_hashes(hashes)
    assert len(packed) == 8 * len(hashes)
    assert unpack_hashes(packed) == hashes


@given(st.sets(st.integers(0, SEGMENTS - 1)))
def test_segments_travel_as_bits(segments: set[int]) -> None:
    packed = pack_segments(segments)
    assert len(packed) == 128
    assert unpack_segments(packed) == segments


def test_what_is_no_list_of_hashes_and_no_set_of_segments_is_refused() -> None:
    with pytest.raises(ValueError, match="no list of hashes"):
        unpack_hashes(b"1234567")
    with pytest.raises(ValueError, match="no set of segments"):
        unpack_segments(b"\0" * 127)


@given(states())
def test_the_causal_part_that_is_cut_out_is_the_one_that_is_parsed(state: KeyState) -> None:
    encoded = encode_state(state)
    assert own_causal_bytes(encoded) == causal_bytes(encoded)


def test_long_causal_parts_are_cut_out_too() -> None:
    for count in (1, 20, 30, 300, 3000, 8000):
        encoded = encode_state(KeyState({}, CausalContext({2**60 + i: 7 for i in range(count)})))
        assert own_causal_bytes(encoded) == causal_bytes(encoded)


def test_what_is_no_state_has_no_causal_part() -> None:
    for nonsense in (b"", b"\x93", b"\x93\x01", b"\x93\x01\xc4", b"not a state"):
        with pytest.raises(CorruptRecord):
            own_causal_bytes(nonsense)
