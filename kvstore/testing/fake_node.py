"""One node in memory that answers requests as a cluster would, without sockets, replicas or waiting.

A single copy stands for all homes of a key, so every quorum is met at once. What a second copy would
add, writes that do not see each other, `mode="sibling"` makes here as it does there.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

import msgpack

from kvstore.client.call import Attempt
from kvstore.client.protocol import Reply, Request
from kvstore.core.bucket import BucketProperties, check_bucket_name, properties_from
from kvstore.core.encoding import decode_context, etag
from kvstore.core.limits import DEFAULT_LIMITS
from kvstore.core.ring import full_key, partition_of, split_key
from kvstore.core.sibling import EMPTY_STATE, KeyState, Version, find_operation, shown, write
from kvstore.core.token import open_joined, seal, token_key
from kvstore.core.vector_clock import EMPTY_CONTEXT, CausalContext, Dot, context_of
from kvstore.errors import (
    ContextRequired,
    InvalidContext,
    InvalidRequest,
    KVStoreError,
    NotFound,
    PreconditionFailed,
    StaleRead,
    TooLarge,
)

_START_S = 1_700_000_000.0
_REPLICA_ID = 1
_HLC_PER_MS = 1 << 16
_MODES = {"blind": "overwrite", "sibling": "sibling"}

PROBLEMS: dict[str, tuple[int, str]] = {
    "invalid-request": (400, "failed"),
    "invalid-context": (400, "failed"),
    "unauthorized": (401, "failed"),
    "no-such-route": (404, "failed"),
    "precondition-failed": (412, "failed"),
    "too-large": (413, "failed"),
    "context-required": (428, "failed"),
    "rate-limited": (429, "failed"),
    "internal": (500, "unknown"),
    "quorum-unavailable": (503, "failed"),
    "quorum-not-met": (503, "failed"),
    "stale": (503, "failed"),
    "overloaded": (503, "failed"),
    "not-ready": (503, "failed"),
    "write-timeout": (504, "unknown"),
    "storage-full": (507, "failed"),
}
"""Type -> status, and what it says about a write."""

_TYPE_OF: dict[type[KVStoreError], str] = {
    InvalidContext: "invalid-context",
    InvalidRequest: "invalid-request",
    NotFound: "no-such-route",
    PreconditionFailed: "precondition-failed",
    TooLarge: "too-large",
    ContextRequired: "context-required",
    StaleRead: "stale",
}


class _Failure(NamedTuple):
    type: str
    applied: bool


class _Asked(NamedTuple):
    """One operation, alone or of a batch. Header names in lower case."""

    bucket: str
    key: bytes
    options: Mapping[str, bytes]
    headers: Mapping[str, str]
    value: bytes = b""
    tombstone: bool = False


class FakeNode:
    """Fits AsyncTransport. `nodes`: how many homes it stands for. `now_s`: Unix time, moved by hand."""

    def __init__(self, nodes: int = 3) -> None:
        self.now_s = _START_S
        self.clients = 0
        self.attempts: list[Attempt] = []
        """Every attempt that came, for tests that care."""
        self._defaults = BucketProperties(n=nodes)
        self._signing_key = token_key(b"fake" * 8)
        self._states: dict[bytes, KeyState] = {}
        self._buckets: dict[str, BucketProperties] = {}
        self._failures: deque[_Failure] = deque()
        self._counter = self._answered = 0

    def fail_next(self, problem: str, times: int = 1, *, applied: bool = False) -> None:
        if problem not in PROBLEMS:
            raise InvalidRequest(f"no node answers with {problem!r}", advice=f"known: {', '.join(PROBLEMS)}")
        self._failures.extend([_Failure(problem, applied)] * times)

    async def close(self) -> None:
        """Nothing to close; the data stay, for whoever shares them."""

    async def send(self, request: Request, attempt: Attempt) -> Reply:
        self.attempts.append(attempt)
        self._answered += 1
        failure = self._failures.popleft() if self._failures else None
        headers = {name.lower(): text for name, text in attempt.headers.items()}
        if failure is not None and not failure.applied:
            reply = _problem(failure.type, "as the test asked")
        else:
            reply = self._guarded(lambda: self._dispatch(request, headers))
            if failure is not None:
                reply = _problem(failure.type, "as the test asked; it was applied")
        common = {"kv-node": "fake", "kv-request-id": f"fake-{self._answered:x}"}
        return reply._replace(headers={**common, **reply.headers})

    def _guarded(self, answer: Callable[[], Reply]) -> Reply:
        try:
            return answer()
        except KVStoreError as error:
            return _problem(_TYPE_OF[type(error)], error.detail, advice=error.advice)

    def _dispatch(self, request: Request, headers: dict[str, str]) -> Reply:
        path, _, query = request.target.partition("?")
        options = {
            name: unquote_to_bytes(text)
            for name, _, text in (part.partition("=") for part in query.split("&") if part)
        }
        route, _, rest = path.removeprefix("/v1/").partition("/")
        bucket, slash, segment = rest.partition("/")
        key = unquote_to_bytes(segment)
        match request.method, route, bool(slash):
            case "POST", "batch", False:
                return self._batch(msgpack.unpackb(request.body))
            case "GET", "cluster", False:
                return _json({"cluster_id": "fake", "answered_by": "fake", "members": []})
            case "GET", "outcome", False:
                return self._outcome(unquote_to_bytes(bucket), options, headers)
        check_bucket_name(bucket)
        match request.method, route, bool(slash):
            case "GET", "kv", False:
                return self._page(bucket, options)
            case "GET", "kv", True:
                return self._get(_Asked(bucket, key, options, headers))
            case "PUT", "kv", True:
                return self._put(_Asked(bucket, key, options, headers, request.body))
            case "DELETE", "kv", True:
                return self._put(_Asked(bucket, key, options, headers, tombstone=True))
            case "GET", "buckets", False:
                return self._described(bucket)
            case "PUT", "buckets", False:
                self._buckets[bucket] = properties_from(json.loads(request.body), self._properties(bucket))
                return self._described(bucket)
            case "GET", "explain", True:
                return self._explain(bucket, key)
        raise NotFound(f"there is no {path}")

    # --- one key ------------------------------------------------------------------------------------

    def _get(self, asked: _Asked) -> Reply:
        counts = self._properties(asked.bucket).quorum(
            n=_count(asked.options, "n"), r=_count(asked.options, "r"), pr=_count(asked.options, "pr")
        )
        state = self._state(asked)
        if token := asked.headers.get("kv-session"):
            seen = self._opened(token, asked)
            if not state.context.includes(seen):
                raise StaleRead("no replica in reach has what this session has already seen")
        headers = _receipt(counts.n, counts.r, counts.r)
        versions = self._shown(asked.bucket, state)
        if state.context != EMPTY_CONTEXT:
            headers["kv-context"] = self._sealed(state.context, asked)
        headers["kv-siblings"] = str(len(versions))
        if not versions:
            body = b'{"type":"no-such-key","title":"The key has no value","status":404}'
            return Reply(404, headers | {"content-type": "application/problem+json"}, body)
        headers["etag"] = f'"{etag(state.siblings)}"'
        if len(versions) == 1:
            version = versions[0][1]
            headers |= {f"kv-meta-{name}": text for name, text in version.metadata}
            return Reply(200, headers | {"content-type": version.content_type}, version.value)
        body = msgpack.packb({"siblings": [_described(dot, version) for dot, version in versions]})
        return Reply(300, headers | {"content-type": "application/msgpack"}, body)

    def _put(self, asked: _Asked) -> Reply:
        properties = self._properties(asked.bucket)
        counts = properties.quorum(
            n=_count(asked.options, "n"), w=_count(asked.options, "w"), pw=_count(asked.options, "pw")
        )
        _check_sizes(asked)
        token = asked.headers.get("kv-context")
        context = self._opened(token, asked) if token is not None else None
        mode = _MODES[asked.options["mode"].decode()] if "mode" in asked.options else None
        if mode is not None and context is not None:
            raise InvalidRequest("mode says what a write without a context does, and KV-Context is there")
        state = self._state(asked)
        operation_id = asked.headers.get("idempotency-key", "").encode()
        if (sent_before := find_operation(state, operation_id)) is not None:
            dot, held = sent_before
            if (held.value, held.tombstone) != (asked.value, asked.tombstone):
                raise InvalidRequest("this operation id was used for another write of this key")
        else:
            context = self._met(asked, state, context)
            state, dot = self._write(asked, properties, state, context, mode)
        own = (context or EMPTY_CONTEXT).add(dot)
        headers = _receipt(counts.n, counts.w, counts.n) | {
            "kv-context": self._sealed(own, asked),
            "etag": f'"{etag(state.siblings)}"',
            "kv-siblings": str(len(state.siblings)),
        }
        return Reply(204, headers, b"")

    def _outcome(self, operation_id: bytes, options: Mapping[str, bytes], headers: dict[str, str]) -> Reply:
        asked = _Asked(options["bucket"].decode(), options["key"], options, headers)
        counts = self._properties(asked.bucket).quorum(n=_count(options, "n"), w=_count(options, "w"))
        found = find_operation(self._state(asked), operation_id)
        told: dict[str, Any] = {"operation": operation_id.decode(), "outcome": "ok" if found else "unknown"}
        told |= {"n": counts.n, "required": counts.w, "answered": counts.n, "acks": counts.n if found else 0}
        reply = _json(told)
        if found:
            reply = reply._replace(
                headers={**reply.headers, "kv-context": self._sealed(context_of([found[0]]), asked)}
            )
        return reply

    def _met(self, asked: _Asked, state: KeyState, context: CausalContext | None) -> CausalContext | None:
        """What the write has seen, once its condition holds. Raises PreconditionFailed."""
        if_match, if_absent = asked.headers.get("if-match"), "if-none-match" in asked.headers
        if if_match is None and not if_absent:
            return context
        versions = self._shown(asked.bucket, state)
        tag = etag(state.siblings) if versions else None
        if if_absent and versions:
            raise PreconditionFailed("the key has a value already (If-None-Match: *)")
        if if_match is not None and (tag is None or if_match not in ("*", f'"{tag}"')):
            raise PreconditionFailed(f"the current ETag is {tag or 'none'}, not {if_match}")
        return state.context.join(context) if context else state.context

    def _write(
        self,
        asked: _Asked,
        properties: BucketProperties,
        state: KeyState,
        context: CausalContext | None,
        mode: str | None,
    ) -> tuple[KeyState, Dot]:
        blind = "overwrite" if properties.last_write_wins else (mode or properties.blind)
        if context is None and blind == "reject":
            raise ContextRequired("this bucket takes no write without a causal context")
        seen = context if context is not None else state.context if blind == "overwrite" else EMPTY_CONTEXT
        self._counter += 1
        dot = (_REPLICA_ID, self._counter)
        written = write(state, seen, self._version(asked, properties), dot)
        self._states[full_key(asked.bucket, asked.key)] = written
        return written, dot

    def _version(self, asked: _Asked, properties: BucketProperties) -> Version:
        ttl_s = float(asked.options["ttl"]) if "ttl" in asked.options else properties.ttl_s
        meta = sorted(
            (name.removeprefix("kv-meta-"), text)
            for name, text in asked.headers.items()
            if name.startswith("kv-meta-")
        )
        return Version(
            asked.value,
            asked.tombstone,
            asked.headers.get("content-type", "application/octet-stream"),
            tuple(meta),
            self._now_ms * _HLC_PER_MS + self._counter % _HLC_PER_MS,
            asked.headers.get("idempotency-key", "").encode(),
            int(self._now_ms + ttl_s * 1000) if ttl_s and not asked.tombstone else 0,
        )

    # --- many keys ----------------------------------------------------------------------------------

    def _batch(self, items: list[dict[str, Any]]) -> Reply:
        entries = [self._entry(self._guarded(partial(self._one, item))) for item in items]
        return Reply(200, {"content-type": "application/msgpack"}, msgpack.packb(entries))

    def _one(self, item: dict[str, Any]) -> Reply:
        names = {
            "context": "kv-context",
            "session": "kv-session",
            "content_type": "content-type",
            "if_match": "if-match",
            "if_none_match": "if-none-match",
            "idempotency_key": "idempotency-key",
        }
        headers = {names[name]: text for name, text in item.items() if name in names}
        headers |= {f"kv-meta-{name}": text for name, text in item.get("meta", {}).items()}
        options = {name: str(value).encode() for name, value in item.get("options", {}).items()}
        asked = _Asked(item["bucket"], item["key"], options, headers, item.get("value", b""))
        if item["op"] == "get":
            return self._get(asked)
        return self._put(asked._replace(tombstone=item["op"] == "delete"))

    def _entry(self, reply: Reply) -> dict[str, Any]:
        entry: dict[str, Any] = {"status": reply.status, "headers": dict(reply.headers)}
        if reply.headers.get("content-type") == "application/problem+json":
            entry["problem"] = json.loads(reply.body)
        elif reply.status == 300:
            entry |= msgpack.unpackb(reply.body)
        elif reply.status == 200:
            entry["value"] = reply.body
        return entry

    def _page(self, bucket: str, options: Mapping[str, bytes]) -> Reply:
        limit, prefix = int(options.get("limit", b"100")), options.get("prefix", b"")
        after, values = options.get("after", b""), "values" in options
        keys = sorted(
            key
            for name, key in map(split_key, self._states)
            if name == bucket and key.startswith(prefix) and key > after
        )
        page: dict[str, Any] = {"items": list(self._items(bucket, keys[:limit], values)), "complete": True}
        if len(keys) > limit:
            kept = {**options, "after": keys[limit - 1]}
            query = "&".join(f"{name}={_escaped(raw)}" for name, raw in kept.items())
            page["next"] = f"/v1/kv/{bucket}?{query}"
        return Reply(200, {"content-type": "application/msgpack"}, msgpack.packb(page))

    def _items(self, bucket: str, keys: list[bytes], values: bool) -> Iterable[dict[str, Any]]:
        for key in keys:
            asked = _Asked(bucket, key, {}, {})
            state = self._state(asked)
            if versions := self._shown(bucket, state):
                item = {"key": key, "etag": etag(state.siblings), "siblings": len(versions)}
                if values:
                    item["context"] = self._sealed(state.context, asked)
                item["values"] = [_described(dot, version, values=values) for dot, version in versions]
                yield item

    # --- everything else ----------------------------------------------------------------------------

    def _described(self, bucket: str) -> Reply:
        properties, explicit = self._properties(bucket), bucket in self._buckets
        return _json({"bucket": bucket, "explicit": explicit, "properties": properties.as_dict()})

    def _explain(self, bucket: str, key: bytes) -> Reply:
        state = self._states.get(full_key(bucket, key), EMPTY_STATE)
        home = {"name": "fake", "answer": "state" if state.context != EMPTY_CONTEXT else "nothing"}
        partition = partition_of(full_key(bucket, key))
        return _json({"bucket": bucket, "partition": partition, "equal": True, "homes": [home]})

    @property
    def _now_ms(self) -> int:
        return int(self.now_s * 1000)

    def _properties(self, bucket: str) -> BucketProperties:
        return self._buckets.get(bucket, self._defaults)

    def _state(self, asked: _Asked) -> KeyState:
        return self._states.get(full_key(asked.bucket, asked.key), EMPTY_STATE)

    def _shown(self, bucket: str, state: KeyState) -> list[tuple[Dot, Version]]:
        return shown(state, self._now_ms, last_write_wins=self._properties(bucket).last_write_wins)

    def _opened(self, token: str, asked: _Asked) -> CausalContext:
        limit = DEFAULT_LIMITS.token_bytes_max
        key = full_key(asked.bucket, asked.key)
        return decode_context(open_joined(token, key, self._signing_key, limit))

    def _sealed(self, context: CausalContext, asked: _Asked) -> str:
        return seal(context, full_key(asked.bucket, asked.key), self._signing_key)


def _described(dot: Dot, version: Version, *, values: bool = True) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "id": etag((dot,)),
        "content_type": version.content_type,
        "modified_ms": version.hlc_time // _HLC_PER_MS,
        "meta": dict(version.metadata),
    }
    return entry | ({"value": version.value} if values else {})


def _receipt(n: int, required: int, acks: int) -> dict[str, str]:
    return {"kv-acks": f"{acks}/{n}", "kv-required": str(required), "kv-outcome": "ok"}


def _problem(kind: str, detail: str, *, advice: str = "") -> Reply:
    status, outcome = PROBLEMS[kind]
    document = {"type": kind, "status": status, "detail": detail, "advice": advice, "outcome": outcome}
    headers = {"content-type": "application/problem+json"}
    if status in (429, 503):
        headers["retry-after"] = "1"
    return Reply(status, headers, json.dumps(document).encode())


def _json(document: Any) -> Reply:
    return Reply(200, {"content-type": "application/json"}, json.dumps(document).encode())


def _count(options: Mapping[str, bytes], name: str) -> int | None:
    return int(options[name]) if name in options else None


def _escaped(raw: bytes) -> str:
    return "".join(f"%{byte:02X}" for byte in raw)


def _check_sizes(asked: _Asked) -> None:
    for what, raw, limit in (
        ("key", asked.key, DEFAULT_LIMITS.key_bytes_max),
        ("value", asked.value, DEFAULT_LIMITS.value_bytes_max),
    ):
        if len(raw) > limit:
            raise TooLarge(f"the {what} has {len(raw)} bytes, the limit is {limit}")
