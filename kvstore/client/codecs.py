"""Values to bytes and back. The content type is stored with the value and checked when it is read.

    kv.bucket("users", codec="json")                # by name
    kv.bucket("users", codec=codecs.JSON)           # the same
    kv.bucket("users", codec=Codec("orjson", "application/json", orjson.dumps, orjson.loads))

Without a codec, values are bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Generic, TypeVar, cast

import msgpack

from kvstore.errors import InvalidRequest

T = TypeVar("T")

OCTETS = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Codec(Generic[T]):
    """`encode` and `decode` may raise anything; it becomes InvalidRequest with the key in it.

    `accepts` are further content types that `decode` understands; "*" for all of them.
    """

    name: str
    content_type: str
    encode: Callable[[T], bytes]
    decode: Callable[[bytes], T]
    accepts: frozenset[str] = frozenset()

    def understands(self, content_type: str) -> bool:
        if content_type == self.content_type or "*" in self.accepts:
            return True
        media = media_type(content_type)
        return media == media_type(self.content_type) or media in self.accepts

    def to_bytes(self, value: T, key: str | bytes) -> bytes:
        """Raises InvalidRequest for a value that this codec cannot write."""
        try:
            encoded = self.encode(value)
        except Exception as error:
            raise InvalidRequest(
                f"the value for {key!r} is not {self.name}: {error}", advice=_ADVICE.get(self.name, "")
            ) from error
        assert isinstance(encoded, bytes), f"codec {self.name} made {type(encoded).__name__}, not bytes"
        return encoded

    def from_bytes(self, data: bytes, content_type: str, key: str | bytes) -> T:
        """Raises InvalidRequest for a value that was stored as something else."""
        if not self.understands(content_type):
            raise InvalidRequest(
                f"the value of {key!r} was stored as {content_type}, this bucket reads {self.name}",
                advice="read it through a bucket with the codec it was written with; codec='raw' takes any",
            )
        try:
            return self.decode(data)
        except Exception as error:
            raise InvalidRequest(
                f"the value of {key!r} says it is {content_type}, and is not: {error}",
                advice="codec='raw' gives its bytes as they are",
            ) from error


_ADVICE = {"raw": "give the bucket a codec, such as codec='json', or pass bytes"}


def media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _only_bytes(value: bytes) -> bytes:
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if not isinstance(value, bytes):
        raise TypeError(f"it is {type(value).__name__}, and without a codec values are bytes")
    return value


def _only_text(value: str) -> bytes:
    if not isinstance(value, str):
        raise TypeError(f"it is {type(value).__name__}, not str")
    return value.encode()


_encode_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def _pack(value: Any) -> bytes:
    return cast(bytes, msgpack.packb(value))


def _unpack(data: bytes) -> Any:
    return msgpack.unpackb(data, strict_map_key=False)


def _as_is(data: bytes) -> bytes:
    return data


RAW: Codec[bytes] = Codec("raw", OCTETS, _only_bytes, _as_is, frozenset({"*"}))
TEXT: Codec[str] = Codec("text", "text/plain; charset=utf-8", _only_text, bytes.decode)
JSON: Codec[Any] = Codec(
    "json",
    "application/json",
    lambda value: _encode_json(value).encode(),
    json.loads,
    frozenset({"text/json"}),
)
MSGPACK: Codec[Any] = Codec(
    "msgpack",
    "application/msgpack",
    _pack,
    _unpack,
    frozenset({"application/x-msgpack", "application/vnd.msgpack"}),
)

_named: dict[str, Codec[Any]] = {"raw": RAW, "bytes": RAW, "text": TEXT, "json": JSON, "msgpack": MSGPACK}


def register(codec: Codec[Any]) -> None:
    """From now on `codec.name` names it. Raises InvalidRequest if the name is taken."""
    if _named.get(codec.name, codec) != codec:
        raise InvalidRequest(f"there is a codec named {codec.name!r} already", advice="give it another name")
    _named[codec.name] = codec


def named(codec: str | Codec[T]) -> Codec[T]:
    """Raises InvalidRequest for a name that is not registered."""
    if isinstance(codec, Codec):
        return codec
    if codec not in _named:
        close = get_close_matches(str(codec), _named, 1)
        raise InvalidRequest(
            f"there is no codec {codec!r}",
            advice=f"did you mean {close[0]!r}?"
            if close
            else f"known: {', '.join(_named)}; or register() yours",
        )
    return _named[codec]
