"""The request target as the client sent it: bucket, key and options, decoded once.

Keys are bytes. The path is therefore taken raw and percent-decoded here, and only if there is
something to decode: a URL library normalizes, guesses an encoding, and costs more than a whole read
of the key.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from urllib.parse import quote_from_bytes, unquote_to_bytes

from kvstore.errors import InvalidRequest

_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


def split_target(target: str) -> tuple[str, str]:
    """(path, query) of origin-form or absolute-form (RFC 9112 §3.2). `*` and host:port have no path."""
    if not target.startswith("/"):
        _, scheme, rest = target.partition("://")
        slash = rest.find("/")
        target = rest[slash:] if scheme and slash >= 0 else "/" if scheme else target
    path, _, query = target.partition("?")
    return path, query


def decoded(raw: str) -> bytes:
    """Percent-decoded. Raises InvalidRequest: two spellings of a broken escape must not be two keys."""
    if "%" not in raw:
        # The parser keeps bytes that are not UTF-8 as surrogates; this gives them back.
        return raw.encode("utf-8", "surrogateescape")
    if _BROKEN_ESCAPE.search(raw):
        raise InvalidRequest(
            f"{raw[:64]!r} has a '%' without two hex digits", advice="write '%' itself as %25"
        )
    return unquote_to_bytes(raw.encode("utf-8", "surrogateescape"))


def decoded_text(raw: str) -> str:
    """The same for names that are text."""
    try:
        return decoded(raw).decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidRequest(f"{raw[:64]!r} is not UTF-8 text") from None


def encoded(raw: bytes) -> str:
    """For a link: the inverse of `decoded`, in a query as well as in a path."""
    return quote_from_bytes(raw, safe="")


def parse_query(query: str) -> dict[str, bytes]:
    """Options by name, values as bytes. Raises InvalidRequest for an option that is named twice."""
    options: dict[str, bytes] = {}
    for part in query.split("&"):
        if not part:
            continue
        name_raw, _, value_raw = part.partition("=")
        name = decoded_text(name_raw)
        if name in options:
            raise InvalidRequest(f"option {name[:64]!r} is named twice")
        options[name] = decoded(value_raw.replace("+", " "))
    return options


def as_text(options: dict[str, bytes]) -> dict[str, str]:
    try:
        return {name: value.decode("utf-8") for name, value in options.items()}
    except UnicodeDecodeError:
        raise InvalidRequest("an option's value is not UTF-8 text") from None


def refuse_unknown(named: object, known: tuple[str, ...], what: str) -> None:
    """Raises InvalidRequest that says what was probably meant. `named`: one name."""
    name = str(named)[:64]
    close = get_close_matches(name, known, 1)
    if close:
        advice = f"did you mean {close[0]!r}?"
    else:
        advice = f"known here: {', '.join(known)}" if known else f"there is no {what} here"
    raise InvalidRequest(f"unknown {what} {name!r}", advice=advice)
