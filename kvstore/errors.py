"""
Everything kvstore raises on purpose, sorted by whose fault it is:

    KVStoreError
    + ConfigError                 the operator's: the node refuses to start
    + RequestError                the caller's: sending the same again cannot help
    | + InvalidRequest              a name, an option or a body that is not of the form
    | | + InvalidContext            a token that is malformed, forged, or of another key
    | + Unauthorized                no credential, or one that is not known
    | + Forbidden                   the credential does not go so far
    | + TooLarge                    over a limit of core/limits.py
    | + NotFound                    a route, a node or a bucket that does not exist
    | + ContextRequired             this bucket takes no blind writes
    + Conflict                    somebody else's write came first: read, resolve, write again
    | + PreconditionFailed          If-Match or If-None-Match did not hold
    | + SiblingsError               one value was asked for, several are there
    + Unavailable                 nobody's: the caller may try again
    | + ConnectError                no node could be reached; nothing was sent
    | + RequestTimeout              no answer in time; a write may have been applied
    | + QuorumNotMet                too few replicas answered; counts and outcome say more
    | | + QuorumUnavailable           too few were reachable: nothing was applied
    | | + StaleRead                   no replica in reach has what this session has already seen
    | + Overloaded                  the node sheds load: wait `retry_after_s`
    | | + RateLimited                 more requests than this client or bucket may have
    | + NotReady                    the node starts, stops, or has no layout yet
    + BatchError                  some items of a batch failed; each has its own error
    + PeerError                   one replica's: a lost vote, never leaves node/
    | + PeerUnreachable             provably nothing was sent
    | + PeerTimeout                 sent, no answer: may have been applied
    | + PeerRefused                 the peer answered with an error
    + StorageError                one disk's
      + CorruptRecord               checksum or format does not hold: "don't know", healed from the others
      + StorageFull                 no space: writes fail, reads go on
      + StorageFailed               an I/O error or a failed sync: the node must stop
"""

from __future__ import annotations

from typing import Any, ClassVar


