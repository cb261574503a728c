"""Options and headers of one operation -> core.message: checked here, before anything is asked of a node.

An option that is not known is refused, and so is a KV- header of a write: a misspelt KV-Context would
be a blind write.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from multidict import CIMultiDict, CIMultiDictProxy, istr

from kvstore.core.degradation import Tier
from kvstore.core.limits import Limits
from kvstore.core.message import Get, Put
from kvstore.core.ring import full_key
from kvstore.core.token import open_joined
from kvstore.errors import InvalidRequest, TooLarge
from kvstore.httpapi.media import OCTETS
from kvstore.httpapi.routes import Call
from kvstore.httpapi.service import Service
from kvstore.httpapi.target import refuse_unknown

Headers = CIMultiDict[str] | CIMultiDictProxy[str]

ACCEPT = istr("Accept")
CONTENT_TYPE = istr("Content-Type")
CONTEXT = istr("KV-Context")
IDEMPOTENCY_KEY = istr("Idempotency-Key")
IF_MATCH = istr("If-Match")
IF_NONE_MATCH = istr("If-None-Match")
PRIORITY = istr("KV-Priority")
REQUEST_ID = istr("KV-Request-Id")
SESSION = istr("KV-Session")
TIMEOUT = istr("KV-Timeout-Ms")
META = "kv-meta-"

PRIORITIES = {"critical": Tier.CRITICAL, "normal": None, "background": Tier.BACKGROUND}
MODES = {"blind": "overwrite", "sibling": "sibling"}
TTL_S_MAX = 100 * 365 * 86_400
COUNT_MAX = 99  # more replicas than any cluster of this kind has

_WRITE_HEADERS = tuple(name.lower() for name in (CONTEXT, PRIORITY, REQUEST_ID, TIMEOUT))
_TIMEOUT = re.compile(rb"(\d{1,9})(ms|s)?")
_TTL = re.compile(rb"\d{1,10}(\.\d{1,9})?")
_ENTITY_TAG = re.compile(r'"?([0-9a-f]{16})"?')
_PRINTABLE = re.compile(r"[ -~]*")
_OPERATION_ID = re.compile(r"[!-~]+")
_TOKEN_CHARACTERS = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")  # of a header's name, RFC 9110 §5.6.2


def to_get(call: Call, service: Service) -> Get:
    """Raises InvalidRequest, InvalidContext."""
    options, headers = call.options, call.headers
    session = headers.get(SESSION)
    seen = b"" if session is None else _opened(session, call, service)
    timeout_ms = left_ms(call, service.limits)
    if PRIORITY in headers:
        to_priority(headers)
    if not options:
        return Get(call.bucket, call.key, None, None, None, False, seen, timeout_ms)
    return Get(
        call.bucket,
        call.key,
        n=to_count(options, "n", 1),
        r=to_count(options, "r", 1),
        pr=to_count(options, "pr", 0),
        monotonic=to_choice(options, "read", ("monotonic",)) is not None,
        session=seen,
        timeout_ms=timeout_ms,
        sloppy=to_flag(options, "sloppy") if "sloppy" in options else None,
    )


def to_put(call: Call, service: Service, value: bytes, *, tombstone: bool = False) -> Put:
    """Raises InvalidRequest, InvalidContext, TooLarge."""
    options, headers, limits = call.options, call.headers, service.limits
    metadata = _metadata(headers, limits)
    token = headers.get(CONTEXT)
    context = None if token is None else _opened(token, call, service)
    if_match, if_absent = _conditions(headers, tombstone=tombstone)
    if PRIORITY in headers:
        to_priority(headers)
    mode = ttl_ms = durability = n = w = pw = None
    if options:
        mode = to_choice(options, "mode", tuple(MODES))
        if mode is not None and context is not None:
            raise InvalidRequest(
                f"mode={mode} says what a write without a context does, and KV-Context is there",
                advice="send one of the two",
            )
        ttl_ms = _ttl_ms(options)
        durability, w = _durable(call, service)
        n, pw = to_count(options, "n", 1), to_count(options, "pw", 0)
    return Put(
        call.bucket,
        call.key,
        value,
        tombstone,
        OCTETS if tombstone else _content_type(headers, limits),
        () if tombstone else metadata,
        _operation_id(headers, limits),
        context,
        None if mode is None else MODES[mode],
        if_match,
        if_absent,
        ttl_ms,
        durability,
        n,
        w,
        pw,
        left_ms(call, limits),
        sloppy=to_flag(options, "sloppy") if "sloppy" in options else None,
    )


# --- options ----------------------------------------------------------------------------------------


def to_count(options: Mapping[str, bytes], name: str, low: int, high: int = COUNT_MAX) -> int | None:
    raw = options.get(name)
    if raw is None:
        return None
    if not raw.isdigit() or len(raw) > 9 or not low <= int(raw) <= high:
        raise InvalidRequest(f"{name}={_shown(raw)} must be a whole number from {low} to {high}")
    return int(raw)


def to_choice(options: Mapping[str, bytes], name: str, choices: tuple[str, ...]) -> str | None:
    raw = options.get(name)
    if raw is None:
        return None
    text = raw.decode("utf-8", "replace")
    if text not in choices:
        raise InvalidRequest(f"{name}={_shown(raw)} must be {' or '.join(choices)}")
    return text


def to_flag(options: Mapping[str, bytes], name: str) -> bool:
    """`?values`, `?values=true` and `?values=1` are yes."""
    raw = options.get(name, b"false")
    if raw not in (b"", b"true", b"1", b"false", b"0"):
        raise InvalidRequest(f"{name}={_shown(raw)} must be true or false")
    return raw in (b"", b"true", b"1")


def to_timeout_ms(options: Mapping[str, bytes], headers: Headers, limits: Limits) -> int:
    """`timeout=250`, `250ms` or `2s`; the option goes before the header."""
    raw = options.get("timeout") if options else None
    name = "timeout"
    if raw is None:
        text = headers.get(TIMEOUT)
        if text is None:
            return int(limits.request_timeout_s * 1000)
        raw, name = text.encode("utf-8", "replace"), "KV-Timeout-Ms"
    match = _TIMEOUT.fullmatch(raw)
    timeout_ms = int(match[1]) * (1000 if match[2] == b"s" else 1) if match else 0
    if not 1 <= timeout_ms <= limits.request_timeout_max_s * 1000:
        raise InvalidRequest(
            f"{name}={_shown(raw)} must lie between 1 ms and {limits.request_timeout_max_s:g} s",
            advice="write 500 or 500ms for milliseconds, 2s for seconds",
        )
    return timeout_ms


def _ttl_ms(options: Mapping[str, bytes]) -> int | None:
    raw = options.get("ttl")
    if raw is None:
        return None
    ttl_s = float(raw) if _TTL.fullmatch(raw) else -1.0
    if ttl_s and not 0.001 <= ttl_s <= TTL_S_MAX:
        raise InvalidRequest(f"ttl={_shown(raw)} must be seconds: 0 for never, or 0.001 to {TTL_S_MAX}")
    return int(ttl_s * 1000)


def _durable(call: Call, service: Service) -> tuple[str | None, int | None]:
    """(durability, w) of `dw`, the number of durable copies that are waited for.

    Every vote of a synced write is a durable copy, so dw asks for sync and for at least so many votes.
    """
    w = to_count(call.options, "w", 1)
    dw = to_count(call.options, "dw", 0)
    if dw is None:
        return None, w
    if dw == 0:
        return "async", w
    return "sync", max(dw, w or service.bucket(call.bucket)[0].default_quorum.w)


# --- headers ----------------------------------------------------------------------------------------


def to_priority(headers: Headers) -> Tier | None:
    """The tier of one that is not normal, whatever it asks for. Raises InvalidRequest."""
    given = headers.get(PRIORITY)
    if given is None:
        return None
    if given not in PRIORITIES:
        raise InvalidRequest(f"KV-Priority {given[:64]!r} must be one of {', '.join(PRIORITIES)}")
    return PRIORITIES[given]


def to_tier(of_route: Tier, call: Call) -> Tier:
    """Raises InvalidRequest."""
    tier = to_priority(call.headers)
    if tier is not None:
        return tier
    options = call.options
    if of_route is Tier.QUORUM_READ and options and ("consistency" in options or options.get("r") == b"1"):
        return Tier.RELAXED_READ
    return of_route


def left_ms(call: Call, limits: Limits) -> int:
    """Of the request's time, when its work begins; at least 1."""
    timeout_ms = to_timeout_ms(call.options, call.headers, limits)
    return timeout_ms if not call.waited_s else max(1, timeout_ms - int(call.waited_s * 1000))


