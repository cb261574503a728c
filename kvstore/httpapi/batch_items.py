"""The operations of a batch: from bytes to calls. The form is described in batch.py."""

from __future__ import annotations

import binascii
import json
from base64 import b64decode
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgpack
from multidict import CIMultiDict

from kvstore.core.bucket import check_bucket_name
from kvstore.core.limits import Limits
from kvstore.errors import InvalidRequest, KVStoreError, TooLarge
from kvstore.httpapi.media import JSON, JSON_LINES, MSGPACK
from kvstore.httpapi.options import ACCEPT, PRIORITY, TIMEOUT
from kvstore.httpapi.routes import Call, Route, check_key
from kvstore.httpapi.target import refuse_unknown

METHODS = {"get": "GET", "put": "PUT", "delete": "DELETE"}
HEADERS = {
    "context": "KV-Context",
    "session": "KV-Session",
    "content_type": "Content-Type",
    "if_match": "If-Match",
    "if_none_match": "If-None-Match",
    "idempotency_key": "Idempotency-Key",
}
FIELDS = ("op", "bucket", "key", "key_base64", "value", "value_base64", "options", "meta", *HEADERS)


class Operation(NamedTuple):
    """`name`: get, put or delete. `value` is b"" but for a put."""

    name: str
    call: Call
    value: bytes


def parse_items(body: bytes, media: str, items_max: int) -> list[Any]:
    """Raises InvalidRequest, TooLarge. What an item holds is not looked at."""
    try:
        if media == MSGPACK:
            items = msgpack.unpackb(body, max_ext_len=0, max_array_len=max(items_max, 64))
        elif media == JSON:
            items = json.loads(body)
        elif media == JSON_LINES:
            lines = [line for line in body.split(b"\n") if line.strip()]
            _check_count(len(lines), items_max)
            items = [json.loads(line) for line in lines]
        else:
            raise InvalidRequest(
                f"a batch cannot be {media[:64]!r}", advice=f"send {JSON}, {JSON_LINES} or {MSGPACK}"
            )
    except (ValueError, TypeError, RecursionError) as error:
        name = media.rpartition("/")[2]
        raise InvalidRequest(f"the batch is not {name}: {str(error)[:200] or 'nested too deep'}") from None
    if type(items) is not list:
        raise InvalidRequest("the batch is not an array", advice="send [operation, operation, ...]")
    _check_count(len(items), items_max)
    return items


def _check_count(count: int, items_max: int) -> None:
    if count > items_max:
        raise TooLarge(f"the batch has {count} operations, the limit is {items_max}", advice="split it")


class BatchReader:
    """`routes`: those of single keys, by method; they say which options there are."""

    def __init__(self, limits: Limits, routes: Mapping[str, Route]) -> None:
        self._limits = limits
        self._options = {name: routes[method].options for name, method in METHODS.items()}

    def read(self, item: Any, batch: Call, siblings_media: str) -> Operation | KVStoreError:
        """An item that is wrong becomes its own error, and the others run."""
        try:
            return self._operation(item, batch, siblings_media)
        except KVStoreError as error:
            return error

    def _operation(self, item: Any, batch: Call, siblings_media: str) -> Operation:
        if type(item) is not dict:
            raise InvalidRequest("an operation is a map with op, bucket and key")
        for field in item:
            if field not in FIELDS:
                refuse_unknown(field, FIELDS, "field of an operation")
        name = item.get("op")
        if not isinstance(name, str) or name not in METHODS:
            raise InvalidRequest(f"op={str(name)[:64]!r} must be one of {', '.join(METHODS)}")
        bucket = item.get("bucket")
        if not isinstance(bucket, str):
            raise InvalidRequest("bucket is missing, or is no text")
        check_bucket_name(bucket)
        key = _bytes(item, "key")
        check_key(key, self._limits.key_bytes_max)
        value = b""
        if name == "put":
            value = _bytes(item, "value")
            if len(value) > self._limits.value_bytes_max:
                raise TooLarge(f"value has {len(value)} bytes, the limit is {self._limits.value_bytes_max}")
        elif "value" in item or "value_base64" in item:
            raise InvalidRequest(f"{name} takes no value")
        options = _options(item.get("options", {}), self._options[name])
        headers = _headers(item, batch)
        headers[ACCEPT] = siblings_media
        call = Call(METHODS[name], bucket, key, options, headers, batch.request_id)
        call.waited_s, call.principal = batch.waited_s, batch.principal
        return Operation(name, call, value)


def _bytes(item: dict[str, Any], name: str) -> bytes:
    """`name` as text or bytes, or `name_base64`."""
    plain, coded = item.get(name), item.get(f"{name}_base64")
    if (plain is None) == (coded is None):
        raise InvalidRequest(f"give either {name} or {name}_base64")
    if isinstance(plain, bytes):
        return plain
    try:
        if isinstance(plain, str):
            return plain.encode("utf-8")
        if isinstance(coded, str):
            return b64decode(coded, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest(f"{name} is not valid: no UTF-8, or no base64") from None
    raise InvalidRequest(f"{name} must be text", advice=f"send other bytes as {name}_base64")


def _options(given: Any, known: tuple[str, ...]) -> dict[str, bytes]:
    if type(given) is not dict:
        raise InvalidRequest("options must be a map")
    options: dict[str, bytes] = {}
    for name, value in given.items():
        if name not in known:
            refuse_unknown(name, known, "option")
        if isinstance(value, bool):
            value = "true" if value else "false"
        if not isinstance(value, str | int | float):
            raise InvalidRequest(f"option {name} must be text or a number")
        options[name] = str(value).encode("utf-8", "replace")
    return options


def _headers(item: dict[str, Any], batch: Call) -> CIMultiDict[str]:
    """The fields that are headers of a single request; deadline and priority are those of the batch."""
    headers: CIMultiDict[str] = CIMultiDict()
    for name in (TIMEOUT, PRIORITY):
        if name in batch.headers:
            headers[name] = batch.headers[name]
    for field, header in HEADERS.items():
        value = item.get(field)
        if value is not None:
            headers[header] = _text(field, value)
    metadata = item.get("meta", {})
    if type(metadata) is not dict:
        raise InvalidRequest("meta must be a map of texts")
    for name, value in metadata.items():
        headers.add(f"KV-Meta-{_text('a name of meta', name)}", _text(f"meta {str(name)[:64]}", value))
    return headers


def _text(what: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(f"{what} must be text")
    return value
