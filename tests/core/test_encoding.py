"""The bytes of states and contexts: canonical and exact."""

from __future__ import annotations

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
    read_single,
)
from kvstore.core.sibling import EMPTY_STATE, KeyState, Version, merge, write
from kvstore.core.vector_clock import EMPTY_CONTEXT, CausalContext, Dot, context_of
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
    """The fast path of every replicated put: nothing is encoded again, nor read while no dot is common."""
    a, b = drawn
    mine, theirs = encode_state(a), encode_state(merge(a, b))
    assert merge_encoded(mine, theirs) is (mine if mine == theirs else theirs)
    assert merge_encoded(theirs, mine) is theirs


@given(states_of_one_history(2), st.data())
def test_merging_bytes_is_merging_states_also_where_versions_expired_here_or_there(
    drawn: list[KeyState], data: st.DataObject
) -> None:
    def partly_over(state: KeyState) -> KeyState:
        over = {dot for dot in sorted(state.siblings) if data.draw(st.booleans())}
        gone = {dot: state.siblings[dot]._replace(value=b"", tombstone=True) for dot in over}
        return KeyState({**state.siblings, **gone}, state.context)

    a, b = map(partly_over, drawn)
    wanted = encode_state(merge(a, b))
    assert wanted == encode_state(merge(b, a))
    assert merge_encoded(encode_state(a), encode_state(b)) == wanted
    assert merge_encoded(encode_state(b), encode_state(a), decode_causal(encode_state(a))) == wanted


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


def test_what_cannot_be_encoded_leaves_nothing_behind() -> None:
    """The packer is shared: half a state in its buffer would come out in front of the next one."""
    before = encode_state(EMPTY_STATE)
    broken = KeyState({(1, 1): Version(b"x", content_type="\ud800")}, context_of([(1, 1)]))
    with pytest.raises(ValueError, match="surrogates"):
        encode_state(broken)
    assert encode_state(EMPTY_STATE) == before


@given(states())
def test_a_single_version_is_read_as_the_whole_state_is(state: KeyState) -> None:
    single = read_single(encode_state(state))
    if len(state.siblings) != 1:
        assert single is None
    else:
        ((dot, version),) = state.siblings.items()
        assert single == (encode_context(state.context), dot, version)


@given(states(), dots)
def test_one_written_version_is_read_alone(state: KeyState, dot: Dot) -> None:
    only = KeyState({dot: Version(b"v", metadata=(("a", "1"),))}, state.context.join(context_of([dot])))
    single = read_single(encode_state(only))
    assert single == (encode_context(only.context), dot, only.siblings[dot])