def check_metadata(name: str, value: str) -> None:
    """`name` without its prefix, in lower case. Also keeps line ends out of later answers."""
    if not _TOKEN_CHARACTERS.fullmatch(name):
        raise InvalidRequest(f"KV-Meta-{name[:64]!r} is no name of a header")
    if not _PRINTABLE.fullmatch(value):
        raise InvalidRequest(
            f"KV-Meta-{name[:64]} holds characters that a header cannot carry everywhere",
            advice="printable ASCII only: percent-encode the rest",
        )


def _opened(token: str, call: Call, service: Service) -> bytes:
    key = full_key(call.bucket, call.key)
    return open_joined(token, key, service.signing_key, service.limits.token_bytes_max)


def _metadata(headers: Headers, limits: Limits) -> tuple[tuple[str, str], ...]:
    found: dict[str, str] = {}
    size_bytes = 0
    for name, value in headers.items():
        if name[:1] not in "Kk" or name[:3].lower() != "kv-":
            continue
        lowered = name.lower()
        if not lowered.startswith(META):
            if lowered not in _WRITE_HEADERS:
                refuse_unknown(lowered, (*_WRITE_HEADERS, META + "*"), "header of a write")
            continue
        short = lowered[len(META) :]
        check_metadata(short, value)
        if short in found:
            raise InvalidRequest(f"KV-Meta-{short} is there twice")
        found[short] = value
        size_bytes += len(short) + len(value)
    if size_bytes > limits.metadata_bytes_max:
        raise TooLarge(f"metadata has {size_bytes} bytes, the limit is {limits.metadata_bytes_max}")
    return tuple(sorted(found.items()))


