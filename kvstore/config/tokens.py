"""The file of client tokens: read, added to, taken from.

[[token]]
name = "shop"
role = "write"                      # read, write or admin; each includes those before it
sha256 = "9f86d081…"                # of the token; the token itself is nowhere but with its client
buckets = ["carts", "shop-*"]       # left out: all
expires = 2027-01-01T00:00:00Z      # left out: never
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kvstore.core.bucket import check_bucket_name
from kvstore.core.credential import Principal, Role
from kvstore.errors import ConfigError, InvalidRequest

FILE_BYTES_MAX = 4 << 20
ROLES = {role.name.lower(): role for role in Role}
_FIELDS = ("name", "role", "sha256", "buckets", "expires")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_HASH = re.compile(r"[0-9a-f]{64}")
_TABLE = re.compile(r"(?m)^(?=\[\[token\]\])")
_ADVICE = "`kvstore token new NAME --role write --into FILE` writes them as they have to be"


def read_tokens(path: Path) -> dict[bytes, Principal]:
    """Hash -> who it stands for. Raises ConfigError with the entry that is wrong, and the remedy."""
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise ConfigError(f"{path} is larger than {FILE_BYTES_MAX} bytes", advice=_ADVICE)
        text = path.read_text("utf-8")
    except OSError as error:
        raise ConfigError(
            f"cannot read the tokens in {path}: {error.strerror}", advice="name a file this user can read"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not text", advice=_ADVICE) from None
    return parse_tokens(text, str(path))


def parse_tokens(text: str, source: str) -> dict[bytes, Principal]:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source} is not TOML: {error}", advice=_ADVICE) from None
    entries = document.pop("token", [])
    if document or not isinstance(entries, list):
        raise ConfigError(f"{source} holds something else than [[token]] tables", advice=_ADVICE)
    found: dict[bytes, Principal] = {}
    names: set[str] = set()
    for number, entry in enumerate(entries, 1):
        try:
            digest, principal = _entry(entry)
            if principal.name in names or digest in found:
                raise ValueError("its name or its hash is there twice")
        except ValueError as error:
            name = entry.get("name") if isinstance(entry, dict) else None
            raise ConfigError(f"{source}, token {number} ({name!r:.64}): {error}", advice=_ADVICE) from None
        names.add(principal.name)
        found[digest] = principal
    return found


def _entry(entry: Any) -> tuple[bytes, Principal]:
    """Raises ValueError."""
    if not isinstance(entry, dict):
        raise ValueError("it is no table")
    unknown = [name for name in entry if name not in _FIELDS]
    if unknown:
        raise ValueError(f"{unknown[0]!r:.64} is none of {', '.join(_FIELDS)}")
    digest, expires = entry.get("sha256"), entry.get("expires")
    if not isinstance(digest, str) or not _HASH.fullmatch(digest):
        raise ValueError("sha256 must be 64 hex digits in lower case")
    if expires is not None and not isinstance(expires, datetime):
        raise ValueError("expires must be a date with a time, such as 2027-01-01T00:00:00Z")
    principal = principal_of(entry.get("name"), entry.get("role"), entry.get("buckets", []), expires)
    return bytes.fromhex(digest), principal


def principal_of(name: Any, role: Any, buckets: Any, expires: datetime | None = None) -> Principal:
    """Raises ValueError with what is wrong. A time without a zone is UTC."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError("name must be 1 to 64 letters, digits, '.', '_', '@' or '-'")
    if not isinstance(role, str) or role not in ROLES:
        raise ValueError(f"role must be one of {', '.join(ROLES)}")
    if not isinstance(buckets, list | tuple):
        raise ValueError("buckets must be a list of names, or of beginnings of names followed by *")
    for bucket in buckets:
        try:
            check_bucket_name(bucket.removesuffix("*") if isinstance(bucket, str) else "")
        except InvalidRequest as error:
            raise ValueError(f"{bucket!r:.64} is no name of a bucket: {error.advice}") from None
    expires_at_ms = 0
    if expires is not None:
        aware = expires if expires.tzinfo is not None else expires.replace(tzinfo=UTC)
        expires_at_ms = max(1, int(aware.timestamp() * 1000))
    return Principal(name, ROLES[role], tuple(buckets), expires_at_ms)


def entry_text(digest: bytes, principal: Principal) -> str:
    """One [[token]] table. Names need no quoting: their form leaves nothing to quote."""
    lines = [
        "[[token]]",
        f'name = "{principal.name}"',
        f'role = "{principal.role.name.lower()}"',
        f'sha256 = "{digest.hex()}"',
    ]
    if principal.buckets:
        names = ", ".join([f'"{bucket}"' for bucket in principal.buckets])
        lines.append(f"buckets = [{names}]")
    if principal.expires_at_ms:
        expires = datetime.fromtimestamp(principal.expires_at_ms / 1000, UTC)
        lines.append(f"expires = {expires.isoformat().replace('+00:00', 'Z')}")
    return "\n".join(lines) + "\n"


def without(text: str, name: str) -> str:
    """The file without the token of this name; every other byte stays. Raises KeyError."""
    parts = _TABLE.split(text)
    kept = [part for part in parts if not _is_named(part, name)]
    if len(kept) == len(parts):
        raise KeyError(name)
    return "".join(kept)


def _is_named(part: str, name: str) -> bool:
    entries: Iterable[Mapping[str, Any]] = tomllib.loads(part).get("token", ())
    return any(entry.get("name") == name for entry in entries)
