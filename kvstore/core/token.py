"""The causal context as clients carry it: opaque, signed, bound to one key.

    token = base64url( MAC[16] ‖ encoded context )

A header may carry several of one key, with commas between them: it means their union. A client cannot
join what it cannot read, and a session that saw two answers which do not cover each other has seen both.

Signed with a key derived from the cluster key, because a forged token could supersede data that its
sender never saw. The MAC covers the key of the data too: counters are shared by all keys of a copy,
so a token of one key, sent with another, would cover dots that nobody has seen there.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from functools import reduce
from hashlib import blake2b
from hmac import compare_digest

from kvstore.core.encoding import decode_context, encode_context
from kvstore.core.vector_clock import CausalContext
from kvstore.errors import InvalidContext

TOKENS_MAX = 16
"""In one header."""

_MAC_BYTES = 16
_ADVICE = "send the KV-Context of an earlier answer for this very key, unchanged"


def token_key(cluster_key: bytes) -> bytes:
    """The signing key: 32 bytes, of no use to the handshake between nodes."""
    return blake2b(cluster_key, person=b"kv-token", digest_size=32).digest()


def seal(context: CausalContext, full_key: bytes, signing_key: bytes) -> str:
    """`full_key`: bucket and key as core/ring.py joins them."""
    return seal_encoded(encode_context(context), full_key, signing_key)


def seal_encoded(encoded: bytes, full_key: bytes, signing_key: bytes) -> str:
    """The same for a context that is encoded already."""
    return _text(_mac(encoded, full_key, signing_key) + encoded)


def open_token(token: str, full_key: bytes, signing_key: bytes, token_bytes_max: int) -> CausalContext:
    """As `open_encoded`."""
    return decode_context(open_encoded(token, full_key, signing_key, token_bytes_max))


def open_encoded(token: str, full_key: bytes, signing_key: bytes, token_bytes_max: int) -> bytes:
    """The encoded context. Raises InvalidContext if it is malformed, forged, too long or of another key."""
    if len(token) > token_bytes_max:
        raise InvalidContext(
            f"the causal context has {len(token)} bytes, the limit is {token_bytes_max}", advice=_ADVICE
        )
    try:
        raw = urlsafe_b64decode(token.encode("ascii") + b"=" * (-len(token) % 4))
    except ValueError:
        raw = b""
    # The decoder skips foreign characters and spare bits; one context is one token.
    if _text(raw) != token:
        raise InvalidContext("the causal context is not base64url", advice=_ADVICE)
    mac, encoded = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
    if not compare_digest(mac, _mac(encoded, full_key, signing_key)):
        raise InvalidContext("the causal context was not issued by this cluster for this key", advice=_ADVICE)
    return encoded


def open_joined(tokens: str, full_key: bytes, signing_key: bytes, token_bytes_max: int) -> bytes:
    """The union of the contexts of one token or of several, encoded. As `open_encoded` for each."""
    if "," not in tokens:
        return open_encoded(tokens, full_key, signing_key, token_bytes_max)
    listed = tokens.split(",")
    if len(listed) > TOKENS_MAX:
        raise InvalidContext(f"{len(listed)} causal contexts in one header, the limit is {TOKENS_MAX}")
    contexts = [open_token(token.strip(), full_key, signing_key, token_bytes_max) for token in listed]
    return encode_context(reduce(CausalContext.join, contexts))


def _text(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def _mac(encoded: bytes, full_key: bytes, signing_key: bytes) -> bytes:
    """The length comes first: otherwise a longer key could take over the first bytes of a context."""
    mac = blake2b(len(full_key).to_bytes(2, "big"), key=signing_key, digest_size=_MAC_BYTES)
    mac.update(full_key)
    mac.update(encoded)
    return mac.digest()
