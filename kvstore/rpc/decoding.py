"""From bytes to values that have exactly the annotated types, within fixed bounds.

Decoders are derived from the annotations of a NamedTuple, once, at import. Unknown trailing fields are
ignored and missing ones take their defaults, so neighbouring versions understand each other (B27).

Bounds: no maps, no extension types, arrays of at most `ITEMS_MAX` elements, nesting of at most 1,024
(msgpack's own stack). What is announced takes 64 MiB at worst, what is there about 60 times its size
(many tiny arrays), both for a moment. Whatever breaks these or the annotated types is MalformedFrame.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgpack

ITEMS_MAX = 8192

Decoder = Callable[[Any], Any]
"""Takes what msgpack made of a field; returns the value or raises MalformedFrame."""


class MalformedFrame(Exception):
    """Bytes that no honest peer sends. The connection is closed; nothing of the message is used."""


def decoder(kind: Any) -> Decoder:
    """For an annotation: int, float, bool, str, bytes, X | None, tuple[…] or a NamedTuple of these."""
    if kind in (int, bool, str, bytes):
        return _exactly(kind)
    if kind is float:
        return _float
    if get_origin(kind) in (UnionType, Union):
        (some,) = (a for a in get_args(kind) if a is not NoneType)
        decode = decoder(some)
        return lambda value: None if value is None else decode(value)
    if get_origin(kind) is tuple:
        return _tuple(get_args(kind))
    assert hasattr(kind, "_fields"), f"no encoding for {kind}"
    return _named(kind)


def _exactly(kind: type) -> Decoder:
    def decode(value: Any) -> Any:
        if type(value) is not kind:
            raise MalformedFrame(f"{type(value).__name__} in place of {kind.__name__}")
        return value

    return decode


def _float(value: Any) -> float:
    """Whole numbers pass: 0 is a fair way to say 0.0."""
    if type(value) is int:
        return float(value)
    if type(value) is not float or not math.isfinite(value):
        raise MalformedFrame(f"{type(value).__name__} in place of a finite float")
    return value


def _tuple(kinds: tuple[Any, ...]) -> Decoder:
    repeated = len(kinds) == 2 and kinds[1] is Ellipsis
    decoders = tuple(decoder(kind) for kind in (kinds[:1] if repeated else kinds))

    def decode(value: Any) -> tuple[Any, ...]:
        if type(value) is not tuple:
            raise MalformedFrame(f"{type(value).__name__} in place of an array")
        if repeated:
            return tuple(map(decoders[0], value))
        if len(value) < len(decoders):
            raise MalformedFrame(f"array of {len(value)} in place of {len(decoders)}")
        return tuple(decode(item) for decode, item in zip(decoders, value, strict=False))

    return decode


def _named(cls: Any) -> Decoder:
    names: tuple[str, ...] = cls._fields
    defaults: dict[str, Any] = cls._field_defaults
    hints = get_type_hints(cls)
    decoders = tuple(decoder(hints[name]) for name in names)

    def decode(fields: Any) -> Any:
        if type(fields) is not tuple:
            raise MalformedFrame(f"{type(fields).__name__} in place of the fields of {cls.__name__}")
        values: list[Any] = []
        try:
            for decode_field, value in zip(decoders, fields, strict=False):
                values.append(decode_field(value))
        except MalformedFrame as error:
            raise MalformedFrame(f"{cls.__name__}.{names[len(values)]}: {error}") from None
        for name in names[len(fields) :]:
            if name not in defaults:
                raise MalformedFrame(f"{cls.__name__} without {name}")
            values.append(defaults[name])
        return tuple.__new__(cls, values)

    return decode


def messages_of(payload: memoryview, items_max: int = ITEMS_MAX) -> tuple[Any, ...]:
    """The messages of one payload, which is an array of them. Raises MalformedFrame."""
    try:
        messages = msgpack.unpackb(
            payload,
            use_list=False,
            max_array_len=items_max,
            max_map_len=0,
            max_ext_len=0,
            ext_hook=_no_extension,
        )
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise MalformedFrame(f"not msgpack of the known form: {error or type(error).__name__}") from None
    if type(messages) is not tuple:
        raise MalformedFrame("not an array of messages")
    return messages


def _no_extension(code: int, data: bytes) -> Any:
    raise ValueError("extension types are not used here")
