"""Values and siblings inside of a larger body: JSON, msgpack or multipart.

In JSON a value is text under `value` if it says that it is text and is valid UTF-8, and
`value_base64` otherwise; msgpack holds bytes as bytes. Keys likewise: `key`, or `key_base64`.
"""

from __future__ import annotations

import secrets
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

from kvstore.core.encoding import etag
from kvstore.core.hybrid_clock import wall_ms_of
from kvstore.core.sibling import Version
from kvstore.core.vector_clock import Dot
from kvstore.httpapi.media import JSON, MSGPACK, MULTIPART, document, media_type
from kvstore.httpapi.reply import Reply, http_date

SIBLING_MEDIA = (MULTIPART, JSON, MSGPACK)

Shown = Sequence[tuple[Dot, Version]]


def sibling_id(dot: Dot) -> str:
    """What `sibling=ID` takes: the entity tag that this value would have alone."""
    return etag((dot,))


def describing_lines(version: Version) -> str:
    """Header lines of one value: content type, time, metadata."""
    lines = f"Content-Type: {version.content_type}\r\n"
    if version.hlc_time:
        lines += f"Last-Modified: {http_date(wall_ms_of(version.hlc_time))}\r\n"
    for name, text in version.metadata:
        lines += f"KV-Meta-{name}: {text}\r\n"
    return lines


def key_fields(key: bytes, media: str) -> dict[str, Any]:
    return _bytes_fields("key", key, media, is_text=True)


def value_fields(value: bytes, content_type: str, media: str) -> dict[str, Any]:
    return _bytes_fields("value", value, media, is_text=_is_text(content_type))


def described(dot: Dot, version: Version, media: str, *, with_value: bool = True) -> dict[str, Any]:
    """One sibling as an entry of a document."""
    entry: dict[str, Any] = {"id": sibling_id(dot), "content_type": version.content_type}
    if version.hlc_time:
        entry["modified_ms"] = wall_ms_of(version.hlc_time)
    if version.expires_at_ms:
        entry["expires_at_ms"] = version.expires_at_ms
    if version.metadata:
        entry["meta"] = dict(version.metadata)
    if with_value:
        entry |= value_fields(version.value, version.content_type, media)
    return entry


def siblings_reply(shown: Shown, tag: str, token: str, media: str, *, head: str) -> Reply:
    """300 with every value."""
    head = f"Vary: Accept\r\n{head}"
    if media == MULTIPART:
        boundary, body = _multipart(shown)
        return Reply(300, f'Content-Type: {MULTIPART}; boundary="{boundary}"\r\n{head}', body)
    return document(siblings_document(shown, tag, token, media), media, status=300, head=head)


def siblings_document(shown: Shown, tag: str, token: str, media: str) -> dict[str, Any]:
    return {
        "siblings": [described(dot, version, media) for dot, version in shown],
        "context": token,
        "etag": tag,
    }


def _multipart(shown: Shown) -> tuple[str, bytes]:
    """(boundary, body), RFC 2046 §5.1. A boundary drawn at random is in no value, and that is checked."""
    boundary = secrets.token_hex(16)
    while any(boundary.encode() in version.value for _, version in shown):
        boundary = secrets.token_hex(16)
    parts: list[bytes] = []
    for dot, version in shown:
        head = (
            f'--{boundary}\r\n{describing_lines(version)}ETag: "{sibling_id(dot)}"\r\n'
            f"Content-Length: {len(version.value)}\r\n\r\n"
        )
        parts += (head.encode("latin-1", "replace"), version.value, b"\r\n")
    parts.append(f"--{boundary}--\r\n".encode())
    return boundary, b"".join(parts)


def _is_text(content_type: str) -> bool:
    media = media_type(content_type)
    return media.startswith("text/") or media == JSON or media.endswith("+json")


def _bytes_fields(name: str, raw: bytes, media: str, *, is_text: bool) -> dict[str, Any]:
    if media == MSGPACK:
        return {name: raw}
    if is_text:
        try:
            return {name: raw.decode("utf-8")}
        except UnicodeDecodeError:
            pass
    return {f"{name}_base64": b64encode(raw).decode("ascii")}
