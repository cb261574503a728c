"""What `import` reads and `export` writes: one record per key, as JSON lines or as a stream of msgpack maps.

    {"key": "ann", "value": "text", "content_type": "text/plain", "meta": {"by": "bob"}}
    {"key_base64": "/w==", "value_base64": "AAE="}
    {"key": "carl", "siblings": [{"value": "one"}, {"value": "two"}]}

In JSON a value that is no text is a document and stored as JSON. In msgpack keys and values are bytes
or text. A record's place is where it begins in the file, so that an interrupted import finds it again.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import msgpack

from kvstore.cli.output import bytes_fields
from kvstore.errors import InvalidRequest

FORMATS = ("jsonl", "msgpack")
RECORD_BYTES_MAX = 64 << 20
OCTETS = "application/octet-stream"
TEXT = "text/plain; charset=utf-8"
JSON = "application/json"
_FIELDS = ("key", "key_base64", "siblings")
_VALUE_FIELDS = ("value", "value_base64", "content_type", "meta")


class Value(NamedTuple):
    """One of the siblings of a key; most keys have one."""

    data: bytes
    content_type: str
    meta: dict[str, str]


class Record(NamedTuple):
    key: bytes
    values: tuple[Value, ...]


class Place(NamedTuple):
    """Byte offsets of a record, and its number, from 1."""

    start: int
    end: int
    number: int


def format_of(name: str) -> str:
    """By the end of the file's name; JSON lines unless it says msgpack."""
    return "msgpack" if name.endswith((".msgpack", ".mp", ".msgpck")) else "jsonl"


def read(stream: BinaryIO, form: str, start: int = 0, number: int = 0) -> Iterator[tuple[Place, Any]]:
    """(place, raw record) from byte `start` on, where `number` records have gone before.

    What a raw record holds is for `parse` to say: one that is malformed must not end the others. Raises
    InvalidRequest where the rest of the file cannot be told apart any more.
    """
    if stream.seekable():
        stream.seek(start)
    return (_read_lines if form == "jsonl" else _read_msgpack)(stream, start, number)


def _read_lines(stream: BinaryIO, start: int, number: int) -> Iterator[tuple[Place, Any]]:
    while line := stream.readline(RECORD_BYTES_MAX + 1):
        if len(line) > RECORD_BYTES_MAX:
            raise InvalidRequest(f"line {number + 1} is longer than {RECORD_BYTES_MAX} bytes")
        number += 1
        place = Place(start, start + len(line), number)
        start = place.end
        if not line.isspace():
            yield place, line


def _read_msgpack(stream: BinaryIO, start: int, number: int) -> Iterator[tuple[Place, Any]]:
    counted = _Counted(stream)
    unpacker = msgpack.Unpacker(counted, max_buffer_size=RECORD_BYTES_MAX, strict_map_key=True)
    begin = start
    while True:
        try:
            raw = unpacker.unpack()
        except msgpack.OutOfData:
            if begin - start != counted.bytes_read:
                raise InvalidRequest(f"record {number + 1} at byte {begin} is cut off") from None
            return
        except (ValueError, RecursionError, msgpack.UnpackException) as error:
            why = str(error) or type(error).__name__
            raise InvalidRequest(f"record {number + 1} at byte {begin} is not msgpack: {why}") from None
        number += 1
        place = Place(begin, start + unpacker.tell(), number)
        begin = place.end
        yield place, raw


class _Counted:
    """How much was read tells a file that ends in the middle of a record from one that ends after it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self.bytes_read = stream, 0

    def read(self, count: int) -> bytes:
        found = self._stream.read(count)
        self.bytes_read += len(found)
        return found


def parse(raw: Any) -> Record:
    """Raises InvalidRequest with what is wrong with it."""
    if isinstance(raw, bytes):
        try:
            raw = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(f"not JSON: {error}") from None
    if not isinstance(raw, dict):
        raise InvalidRequest(f"a record is a map, not {type(raw).__name__}")
    unknown = [name for name in raw if name not in (*_FIELDS, *_VALUE_FIELDS)]
    if unknown:
        known = ", ".join((*_FIELDS, *_VALUE_FIELDS))
        raise InvalidRequest(f"unknown field {str(unknown[0])[:64]!r}", advice=f"known: {known}")
    key = _bytes(raw, "key")
    if not key:
        raise InvalidRequest("the key is missing or empty")
    if "siblings" not in raw:
        return Record(key, (_value(raw),))
    siblings = raw["siblings"]
    if not isinstance(siblings, list) or not siblings or not all(isinstance(s, dict) for s in siblings):
        raise InvalidRequest("siblings must be a list of maps, at least one")
    return Record(key, tuple(map(_value, siblings)))


def _value(raw: dict[str, Any]) -> Value:
    meta = raw.get("meta") or {}
    if not isinstance(meta, dict) or not all(isinstance(t, str) for pair in meta.items() for t in pair):
        raise InvalidRequest("meta must be a map of texts")
    value = raw.get("value")
    if "value" in raw and not isinstance(value, str | bytes):
        data, by_default = json.dumps(value, ensure_ascii=False, default=_refuse).encode(), JSON
    else:
        read_value = _bytes(raw, "value")
        if read_value is None:
            raise InvalidRequest("the value is missing")
        data, by_default = read_value, TEXT if isinstance(value, str) else OCTETS
    content_type = raw.get("content_type", by_default)
    if not isinstance(content_type, str):
        raise InvalidRequest("content_type must be a text")
    return Value(data, content_type, meta)


def _refuse(value: Any) -> Any:
    raise InvalidRequest(f"a value holds {type(value).__name__}, which is no JSON")


def _bytes(raw: dict[str, Any], name: str) -> bytes | None:
    """The field as text or bytes, or its twin in base64; None if neither is there."""
    text, encoded = raw.get(name), raw.get(f"{name}_base64")
    if text is not None and encoded is not None:
        raise InvalidRequest(f"{name} and {name}_base64 are both there")
    if encoded is not None:
        try:
            return b64decode(encoded, validate=True)
        except (ValueError, TypeError):
            raise InvalidRequest(f"{name}_base64 is not base64") from None
    if text is None:
        return None
    if isinstance(text, bytes):
        return text
    if not isinstance(text, str):
        raise InvalidRequest(f"{name} must be a text")
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"{name} holds a lone surrogate", advice=f"use {name}_base64") from None


def write(record: Record, form: str) -> bytes:
    """The bytes of one record; `read` and `parse` give it back."""
    binary = form == "msgpack"
    values = [_value_fields(value, binary=binary) for value in record.values]
    fields = _bytes_fields("key", record.key, binary=binary)
    fields |= values[0] if len(values) == 1 else {"siblings": values}
    if binary:
        packed: bytes = msgpack.packb(fields)
        return packed
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _value_fields(value: Value, *, binary: bool) -> dict[str, Any]:
    fields = _bytes_fields("value", value.data, binary=binary)
    fields["content_type"] = value.content_type
    if value.meta:
        fields["meta"] = dict(value.meta)
    return fields


def _bytes_fields(name: str, data: bytes, *, binary: bool) -> dict[str, Any]:
    return {name: data} if binary else bytes_fields(name, data)
