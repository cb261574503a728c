"""Media types: which one is asked for, and a document in it."""

from __future__ import annotations

import json
from typing import Any

import msgpack

from kvstore.httpapi.reply import Reply

JSON = "application/json"
JSON_LINES = "application/x-ndjson"
MSGPACK = "application/msgpack"
MULTIPART = "multipart/mixed"
OCTETS = "application/octet-stream"

_ALIASES = {
    "application/x-msgpack": MSGPACK,
    "application/vnd.msgpack": MSGPACK,
    "application/jsonl": JSON_LINES,
    "application/jsonlines": JSON_LINES,
    "application/ndjson": JSON_LINES,
}
_encode_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def media_type(content_type: str) -> str:
    """Without parameters, lower case, by the one name that this room uses for it."""
    media = content_type.partition(";")[0].strip().lower()
    return _ALIASES.get(media, media)


def negotiate(accept: str | None, offered: tuple[str, ...]) -> str:
    """The offered media type that `Accept` prefers (RFC 9110 §12.5.1); the first one if it names none."""
    best, best_quality = offered[0], 0.0
    for part in (accept or "").split(","):
        media = media_type(part)
        if media not in offered:
            continue
        quality = _quality(part)
        if quality > best_quality:
            best, best_quality = media, quality
    return best


def _quality(part: str) -> float:
    for parameter in part.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def encode_json(value: Any) -> bytes:
    return _encode_json(value).encode("utf-8", "replace")


def encode(value: Any, media: str) -> bytes:
    """As JSON or as msgpack."""
    return bytes(msgpack.packb(value)) if media == MSGPACK else encode_json(value)


def joined(name: str, items: list[bytes], rest: dict[str, Any], media: str) -> bytes:
    """The document {name: [items], **rest} of items that are encoded already. `rest` is not empty."""
    if media == MSGPACK:
        packer = msgpack.Packer()
        head = (
            packer.pack_map_header(1 + len(rest)) + packer.pack(name) + packer.pack_array_header(len(items))
        )
        return b"".join((head, *items, *(packer.pack(part) for pair in rest.items() for part in pair)))
    return b'{"%b":[%b],%b' % (name.encode(), b",".join(items), encode_json(rest)[1:])


def document(value: Any, media: str = JSON, *, status: int = 200, head: str = "") -> Reply:
    """A reply whose body is this value."""
    if media == MSGPACK:
        body: bytes = msgpack.packb(value)
    elif media == JSON_LINES:
        body = b"".join(encode_json(line) + b"\n" for line in value)
    else:
        body = encode_json(value)
    return Reply(status, f"Content-Type: {media}\r\n{head}", body)


def decode(body: bytes, media: str) -> Any:
    """A document that this room made itself."""
    return msgpack.unpackb(body) if media == MSGPACK else json.loads(body)
