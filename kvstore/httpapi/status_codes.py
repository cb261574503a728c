"""Error class -> HTTP status and problem type, in one table; and the problem document (RFC 9457).

The table is read along the class's ancestors, so an error that is added to the tree has an answer
before anyone thinks of one. What is not in the tree is a bug of ours: 500, and the log has the rest.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from kvstore import errors
from kvstore.errors import KVStoreError, NotFound, Overloaded, QuorumNotMet, RequestError, RequestTimeout

PROBLEM_TYPE = "application/problem+json"


class MethodNotAllowed(NotFound):
    """The path exists, for other methods (`allowed`)."""

    def __init__(self, detail: str, *, allowed: str) -> None:
        super().__init__(detail, advice=f"allowed here: {allowed}")
        self.allowed = allowed


class NoSuchSibling(NotFound):
    """`sibling=ID` names none of those that are there now."""


class RequestTooSlow(RequestTimeout):
    """Header or body did not come in time. Nothing was done."""

    outcome_default = "failed"


class BodyBroken(RequestError):
    """The body ended early, or its chunks do not parse. Nothing was done."""


class Status(NamedTuple):
    code: int
    type: str
    title: str


TABLE: dict[type[BaseException], Status] = {
    errors.InvalidRequest: Status(400, "invalid-request", "The request is not of the documented form"),
    errors.InvalidContext: Status(400, "invalid-context", "The causal context is not valid for this key"),
    BodyBroken: Status(400, "broken-body", "The body did not arrive whole"),
    errors.Unauthorized: Status(401, "unauthorized", "A valid credential is needed"),
    errors.Forbidden: Status(403, "forbidden", "The credential does not go so far"),
    errors.NotFound: Status(404, "no-such-route", "Nothing is here"),
    NoSuchSibling: Status(404, "no-such-sibling", "The sibling is not there, or not any more"),
    MethodNotAllowed: Status(405, "method-not-allowed", "The path does not know this method"),
    RequestTooSlow: Status(408, "too-slow", "The request did not arrive in time"),
    errors.Conflict: Status(409, "conflict", "Somebody else's write came first"),
    errors.SiblingsError: Status(409, "siblings", "Several concurrent values are present"),
    errors.PreconditionFailed: Status(412, "precondition-failed", "The condition did not hold"),
    errors.TooLarge: Status(413, "too-large", "Over a limit of this node"),
    errors.ContextRequired: Status(428, "context-required", "This bucket takes no blind writes"),
    errors.RequestError: Status(400, "invalid-request", "The request cannot be served as it is"),
    errors.RequestTimeout: Status(504, "timeout", "No answer in time"),
    errors.QuorumUnavailable: Status(503, "quorum-unavailable", "Too few replicas are in reach"),
    errors.StaleRead: Status(503, "stale", "No replica in reach has what this session has seen"),
    errors.QuorumNotMet: Status(503, "quorum-not-met", "Too few replicas answered"),
    errors.Overloaded: Status(503, "overloaded", "The node sheds load"),
    errors.RateLimited: Status(429, "rate-limited", "More requests per second than allowed"),
    errors.NotReady: Status(503, "not-ready", "The node does not serve now"),
    errors.Unavailable: Status(503, "unavailable", "The cluster could not do it now"),
    errors.StorageFull: Status(507, "storage-full", "The node has no space for writes"),
    errors.CorruptRecord: Status(500, "corrupt-record", "A record is unreadable"),
    errors.StorageFailed: Status(503, "storage-failed", "The node's disk failed; the node stops"),
    errors.KVStoreError: Status(500, "internal", "The node failed at this request"),
    Exception: Status(500, "internal", "The node failed at this request"),
}

_WRITE_TIMEOUT = Status(504, "write-timeout", "Too few replicas answered; the write may be applied")
_RETRY_AFTER_S = 1.0
_RETRY_AFTER_MAX_S = 3600.0

STATUSES = (*TABLE.values(), _WRITE_TIMEOUT)
"""Every answer that is a problem, for the description of the routes."""


def status_of(error: BaseException, *, write: bool) -> Status:
    """The row of the nearest ancestor. A write whose quorum was lost half way is its own case."""
    if write and isinstance(error, QuorumNotMet) and error.outcome == "unknown":
        return _WRITE_TIMEOUT
    for ancestor in type(error).__mro__:
        if ancestor in TABLE:
            return TABLE[ancestor]
    raise AssertionError("every exception descends from Exception")


def outcome_of(error: BaseException) -> str:
    """Of a write: `failed` only where an error says that nothing was applied."""
    return error.outcome if isinstance(error, KVStoreError) else "unknown"


def problem_of(error: BaseException, *, write: bool, request_id: str, instance: str) -> dict[str, Any]:
    """The document. A bug's own text stays in the log: it may quote data."""
    status = status_of(error, write=write)
    problem: dict[str, Any] = {"type": status.type, "title": status.title, "status": status.code}
    if isinstance(error, KVStoreError):
        problem["detail"] = error.detail
        if error.advice:
            problem["advice"] = error.advice
    else:
        problem["detail"] = f"see the node's log for request {request_id}"
    if write:
        problem["outcome"] = outcome_of(error)
    if isinstance(error, Overloaded) and error.reason:
        problem["reason"] = error.reason
    if isinstance(error, QuorumNotMet):
        problem["required"], problem["received"] = error.required, error.received
        problem["asked"], problem["hinted"] = error.asked, error.hinted
        problem["replicas"] = [{"node": node, "answer": answer} for node, answer in error.replicas]
    problem["request_id"] = request_id
    problem["instance"] = instance
    return problem


def headers_of(error: BaseException, status: Status) -> str:
    """Header lines that belong to the status."""
    if isinstance(error, MethodNotAllowed):
        return f"Allow: {error.allowed}\r\n"
    if status.code == 401:
        return 'WWW-Authenticate: Bearer realm="kvstore"\r\n'
    if status.code in (429, 503):
        after_s = error.retry_after_s if isinstance(error, Overloaded) else _RETRY_AFTER_S
        return f"Retry-After: {max(1, math.ceil(min(after_s, _RETRY_AFTER_MAX_S)))}\r\n"
    return ""
