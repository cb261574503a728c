"""The bytes of a key state, a context and a digest: one description for wire, disk and hash.

This is the one file of `core/` that may import msgpack. It does no I/O; it is here because a put
encodes its state once and every hop passes those bytes on: over the wire, into the engine, into the
digest. With one codec per adapter each replica would decode and encode again (measured: 9 µs a hop
for one sibling of 100 bytes, against a budget of 10 µs for the whole replica call).

    state    = msgpack [1, causal: bin, contents: bin]
    causal   = msgpack [vector, cloud, dots]      each flat: [id, counter, id, counter, …], sorted
    contents = msgpack [version, …]               in the order of `dots`
    version  = [value, tombstone, content type, [name, text, …], HLC time, operation id, expires at ms]
    context  = msgpack [vector, cloud]

The encoding is canonical: equal states are equal bytes, and equal causal parts mean equal states,
because a dot names one write ever. Replicas therefore compare the causal bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from itertools import pairwise
from typing import Any, NamedTuple

import msgpack

from kvstore.core.sibling import KeyState, Version, merge
from kvstore.core.vector_clock import EMPTY_CONTEXT, CausalContext, Dot, compacted
from kvstore.errors import CorruptRecord, InvalidContext

STATE_FORMAT = 1
DIGEST_BYTES = 16

_ITEMS_MAX = 65_536  # of one array; far above any honest state, and bounds what a hostile length can take
_ONLY_INTS = {int}
_STATE_START = bytes((0x93, STATE_FORMAT))
_pack = msgpack.Packer(autoreset=True).pack


class Causal(NamedTuple):
    """A state without its contents."""

    context: CausalContext
    dots: tuple[Dot, ...]


def encode_state(state: KeyState) -> bytes:
    dots = sorted(state.siblings)
    contents: list[Any] = []
    for dot in dots:
        value, tombstone, content_type, metadata, hlc_time, operation_id, expires_at_ms = state.siblings[dot]
        flat = [text for pair in metadata for text in pair]
        contents.append([value, tombstone, content_type, flat, hlc_time, operation_id, expires_at_ms])
    causal: bytes = _pack([*_flat_context(state.context), _flat(dots)])
    encoded: bytes = _pack([STATE_FORMAT, causal, _pack(contents)])
    return encoded


def encode_single(context: CausalContext, dot: Dot, version: Version, hlc_time: int) -> bytes:
    """`encode_state` of a state whose only sibling is `version`, with `hlc_time` in place of its own.

    What nearly every put leaves: 1.7 µs, against 4.5 by way of a KeyState.
    """
    value, tombstone, content_type, metadata, _, operation_id, expires_at_ms = version
    flat = [text for pair in metadata for text in pair] if metadata else []
    causal: bytes = _pack([*_flat_context(context), dot])
    contents: bytes = _pack([(value, tombstone, content_type, flat, hlc_time, operation_id, expires_at_ms)])
    encoded: bytes = _pack((STATE_FORMAT, causal, contents))
    return encoded


def decode_state(encoded: bytes) -> KeyState:
    """Raises CorruptRecord for anything that is not a state in canonical form."""
    causal_bytes, content_bytes = _split(encoded)
    causal = _causal(causal_bytes)
    return KeyState(_siblings(causal, content_bytes), causal.context)


def causal_bytes(encoded: bytes) -> bytes:
    """The causal part of an encoded state, unparsed: equal for equal states."""
    return _split(encoded)[0]


def own_causal_bytes(encoded: bytes) -> bytes:
    """`causal_bytes` of a state that this node wrote and a checksum covers, or of its head alone: a slice.

    The value may have a MiB, and every write asks for two of these. Raises CorruptRecord.
    """
    begin, end = _causal_span(encoded)
    return encoded[begin:end]


def decode_causal(encoded: bytes) -> Causal:
    """Dots and context of an encoded state, leaving its versions alone."""
    return _causal(_split(encoded)[0])


def open_own(encoded: bytes) -> tuple[Causal, bytes]:
    """Causal part and unparsed contents of a state that this node wrote and a checksum covers.

    Without the checks of `decode_causal`: 2 µs instead of 9, on the way of every put.
    """
    try:
        _, causal, contents = msgpack.unpackb(encoded)
    except (ValueError, TypeError) as error:
        raise CorruptRecord(f"own state does not parse: {error}") from None
    return _own_causal(causal), contents


def head_of(encoded: bytes) -> bytes:
    """The bytes of a state in front of its contents: equal heads are equal causal parts.

    One comparison of bytes then tells what parsing both would. Raises CorruptRecord.
    """
    return encoded[: _causal_span(encoded)[1]]


def open_head(head: bytes) -> Causal:
    """As `open_own`, of a head alone."""
    return _own_causal(own_causal_bytes(head))


def _causal_span(encoded: bytes) -> tuple[int, int]:
    """Where the causal part lies, by the three lengths that msgpack has for a bin."""
    start = encoded[:3]
    if start == b"\x93\x01\xc4" and len(encoded) > 4:
        return 4, 4 + encoded[3]
    if start == b"\x93\x01\xc5":
        return 5, 5 + int.from_bytes(encoded[3:5], "big")
    if start == b"\x93\x01\xc6":
        return 7, 7 + int.from_bytes(encoded[3:7], "big")
    raise CorruptRecord(f"own state does not begin as one: {start.hex()}")


def _own_causal(causal: bytes) -> Causal:
    try:
        flat_vector, flat_cloud, flat_dots = msgpack.unpackb(causal)
        vector, dots, cloud = iter(flat_vector), iter(flat_dots), EMPTY_CONTEXT.cloud
        if flat_cloud:
            single = iter(flat_cloud)
            cloud = frozenset(zip(single, single, strict=True))
        context = CausalContext(dict(zip(vector, vector, strict=True)), cloud)
        return Causal(context, tuple(zip(dots, dots, strict=True)))
    except (ValueError, TypeError) as error:
        raise CorruptRecord(f"own state does not parse: {error}") from None


def has_known_format(encoded: bytes) -> bool:
    """Whether it begins as a state of this release does."""
    return encoded.startswith(_STATE_START)


def read_own(encoded: bytes) -> KeyState:
    """`decode_state` for a state that was checked when it came to this node."""
    causal, content_bytes = open_own(encoded)
    return KeyState(_siblings(causal, content_bytes), causal.context)


class Single(NamedTuple):
    """A state of one version. `context` is encoded."""

    context: bytes
    dot: Dot
    version: Version


def read_single(encoded: bytes) -> Single | None:
    """`read_own` for the usual case, a state of one version; None for any other.

    Most reads end here, and need no CausalContext: its bytes go into a token as they are. With
    `read_own`, `seal` and `etag` a get over HTTP took 59 µs, this way 46.
    """
    try:
        _, causal, contents = msgpack.unpackb(encoded)
        vector, cloud, flat_dots = msgpack.unpackb(causal)
        if len(flat_dots) != 2:
            return None
        (fields,) = msgpack.unpackb(contents)
        return Single(_pack([vector, cloud]), (flat_dots[0], flat_dots[1]), _version(fields))
    except (ValueError, TypeError) as error:
        raise CorruptRecord(f"own state does not parse: {error}") from None


def digest(encoded: bytes) -> bytes:
    """16 bytes that stand for the causal part; b"" for no state (`encoded` empty)."""
    if not encoded:
        return b""
    return blake2b(_split(encoded)[0], digest_size=DIGEST_BYTES).digest()


def etag(dots: Iterable[Dot]) -> str:
    """16 hex digits that stand for exactly these siblings. An entity tag of RFC 9110, without its quotes."""
    return blake2b(_pack(sorted(dots)), digest_size=8).hexdigest()


def merge_encoded(mine: bytes, theirs: bytes, their_causal: Causal | None = None) -> bytes:
    """`merge` on encoded states; empty bytes stand for the empty state.

    With `their_causal` at hand `mine` is the caller's own record and not checked again; without it both
    sides may come from elsewhere. Compares bytes, then causal parts, and reads the versions only if both
    sides have news, or a dot in common, which may have expired on one of them.
    """
    if mine == theirs or not theirs:
        return mine
    if not mine:
        return theirs
    if their_causal is None:
        my_causal, their_causal = decode_causal(mine), decode_causal(theirs)
    else:
        my_causal, _ = open_own(mine)
    shared = [dot for dot in my_causal.dots if dot in their_causal.dots]
    if not shared or _tombstones(mine, my_causal, shared) == _tombstones(theirs, their_causal, shared):
        if _supersedes(their_causal, my_causal):
            return theirs
        if _supersedes(my_causal, their_causal):
            return mine
    return encode_state(merge(decode_state(mine), decode_state(theirs)))


def _tombstones(encoded: bytes, causal: Causal, dots: list[Dot]) -> list[bool]:
    """Which of these siblings are tombstones: a value that has expired may be one here and none there."""
    try:
        _, _, contents = msgpack.unpackb(encoded)
        flags = [fields[1] for fields in msgpack.unpackb(contents)]
        return [flags[causal.dots.index(dot)] for dot in dots]
    except (ValueError, TypeError, LookupError) as error:
        raise CorruptRecord(f"versions do not parse: {error}") from None


def _supersedes(newer: Causal, older: Causal) -> bool:
    """Whether merging both gives `newer`: it knows all that `older` knows and lost nothing since."""
    if not newer.context.includes(older.context):
        return False
    kept = older.dots
    return all(dot in kept or not older.context.covers(dot) for dot in newer.dots)


def encode_context(context: CausalContext) -> bytes:
    encoded: bytes = _pack(_flat_context(context))
    return encoded


def encode_context_of(dot: Dot) -> bytes:
    """`encode_context` of exactly this dot."""
    encoded: bytes = _pack((dot, ()) if dot[1] == 1 else ((), dot))
    return encoded


def decode_context(encoded: bytes) -> CausalContext:
    """Raises InvalidContext."""
    try:
        vector, cloud = parts = _unpack(encoded, _ITEMS_MAX)
        context = _context(vector, cloud)
        if _pack(parts) != encoded:
            raise ValueError("not in canonical form")
        return context
    except (ValueError, TypeError):
        raise InvalidContext(
            "the causal context does not parse: send a KV-Context as it was received"
        ) from None


def _flat_context(context: CausalContext) -> list[list[int]]:
    vector, cloud = context
    entries = sorted(vector.items()) if len(vector) > 1 else vector.items()
    return [
        [number for entry in entries for number in entry],
        _flat(sorted(cloud)) if cloud else [],
    ]


def _flat(pairs: list[Dot]) -> list[int]:
    return [number for pair in pairs for number in pair]


def _unpack(encoded: bytes, items_max: int) -> Any:
    return msgpack.unpackb(encoded, max_ext_len=0, max_map_len=0, max_array_len=items_max)


def _dots(flat: Any) -> list[Dot]:
    """In strictly ascending order, as they were written."""
    if type(flat) is not list or len(flat) % 2:
        raise ValueError("not a list of dots")
    if not flat:
        return []
    if set(map(type, flat)) != _ONLY_INTS or min(flat) < 1:
        raise ValueError("not a dot")
    dots = list(zip(flat[::2], flat[1::2], strict=True))
    if len(dots) > 1 and any(left >= right for left, right in pairwise(dots)):
        raise ValueError("dots are not in order")
    return dots


def _context(flat_vector: Any, flat_cloud: Any) -> CausalContext:
    """Only what is compact: two forms of one context would be two states that never become equal."""
    entries = _dots(flat_vector)
    context = CausalContext(dict(entries), frozenset(_dots(flat_cloud)))
    if len(context.vector) != len(entries) or (context.cloud and compacted(*context) != context):
        raise ValueError("the context is not compact")
    return context


def _split(encoded: bytes) -> tuple[bytes, bytes]:
    try:
        version, causal, contents = _unpack(encoded, 3)
    except (ValueError, TypeError) as error:
        raise CorruptRecord(f"state does not parse: {error}") from None
    if type(version) is not int or version != STATE_FORMAT:
        raise CorruptRecord(f"state format {version!r:.32}; this release reads {STATE_FORMAT}")
    if type(causal) is not bytes or type(contents) is not bytes:
        raise CorruptRecord("state does not parse: parts are not bytes")
    return causal, contents


def _causal(encoded: bytes) -> Causal:
    try:
        vector, cloud, flat = parts = _unpack(encoded, _ITEMS_MAX)
        context = _context(vector, cloud)
        dots = tuple(_dots(flat))
        for dot in dots:
            if not context.covers(dot):
                raise ValueError("a sibling is not covered by its context")
        if _pack(parts) != encoded:
            raise ValueError("not in canonical form")
        return Causal(context, dots)
    except (ValueError, TypeError) as error:
        raise CorruptRecord(f"causal part does not parse: {error}") from None


def _siblings(causal: Causal, content_bytes: bytes) -> dict[Dot, Version]:
    try:
        contents = _unpack(content_bytes, _ITEMS_MAX)
        return dict(zip(causal.dots, map(_version, contents), strict=True))
    except (ValueError, TypeError) as error:
        raise CorruptRecord(f"versions do not parse: {error}") from None


def _version(fields: Any) -> Version:
    value, tombstone, content_type, flat, hlc_time, operation_id, expires_at_ms = fields
    if (
        type(value) is not bytes
        or type(tombstone) is not bool
        or type(content_type) is not str
        or type(hlc_time) is not int
        or type(operation_id) is not bytes
        or type(expires_at_ms) is not int
        or type(flat) is not list
        or not all(type(text) is str for text in flat)
    ):
        raise ValueError("a field has the wrong type")
    metadata = tuple(zip(flat[::2], flat[1::2], strict=True)) if flat else ()
    return Version(value, tombstone, content_type, metadata, hlc_time, operation_id, expires_at_ms)
