"""Tokens: what was issued comes back, anything else is refused."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from functools import reduce

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kvstore.core.encoding import decode_context, encode_context
from kvstore.core.limits import DEFAULT_LIMITS
from kvstore.core.token import TOKENS_MAX, open_joined, open_token, seal, token_key
from kvstore.core.vector_clock import CausalContext, context_of
from kvstore.errors import InvalidContext
from tests.core.strategies import contexts

KEY = token_key(b"the key of this cluster")
MAX = DEFAULT_LIMITS.token_bytes_max
CONTEXT = context_of([(2**63, 1), (2**63, 2), (7, 9)])
TOKEN = seal(CONTEXT, b"bucket\0key", KEY)
full_keys = st.binary(max_size=40)


@given(contexts(), full_keys)
def test_a_token_brings_its_context_back(context: CausalContext, full_key: bytes) -> None:
    assert open_token(seal(context, full_key, KEY), full_key, KEY, MAX) == context


@given(contexts(), full_keys)
def test_a_token_fits_a_header(context: CausalContext, full_key: bytes) -> None:
    assert set(seal(context, full_key, KEY)) <= set(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    )


@given(contexts(), full_keys, full_keys)
def test_a_token_of_another_key_is_refused(context: CausalContext, sealed: bytes, sent: bytes) -> None:
    """Counters are shared by the keys of a copy: it would cover dots that nobody has seen there."""
    assume(sealed != sent)
    with pytest.raises(InvalidContext):
        open_token(seal(context, sealed, KEY), sent, KEY, MAX)


def test_a_longer_key_cannot_take_over_the_first_bytes_of_a_context() -> None:
    """A counter is chosen so that it spells a length and a context: were the length of the key written
    behind the key, this token would also be one of `longer`, for a dot that nobody has seen there.
    """
    key = b"bucket\0key"
    smuggled = encode_context(context_of([(5, 1)]))
    head = len(encode_context(context_of([(1, 2**63)]))) - 8  # what comes before the counter
    longer_bytes = len(key) + 2 + head + 1
    counter = b"\x01" + longer_bytes.to_bytes(2, "big") + smuggled
    context = context_of([(1, int.from_bytes(counter, "big"))])
    encoded = encode_context(context)
    assert encoded.endswith(counter)
    longer = key + len(key).to_bytes(2, "big") + encoded[: head + 1]
    assert len(longer) == longer_bytes
    mac = _raw(seal(context, key, KEY))[:16]
    with pytest.raises(InvalidContext):
        open_token(_text(mac + smuggled), longer, KEY, MAX)


def test_a_token_of_another_cluster_is_refused() -> None:
    with pytest.raises(InvalidContext, match="not issued by this cluster"):
        open_token(TOKEN, b"bucket\0key", token_key(b"the key of that cluster"), MAX)


def test_long_cluster_keys_that_differ_in_the_end_differ() -> None:
    assert token_key(b"x" * 100 + b"a") != token_key(b"x" * 100 + b"b")


def test_every_flipped_bit_is_noticed() -> None:
    raw = _raw(TOKEN)
    for bit in range(len(raw) * 8):
        forged = bytearray(raw)
        forged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(InvalidContext):
            open_token(_text(bytes(forged)), b"bucket\0key", KEY, MAX)


def test_every_changed_character_is_noticed() -> None:
    """Also where the change does not reach the decoded bytes: one context is one token."""
    for at in range(len(TOKEN)):
        for other in "AZaz09-_":
            if other != TOKEN[at]:
                with pytest.raises(InvalidContext):
                    open_token(TOKEN[:at] + other + TOKEN[at + 1 :], b"bucket\0key", KEY, MAX)


@pytest.mark.parametrize("extra", ["=", "==", "A", " ", "\n", "!", "+", "/", "\0", ".", "é", "\ud800", "😀"])
def test_extra_characters_are_noticed_wherever_they_stand(extra: str) -> None:
    for at in (0, 5, len(TOKEN)):
        with pytest.raises(InvalidContext):
            open_token(TOKEN[:at] + extra + TOKEN[at:], b"bucket\0key", KEY, MAX)


def test_every_truncation_is_noticed() -> None:
    for end in range(len(TOKEN)):
        with pytest.raises(InvalidContext):
            open_token(TOKEN[:end], b"bucket\0key", KEY, MAX)


@given(st.text(max_size=60))
def test_arbitrary_text_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidContext):
        open_token(text, b"bucket\0key", KEY, MAX)


def test_a_token_over_the_limit_is_refused_before_it_is_decoded() -> None:
    limit = len(TOKEN)
    assert open_token(TOKEN, b"bucket\0key", KEY, limit) == CONTEXT
    with pytest.raises(InvalidContext, match=f"has {limit} bytes, the limit is {limit - 1}"):
        open_token(TOKEN, b"bucket\0key", KEY, limit - 1)


def test_every_refusal_says_what_to_send() -> None:
    for bad in ("", "!", TOKEN[:-1], "A" * (MAX + 1)):
        with pytest.raises(InvalidContext) as refusal:
            open_token(bad, b"bucket\0key", KEY, MAX)
        assert "KV-Context of an earlier answer" in refusal.value.advice


def test_an_honest_context_of_a_hundred_replica_ids_fits() -> None:
    context = CausalContext({2**64 - 1 - number: 2**40 for number in range(100)})
    assert len(seal(context, b"k" * 1281, KEY)) <= MAX


def _raw(token: str) -> bytes:
    return urlsafe_b64decode(token + "=" * (-len(token) % 4))


def _text(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


@given(st.lists(contexts(), min_size=1, max_size=4), st.sampled_from([",", ", "]))
def test_several_tokens_of_one_key_are_their_union(seen: list[CausalContext], comma: str) -> None:
    joined = comma.join(seal(context, b"key", KEY) for context in seen)
    assert decode_context(open_joined(joined, b"key", KEY, MAX)) == reduce(CausalContext.join, seen)


def test_one_bad_token_among_several_spoils_them_all() -> None:
    good, other = seal(context_of([(1, 1)]), b"key", KEY), seal(context_of([(2, 1)]), b"another", KEY)
    for bad in (other, "", "x"):
        with pytest.raises(InvalidContext):
            open_joined(f"{good},{bad}", b"key", KEY, MAX)


def test_more_tokens_than_a_session_sends_are_refused() -> None:
    tokens = [seal(context_of([(1, counter)]), b"key", KEY) for counter in range(1, TOKENS_MAX + 2)]
    assert decode_context(open_joined(",".join(tokens[:-1]), b"key", KEY, MAX)).covers((1, TOKENS_MAX))
    with pytest.raises(InvalidContext, match="the limit is 16"):
        open_joined(",".join(tokens), b"key", KEY, MAX)
