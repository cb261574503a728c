"""Names on their way into a URL: buckets, keys, and the partition that a key belongs to.

A key is bytes; text is its UTF-8. In the path it is percent-encoded down to the unreserved characters
of RFC 3986, so that any bytes survive, "/" included.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from urllib.parse import quote_from_bytes

from kvstore.errors import InvalidRequest

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,255}")


def check_bucket(name: object) -> str:
    """Raises InvalidRequest with the form that names have."""
    if not isinstance(name, str) or not _BUCKET.fullmatch(name):
        raise InvalidRequest(
            f"bucket name {str(name)[:64]!r} is not of the form",
            advice="1 to 256 letters, digits, '.', '_', '~' or '-', beginning with a letter or digit",
        )
    return name


def key_bytes(key: object) -> bytes:
    """Raises InvalidRequest for what is neither text nor bytes, is empty, or has no UTF-8."""
    if type(key) is str:
        try:
            raw = key.encode()
        except UnicodeEncodeError:
            raise InvalidRequest(
                f"key {key[:64]!r} holds a lone surrogate, which has no UTF-8", advice="pass the key as bytes"
            ) from None
    elif isinstance(key, bytes | bytearray | memoryview):
        raw = bytes(key)
    elif isinstance(key, str):  # a subclass, such as an enum's member
        return key_bytes(str.__str__(key))
    else:
        raise InvalidRequest(
            f"a key is str or bytes, not {type(key).__name__}",
            advice="write str(...) if that is what you mean",
        )
    if not raw:
        raise InvalidRequest("the key is empty")
    return raw


def encode_segment(raw: bytes) -> str:
    """One segment of a path. "." and ".." are escaped too: they mean something else (RFC 3986 §5.2.4)."""
    segment = quote_from_bytes(raw, safe="")
    return segment.replace(".", "%2E") if segment in (".", "..") else segment


def partition_of(bucket: str, key: bytes, partitions: int) -> int:
    """As the nodes compute it: blake2b over bucket, NUL, key; 16 bits, big-endian, modulo."""
    digest = blake2b(b"%b\0%b" % (bucket.encode(), key), digest_size=2).digest()
    return int.from_bytes(digest, "big") % partitions
