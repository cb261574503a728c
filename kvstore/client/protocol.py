"""Requests to a node, and whether an answer is one. Pure: nothing here waits, draws or knows a socket.

A request carries what a retry needs to know (its effect) and what routing needs (its key). Readings
of the answers are in answers.py, what failures mean in problems.py, when to try again in retry.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgpack

from kvstore.client import problems
from kvstore.client.names import encode_segment
from kvstore.client.options import checked_context, checked_etag, checked_meta, checked_operation_id
from kvstore.client.retry import Effect, Failed
from kvstore.errors import InvalidRequest

MSGPACK_TYPE = "application/msgpack"
JSON_TYPE = "application/json"
_READ_HEADERS = {"Accept": f"{MSGPACK_TYPE}, */*;q=0.1"}
_MSGPACK_ONLY = {"Accept": MSGPACK_TYPE}
_JSON_ONLY = {"Accept": JSON_TYPE}
_NOTHING: Mapping[str, str] = {}


class Request(NamedTuple):
    """One operation. `target`: path and query. `key` with `bucket` says where it is at home; b"": anywhere.

    `homes`: how many nodes are home to the key, 0 if nobody said. `data`: answers carry a receipt.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    effect: Effect
    bucket: str = ""
    key: bytes = b""
    homes: int = 0
    data: bool = False


class Reply(NamedTuple):
    """`headers` finds names in any case, or has them in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


# --- one key --------------------------------------------------------------------------------------------


def get(bucket: str, key: bytes, query: str, *, session: str = "", homes: int = 0) -> Request:
    headers = {**_READ_HEADERS, "KV-Session": session} if session else _READ_HEADERS
    target = f"/v1/kv/{bucket}/{encode_segment(key)}{query}"
    return Request("GET", target, headers, b"", Effect.READ, bucket, key, homes, True)


class Write(NamedTuple):
    """What a put and a delete may carry beside key and value. `operation_id` names it, over all retries."""

    operation_id: str
    context: str | None = None
    if_match: str | None = None
    if_absent: bool = False
    meta: Mapping[str, str] | None = None
    content_type: str = ""

    @property
    def effect(self) -> Effect:
        conditional = self.if_match is not None or self.if_absent
        return Effect.CONDITIONAL if conditional else Effect.WRITE

    def check(self) -> None:
        """Raises InvalidRequest, InvalidContext."""
        checked_operation_id(self.operation_id)
        if self.if_match is not None and self.if_absent:
            raise InvalidRequest("if_match and if_absent contradict each other", advice="pass one")


def put(bucket: str, key: bytes, query: str, value: bytes, write: Write, *, homes: int = 0) -> Request:
    """Raises InvalidRequest, InvalidContext."""
    headers = _write_headers(write)
    headers["Content-Type"] = write.content_type
    target = f"/v1/kv/{bucket}/{encode_segment(key)}{query}"
    return Request("PUT", target, headers, value, write.effect, bucket, key, homes, True)


def delete(bucket: str, key: bytes, query: str, write: Write, *, homes: int = 0) -> Request:
    """Raises InvalidRequest, InvalidContext."""
    target = f"/v1/kv/{bucket}/{encode_segment(key)}{query}"
    return Request("DELETE", target, _write_headers(write), b"", write.effect, bucket, key, homes, True)


def _write_headers(write: Write) -> dict[str, str]:
    write.check()
    headers = {"Idempotency-Key": write.operation_id}
    if write.context is not None:
        headers["KV-Context"] = checked_context(write.context)
    if write.if_match is not None:
        headers["If-Match"] = checked_etag(write.if_match)
    if write.if_absent:
        headers["If-None-Match"] = "*"
    if write.meta:
        for name, text in checked_meta(write.meta).items():
            headers[f"KV-Meta-{name}"] = text
    return headers


def outcome(bucket: str, key: bytes, operation_id: str, counts: str, *, homes: int = 0) -> Request:
    """`counts`: a query, or "". Raises InvalidRequest."""
    operation = encode_segment(checked_operation_id(operation_id).encode())
    target = f"/v1/outcome/{operation}?bucket={bucket}&key={encode_segment(key)}{counts.replace('?', '&')}"
    return Request("GET", target, _JSON_ONLY, b"", Effect.READ, bucket, key, homes)


# --- many keys ------------------------------------------------------------------------------------------


def batch(items: list[dict[str, Any]], effect: Effect) -> Request:
    """`effect`: the most delicate one among the items."""
    headers = {"Content-Type": MSGPACK_TYPE, **_MSGPACK_ONLY}
    return Request("POST", "/v1/batch", headers, msgpack.packb(items), effect)


def scan(bucket: str, *, prefix: bytes, limit: int, values: bool, r: int | None) -> Request:
    """The first page; the next ones are at the links that pages carry."""
    if type(limit) is not int or not 1 <= limit <= 1000:
        raise InvalidRequest(f"page_size={limit!r} must be a whole number from 1 to 1000")
    parts = [f"limit={limit}"]
    if prefix:
        parts.append(f"prefix={encode_segment(prefix)}")
    if values:
        parts.append("values=true")
    if r is not None:
        parts.append(f"r={r}")
    return Request("GET", f"/v1/kv/{bucket}?{'&'.join(parts)}", _MSGPACK_ONLY, b"", Effect.READ)


def next_page(first: Request, link: str) -> Request:
    return first._replace(target=link)


# --- everything else ------------------------------------------------------------------------------------


def properties(bucket: str) -> Request:
    return Request("GET", f"/v1/buckets/{bucket}", _JSON_ONLY, b"", Effect.READ)


def configure(bucket: str, values: bytes) -> Request:
    """`values`: JSON. Named properties are set to values, so twice is once."""
    headers = {"Content-Type": JSON_TYPE, **_JSON_ONLY}
    return Request("PUT", f"/v1/buckets/{bucket}", headers, values, Effect.WRITE)


def cluster() -> Request:
    return Request("GET", "/v1/cluster", _JSON_ONLY, b"", Effect.READ)


def layout() -> Request:
    return Request("GET", "/v1/layout", _JSON_ONLY, b"", Effect.READ)


def explain(bucket: str, key: bytes) -> Request:
    target = f"/v1/explain/{bucket}/{encode_segment(key)}"
    return Request("GET", target, _JSON_ONLY, b"", Effect.READ, bucket, key)


# --- is it an answer ------------------------------------------------------------------------------------

_GOT = frozenset({200, 300, 404})


def judge(request: Request, reply: Reply, node: str) -> Failed | None:
    """None for an answer to this request, else what failed.

    A missing key is an answer; a missing route, or the 404 of some other server, is not: a data answer
    of a node carries KV-Acks, every other one KV-Request-Id.
    """
    status, headers, _ = reply
    if request.data:
        if status in _GOT if request.effect is Effect.READ else 200 <= status < 300:
            if "kv-acks" in headers:
                return None
            if status != 404:
                return problems.stranger(request.effect, status, headers, node)
    elif 200 <= status < 300:
        return (
            None if "kv-request-id" in headers else problems.stranger(request.effect, status, headers, node)
        )
    return problems.failed(request.effect, status, headers, reply.body, node)
