"""What a caller may ask of one operation: counts, levels, conditions, times. Checked, then put into a URL.

A level stands where a count may: `r=QUORUM`, `w=ALL`. ONE and ANY are counts in themselves; QUORUM and
ALL depend on how many homes the bucket has, which the client learns from the cluster once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, NamedTuple, TypedDict

from kvstore.errors import InvalidContext, InvalidRequest

TIMEOUT_S_MAX = 60.0
_CONTEXT = re.compile(r"[A-Za-z0-9_=,-]{1,65536}")  # a session sends several, with commas
_ENTITY_TAG = re.compile(r'"?([!#-~]{1,64})"?')
_META_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_PRINTABLE = re.compile(r"[ -~]*")
_OPERATION_ID = re.compile(r"[!-~]{1,64}")
_MODES = ("blind", "sibling")
PRIORITIES = ("critical", "normal", "background")


class Level(Enum):
    """How many replicas must answer, said by name."""

    ANY = "any"  # one durable copy, a stand-in's too; writes only
    ONE = "one"
    QUORUM = "quorum"  # the majority of the homes
    ALL = "all"  # every home

    @property
    def needs_homes(self) -> bool:
        return self in (Level.QUORUM, Level.ALL)

    def count(self, homes: int) -> int:
        if self is Level.ALL:
            return homes
        return homes // 2 + 1 if self is Level.QUORUM else 1


ANY, ONE, QUORUM, ALL = Level.ANY, Level.ONE, Level.QUORUM, Level.ALL

Count = int | Level | None


class ReadOptions(NamedTuple):
    """None: as the bucket says. `r` of `n` homes must answer, `pr` of them no stand-ins.

    `monotonic`: what is shown is first made durable on r replicas, so no later read shows less.
    `sloppy`: whether stand-ins may answer for homes that do not. `fallback`: "stale" shows what there is
    where r homes do not answer; the receipt's `served` says so.
    """

    r: Count = None
    n: int | None = None
    pr: int | None = None
    monotonic: bool = False
    sloppy: bool | None = None
    fallback: str | None = None


class WriteOptions(NamedTuple):
    """None: as the bucket says. `w` of `n` homes must have it, `pw` of them no stand-ins.

    `dw`: durable copies to wait for, 0: do not wait for the disk. `ttl_s`: age at which the value
    expires, 0 for never. `mode`: what a put without a context does: "blind" overwrites what the
    coordinator holds, "sibling" sits beside it. `sloppy`: whether a stand-in's copy counts where a home
    does not answer.
    """

    w: Count = None
    n: int | None = None
    pw: int | None = None
    dw: int | None = None
    ttl_s: float | None = None
    mode: str | None = None
    sloppy: bool | None = None


READ_DEFAULTS = ReadOptions()
WRITE_DEFAULTS = WriteOptions()


class Defaults(TypedDict, total=False):
    """What a bucket is opened with; as ReadOptions and WriteOptions describe it."""

    r: Count
    w: Count
    n: int | None
    pr: int | None
    pw: int | None
    dw: int | None
    monotonic: bool
    ttl_s: float | None
    mode: str | None
    sloppy: bool | None
    fallback: str | None


def read_and_write(defaults: Defaults) -> tuple[ReadOptions, WriteOptions]:
    """Raises TypeError for a name that is no option."""
    for name in defaults:
        if name not in Defaults.__annotations__:
            raise TypeError(f"bucket() got an unexpected keyword argument {name!r}")
    get: Callable[[str], Any] = defaults.get
    return (
        ReadOptions(get("r"), get("n"), get("pr"), bool(get("monotonic")), get("sloppy"), get("fallback")),
        WriteOptions(get("w"), get("n"), get("pw"), get("dw"), get("ttl_s"), get("mode"), get("sloppy")),
    )


def homes_needed(options: ReadOptions | WriteOptions) -> bool:
    """Whether a level is asked for that only the number of homes makes a count."""
    wanted = options[0]
    return isinstance(wanted, Level) and wanted.needs_homes and options.n is None


def read_query(options: ReadOptions, homes: int = 0) -> str:
    """The part of a URL from "?" on; empty for no options. Raises InvalidRequest.

    `homes`: of the bucket, needed as `homes_needed` says.
    """
    if options is READ_DEFAULTS:
        return ""
    if options.r is Level.ANY:
        raise InvalidRequest("r=ANY makes no sense: a stand-in knows nothing of the key", advice="use ONE")
    parts = _counts({"r": options.r, "n": options.n}, options.n or homes)
    parts += _counts({"pr": options.pr}, 0, low=0)
    if options.monotonic:
        parts.append("read=monotonic")
    parts += _flag("sloppy", options.sloppy)
    if options.fallback is not None:
        if options.fallback != "stale":
            raise InvalidRequest(f'fallback={options.fallback!r} must be "stale"')
        parts.append("consistency=best_effort")
    return _query(parts)


def write_query(options: WriteOptions, homes: int = 0, *, delete: bool = False) -> str:
    """As `read_query`."""
    if options is WRITE_DEFAULTS:
        return ""
    parts = _counts({"w": options.w, "n": options.n}, options.n or homes)
    parts += _counts({"pw": options.pw, "dw": options.dw}, 0, low=0)
    if options.ttl_s is not None:
        if delete:
            raise InvalidRequest("a delete takes no ttl_s: what is deleted does not expire")
        parts.append(f"ttl={_seconds(options.ttl_s)}")
    if options.mode is not None:
        if options.mode not in _MODES:
            raise InvalidRequest(f"mode={options.mode!r} must be one of {', '.join(_MODES)}")
        parts.append(f"mode={options.mode}")
    parts += _flag("sloppy", options.sloppy)
    return _query(parts)


def query_dict(query: str) -> dict[str, str]:
    """The options of a query made here, by name: the form that a batch wants."""
    return dict(part.split("=", 1) for part in query[1:].split("&")) if query else {}


def _counts(counts: Mapping[str, Count], homes: int, *, low: int = 1) -> list[str]:
    parts = []
    for name, count in counts.items():
        if count is None:
            continue
        if isinstance(count, Level):
            if count.needs_homes and not homes:
                raise InvalidRequest(
                    f"{name}={count.name} depends on how many homes the bucket has, which is not known here",
                    advice="pass n= too, or open the bucket with this level",
                )
            count = count.count(homes)
        if type(count) is not int or count < low:
            raise InvalidRequest(f"{name}={count!r} must be a whole number of at least {low}")
        parts.append(f"{name}={count}")
    return parts


def _flag(name: str, value: bool | None) -> list[str]:
    if value is None:
        return []
    if type(value) is not bool:
        raise InvalidRequest(f"{name}={value!r} must be True or False")
    return [f"{name}={str(value).lower()}"]


def _seconds(ttl_s: object) -> str:
    if isinstance(ttl_s, bool) or not isinstance(ttl_s, int | float) or not math.isfinite(ttl_s) or ttl_s < 0:
        raise InvalidRequest(f"ttl_s={ttl_s!r} must be seconds, 0 for never")
    return f"{ttl_s:.3f}".rstrip("0").rstrip(".")


def _query(parts: list[str]) -> str:
    return "?" + "&".join(parts) if parts else ""


# --- headers --------------------------------------------------------------------------------------------


def checked_timeout_s(timeout_s: object) -> float:
    if (
        isinstance(timeout_s, bool)
        or not isinstance(timeout_s, int | float)
        or not 0 < timeout_s <= TIMEOUT_S_MAX
    ):
        raise InvalidRequest(f"timeout_s={timeout_s!r} must lie between 0 and {TIMEOUT_S_MAX:g} seconds")
    return float(timeout_s)


def priority_header(priority: object) -> dict[str, str]:
    """Nothing for what every node assumes."""
    if priority not in PRIORITIES:
        raise InvalidRequest(f"priority={priority!r} must be one of {', '.join(PRIORITIES)}")
    return {} if priority == "normal" else {"KV-Priority": str(priority)}


def checked_context(context: object) -> str:
    """Also keeps line ends out of the header."""
    if not isinstance(context, str) or not _CONTEXT.fullmatch(context):
        raise InvalidContext(
            f"{str(context)[:64]!r} is no causal context",
            advice="pass the context of a record or receipt of this key",
        )
    return context


def checked_etag(etag: object) -> str:
    """As If-Match takes it: quoted, or *."""
    match = _ENTITY_TAG.fullmatch(etag) if isinstance(etag, str) else None
    if match is None:
        raise InvalidRequest(
            f"if_match={str(etag)[:64]!r} is no etag",
            advice='pass the etag of a record, or "*" for any value; if the key has none, use if_absent=True',
        )
    return "*" if match[1] == "*" else f'"{match[1]}"'


def checked_operation_id(operation_id: object) -> str:
    if not isinstance(operation_id, str) or not _OPERATION_ID.fullmatch(operation_id):
        raise InvalidRequest("operation_id must be 1 to 64 printable ASCII characters without spaces")
    return operation_id


def checked_meta(meta: Mapping[Any, Any]) -> dict[str, str]:
    for name, value in meta.items():
        if not isinstance(name, str) or not _META_NAME.fullmatch(name):
            raise InvalidRequest(f"meta name {str(name)[:64]!r} is no name of a header")
        if not isinstance(value, str) or not _PRINTABLE.fullmatch(value):
            raise InvalidRequest(
                f"meta {name}={str(value)[:64]!r} is not printable ASCII", advice="percent-encode what is not"
            )
    return {name.lower(): value for name, value in meta.items()}