def _content_type(headers: Headers, limits: Limits) -> str:
    content_type = headers.get(CONTENT_TYPE)
    if content_type is None:
        return OCTETS
    if len(content_type) > limits.content_type_bytes_max:
        raise TooLarge(
            f"Content-Type has {len(content_type)} bytes, the limit is {limits.content_type_bytes_max}"
        )
    if not _PRINTABLE.fullmatch(content_type):
        raise InvalidRequest("Content-Type holds characters that a header cannot carry")
    return content_type.strip() or OCTETS


def _operation_id(headers: Headers, limits: Limits) -> bytes:
    text = headers.get(IDEMPOTENCY_KEY)
    return b"" if text is None else checked_operation_id(text, limits, "Idempotency-Key")


def checked_operation_id(text: str, limits: Limits, what: str) -> bytes:
    """Raises InvalidRequest, TooLarge."""
    if len(text) > limits.operation_id_bytes_max:
        raise TooLarge(f"{what} has {len(text)} bytes, the limit is {limits.operation_id_bytes_max}")
    if not _OPERATION_ID.fullmatch(text):
        raise InvalidRequest(f"{what} must be printable ASCII without spaces", advice="a random UUID does")
    return text.encode("ascii")


def _conditions(headers: Headers, *, tombstone: bool) -> tuple[str | None, bool]:
    """(if_match, if_absent)."""
    if_match, none_match = headers.get(IF_MATCH), headers.get(IF_NONE_MATCH)
    if none_match is not None:
        if tombstone:
            raise InvalidRequest("If-None-Match makes no sense with a delete", advice="use If-Match")
        if none_match.strip() != "*":
            raise InvalidRequest(
                f"If-None-Match {none_match[:64]!r} on a write must be *",
                advice="* writes only if there is no value; to replace a known one use If-Match",
            )
        if if_match is not None:
            raise InvalidRequest("If-Match and If-None-Match contradict each other", advice="send one")
    if if_match is None:
        return None, none_match is not None
    if if_match.strip() == "*":
        return "*", False
    match = _ENTITY_TAG.fullmatch(if_match.strip())
    if match is None:
        raise InvalidRequest(
            f"If-Match {if_match[:64]!r} is not one strong entity tag",
            advice="send the ETag of an earlier answer as it was received, or *",
        )
    return match[1], False


def matches(none_match: str, tag: str) -> bool:
    """Whether If-None-Match of a read names this tag, weakly compared (RFC 9110 §13.1.2)."""
    return none_match.strip() == "*" or any(
        candidate.strip().removeprefix("W/").strip('"') == tag for candidate in none_match.split(",")
    )


def _shown(raw: bytes) -> str:
    return repr(raw[:64].decode("utf-8", "replace"))