class KVStoreError(Exception):
    """Catch this to catch all of the above.

    `retryable`: the very same request may succeed later. `outcome` of a write: `failed` (provably
    applied nowhere) or `unknown` (may be applied, now or later); `operation_id` names that write, in
    clients. `problem` is the problem document (RFC 9457) that a node sent, `request_id` names the request
    in the node's log.
    """

    retryable: ClassVar[bool] = False
    outcome_default: ClassVar[str] = "failed"

    def __init__(
        self,
        detail: str = "",
        *,
        outcome: str = "",
        advice: str = "",
        problem: dict[str, Any] | None = None,
        request_id: str = "",
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.outcome = outcome or self.outcome_default
        self.advice = advice
        self.problem = problem or {}
        self.request_id = request_id
        self.operation_id = ""


class ConfigError(KVStoreError):
    """Settings that contradict each other or the data directory. The text names the remedy."""


class RequestError(KVStoreError):
    """The caller must change the request."""


class InvalidRequest(RequestError):
    """A bucket, key, option, header or body that is not of the documented form."""


class InvalidContext(InvalidRequest):
    """A causal context token that this cluster did not issue for this key."""


class Unauthorized(RequestError):
    """The credential is missing or unknown."""


class Forbidden(RequestError):
    """The credential is known, and its role or its buckets do not include this."""


class TooLarge(RequestError):
    """Over a limit; raised before memory is taken."""


class NotFound(RequestError):
    """No such route, node or bucket. A missing *key* is an answer, not an error."""


class ContextRequired(RequestError):
    """The bucket refuses writes without a causal context (`blind = reject`)."""


class Conflict(KVStoreError):
    """The caller lost a race: read again, resolve, write again."""


class PreconditionFailed(Conflict):
    """If-Match or If-None-Match did not hold for what a quorum knows."""


class SiblingsError(Conflict):
    """Several concurrent values are present and no resolver was given.

    `siblings` holds them in the order of the answer, `context` supersedes them all when sent with a put.
    """

    def __init__(
        self,
        detail: str = "",
        *,
        siblings: tuple[Any, ...] = (),
        context: str = "",
        outcome: str = "",
        advice: str = "",
        problem: dict[str, Any] | None = None,
        request_id: str = "",
    ) -> None:
        super().__init__(detail, outcome=outcome, advice=advice, problem=problem, request_id=request_id)
        self.siblings, self.context = siblings, context


class Unavailable(KVStoreError):
    """The cluster could not do it now."""

    retryable = True


class ConnectError(Unavailable):
    """No connection to any node: nothing was sent."""


class RequestTimeout(Unavailable):
    """The deadline passed without an answer."""

    outcome_default = "unknown"


class QuorumNotMet(Unavailable):
    """Fewer replicas answered than were needed.

    A write is not rolled back: the replicas that have it keep it and a later read may return it.
    With outcome `unknown` a retry is safe if it carries the same operation id.
    """

    outcome_default = "unknown"

    def __init__(
        self,
        detail: str = "",
        *,
        required: int = 0,
        received: int = 0,
        asked: int = 0,
        hinted: int = 0,
        replicas: tuple[tuple[str, str], ...] = (),
        outcome: str = "",
        advice: str = "",
        problem: dict[str, Any] | None = None,
        request_id: str = "",
    ) -> None:
        detail = detail or f"{received} of {asked} replicas answered, {required} needed"
        super().__init__(detail, outcome=outcome, advice=advice, problem=problem, request_id=request_id)
        self.required, self.received, self.asked, self.hinted = required, received, asked, hinted
        self.replicas = replicas
        """(node, what happened there), in order of arrival."""


class QuorumUnavailable(QuorumNotMet):
    """Known before anything was sent: too few homes of the key are in reach."""

    outcome_default = "failed"


class StaleRead(QuorumNotMet):
    """No reachable replica covers what the session has seen."""


class Overloaded(Unavailable):
    """Shed before any work was done. `reason` is one word of the metric `kvstore_sheds`."""

    def __init__(
        self,
        detail: str = "",
        *,
        retry_after_s: float = 1.0,
        reason: str = "",
        outcome: str = "",
        advice: str = "",
        problem: dict[str, Any] | None = None,
        request_id: str = "",
    ) -> None:
        super().__init__(detail, outcome=outcome, advice=advice, problem=problem, request_id=request_id)
        self.retry_after_s, self.reason = retry_after_s, reason


class RateLimited(Overloaded):
    """Over the rate of a client or bucket. Other clients and buckets are served."""


class NotReady(Unavailable):
    """This node cannot serve yet, or not any more."""


class BatchError(KVStoreError):
    """Some items failed. `errors` maps the position of each failed item to its error."""

    def __init__(self, detail: str = "", *, errors: dict[int, KVStoreError] | None = None) -> None:
        super().__init__(detail)
        self.errors = errors or {}


class PeerError(KVStoreError):
    """One replica did not do what it was asked. `sent`: bytes may have left this node."""

    sent: ClassVar[bool] = True


class PeerUnreachable(PeerError):
    """No connection, or its queue is full: provably nothing was sent."""

    sent = False


class PeerTimeout(PeerError):
    """No answer within the deadline, or the connection broke after sending."""


class PeerRefused(PeerError):
    """The peer answered with an error. `code` is the name of the error class there."""

    def __init__(self, detail: str = "", *, code: str = "KVStoreError") -> None:
        super().__init__(detail)
        self.code = code


class StorageError(KVStoreError):
    """The disk, or what is on it."""


class CorruptRecord(StorageError):
    """What was read is not what was written. Never an empty answer, never passed on."""


class StorageFull(StorageError):
    """No space left, or the engine pushes back. Nothing of the batch was applied."""


class StorageFailed(StorageError):
    """An I/O error. After a failed sync nobody knows what is on disk: the node stops itself."""


def named(code: str) -> type[KVStoreError]:
    """The class of this name, KVStoreError for a name that this release does not know."""
    found = globals().get(code)
    return found if isinstance(found, type) and issubclass(found, KVStoreError) else KVStoreError
