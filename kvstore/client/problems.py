"""Problem documents (RFC 9457) and odd answers -> the errors of `kvstore.errors`, and what they mean for
a retry.

Whatever a node, a proxy or a stranger on its port answers becomes one error with a text that helps. A
5xx without a document of ours is not from a node, or from a broken one: then a write is `unknown`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from kvstore import errors
from kvstore.client.retry import Effect, Failed, Fate
from kvstore.errors import KVStoreError, Overloaded, QuorumNotMet, Unavailable

PROBLEM_TYPE = "application/problem+json"
_DOCUMENT_BYTES_MAX = 64 * 1024
_RETRY_AFTER_S_MAX = 60.0
_QUOTED_MAX = 200

_BY_SLUG: dict[str, type[KVStoreError]] = {
    "invalid-request": errors.InvalidRequest,
    "invalid-context": errors.InvalidContext,
    "broken-body": errors.InvalidRequest,
    "unauthorized": errors.Unauthorized,
    "forbidden": errors.Forbidden,
    "too-large": errors.TooLarge,
    "no-such-route": errors.NotFound,
    "no-such-sibling": errors.NotFound,
    "not-found": errors.NotFound,
    "method-not-allowed": errors.NotFound,
    "too-slow": errors.RequestTimeout,
    "context-required": errors.ContextRequired,
    "conflict": errors.Conflict,
    "siblings": errors.SiblingsError,
    "precondition-failed": errors.PreconditionFailed,
    "quorum-unavailable": errors.QuorumUnavailable,
    "quorum-not-met": errors.QuorumNotMet,
    "write-timeout": errors.QuorumNotMet,
    "stale": errors.StaleRead,
    "timeout": errors.RequestTimeout,
    "overloaded": errors.Overloaded,
    "rate-limited": errors.RateLimited,
    "not-ready": errors.NotReady,
    "unavailable": errors.Unavailable,
    "storage-full": errors.StorageFull,
    "storage-failed": errors.Unavailable,  # that node stops; another one has a disk
    "corrupt-record": errors.KVStoreError,
    "internal": errors.KVStoreError,
}

_BY_STATUS: dict[int, type[KVStoreError]] = {
    400: errors.InvalidRequest,
    401: errors.Unauthorized,
    403: errors.Forbidden,
    404: errors.NotFound,
    405: errors.NotFound,
    408: errors.RequestTimeout,
    409: errors.Conflict,
    412: errors.PreconditionFailed,
    413: errors.TooLarge,
    414: errors.TooLarge,
    428: errors.ContextRequired,
    429: errors.RateLimited,
    431: errors.TooLarge,
    502: errors.Unavailable,
    503: errors.Unavailable,
    504: errors.RequestTimeout,
    507: errors.StorageFull,
}

_RETRYABLE = frozenset({408, 429, 500, 502, 503, 504, 507})


def failed(effect: Effect, status: int, headers: Mapping[str, str], body: bytes, node: str) -> Failed:
    """What an answer that is no success says. `headers` finds names in any case, or has lower case."""
    problem = _document(headers, body)
    slug = str(problem.get("type", "")).rstrip("/").rpartition("/")[2]
    kind = _BY_SLUG.get(slug) or _BY_STATUS.get(status, KVStoreError)
    ours = slug in _BY_SLUG
    retryable = status in _RETRYABLE or not (ours or 400 <= status < 500)
    if effect is Effect.READ:
        outcome = "failed"
    elif problem.get("outcome") in ("failed", "unknown"):
        outcome = problem["outcome"]
    else:
        outcome = _outcome_unsaid(kind, status, ours=ours)
    retry_after_s = _retry_after_s(headers)
    error = _error(
        kind, problem, outcome, _detail(problem, status, headers, body, node, ours=ours), retry_after_s
    )
    error.request_id = _text(problem.get("request_id")) or headers.get("kv-request-id", "")
    if not retryable:
        return Failed(error, Fate.FINAL)
    return Failed(error, Fate.UNKNOWN if outcome == "unknown" else Fate.REFUSED, retry_after_s)


def _outcome_unsaid(kind: type[KVStoreError], status: int, *, ours: bool) -> str:
    """Of a write whose answer does not say. Only a node's own refusal proves that nothing was applied."""
    if 400 <= status < 500:
        return "failed"
    refusals = (errors.QuorumUnavailable, errors.Overloaded, errors.NotReady, errors.StorageFull)
    return "failed" if ours and issubclass(kind, refusals) else "unknown"


def _error(
    kind: type[KVStoreError], problem: dict[str, Any], outcome: str, detail: str, retry_after_s: float
) -> KVStoreError:
    advice = _text(problem.get("advice"))
    if issubclass(kind, QuorumNotMet):
        return kind(
            detail,
            outcome=outcome,
            advice=advice,
            problem=problem,
            required=_count(problem.get("required")),
            received=_count(problem.get("received")),
            asked=_count(problem.get("asked")),
            hinted=_count(problem.get("hinted")),
            replicas=_replicas(problem.get("replicas")),
        )
    if issubclass(kind, Overloaded):
        wait_s = retry_after_s or 1.0
        return kind(detail, outcome=outcome, advice=advice, problem=problem, retry_after_s=wait_s)
    return kind(detail, outcome=outcome, advice=advice, problem=problem)


def _document(headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    if not headers.get("content-type", "").startswith(PROBLEM_TYPE) or len(body) > _DOCUMENT_BYTES_MAX:
        return {}
    try:
        problem = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return problem if isinstance(problem, dict) else {}


def _detail(
    problem: dict[str, Any], status: int, headers: Mapping[str, str], body: bytes, node: str, *, ours: bool
) -> str:
    detail = _text(problem.get("detail")) or _text(problem.get("title"))
    if ours:
        return detail or f"{node} answered {status}"
    quoted = body[:_QUOTED_MAX].decode("utf-8", "replace").strip()
    said = detail or quoted or "nothing"
    media = headers.get("content-type", "no content type")
    return f"{node} answered {status} ({media}), not as a node does: {said}"


def _retry_after_s(headers: Mapping[str, str]) -> float:
    """Seconds only: the other form, a date, would need a clock that agrees with the node's."""
    try:
        after_s = float(headers.get("retry-after", "0"))
    except ValueError:
        return 0.0
    return min(after_s, _RETRY_AFTER_S_MAX) if after_s > 0 else 0.0


def _replicas(value: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, list):
        return ()
    entries = [entry for entry in value[:1000] if isinstance(entry, dict)]
    return tuple((_text(entry.get("node")), _text(entry.get("answer"))) for entry in entries)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _count(value: Any) -> int:
    return value if type(value) is int and value >= 0 else 0


def stranger(effect: Effect, status: int, headers: Mapping[str, str], node: str) -> Failed:
    """A success that no node of ours would send: another server, a proxy, a login page."""
    outcome = "failed" if effect is Effect.READ else "unknown"
    media = headers.get("content-type", "no content type")
    error = Unavailable(
        f"{node} answered {status} without the headers of a node ({media})",
        outcome=outcome,
        advice="is this the HTTP address of a kvstore node, without a proxy that answers in its place?",
    )
    return Failed(error, Fate.REFUSED if outcome == "failed" else Fate.UNKNOWN)
