"""token new, list, revoke: who may do what with the nodes. Nodes read the file again when it changes."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from secrets import token_urlsafe
from typing import Any

import click

from kvstore.cli.output import emit, output_option, say, table
from kvstore.config.tokens import ROLES, entry_text, parse_tokens, principal_of, read_tokens, without
from kvstore.core.credential import Principal, hash_of
from kvstore.errors import ConfigError, NotFound

PREFIX = "kv_"  # by which people, and scanners of what was published by mistake, know what it is
TOKEN_BYTES = 32

_file = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))


@click.group()
def token() -> None:
    """Tokens of clients: roles, buckets, and a file that knows their hashes only.

    \b
    Example:
      kvstore token new shop --role write --bucket 'shop-*' --into tokens.toml
    """


@token.command("new")
@click.argument("name")
@click.option("--role", type=click.Choice(list(ROLES)), required=True, help="Each includes those before it.")
@click.option(
    "--bucket",
    "buckets",
    multiple=True,
    help="A bucket, or the beginning of a name and *; again for more. All, if not given.",
)
@click.option("--days", type=click.FloatRange(min=0, min_open=True, max=36_500), help="Until it expires.")
@click.option("--into", "file", type=click.Path(path_type=Path, dir_okay=False), help="File to add it to.")
@output_option
def new(
    name: str, role: str, buckets: tuple[str, ...], days: float | None, file: Path | None, output: str
) -> None:
    """Make a token. It is printed once and stored nowhere; FILE gets its hash.

    Without --into the entry for the file goes to stderr.

    \b
    Example:
      kvstore token new shop --role write --bucket carts --bucket 'shop-*' --into tokens.toml
      then: client_tokens_file = "tokens.toml" on every node
    """
    expires = None if days is None else datetime.now(UTC) + timedelta(days=days)
    try:
        principal = principal_of(name, role, buckets, expires)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    secret = PREFIX + token_urlsafe(TOKEN_BYTES)
    entry = entry_text(hash_of(secret.encode()), principal)
    if file is None:
        say(entry.rstrip("\n"))
    else:
        _add(file, entry)
        say(f"added {name} to {file}; nodes that run take it within seconds")
    emit(output, {"token": secret, **_row(principal)}, [secret])


@token.command("list")
@_file
@output_option
def list_(file: Path, output: str) -> None:
    """Who has a token, with role, buckets and the end of it. Tokens themselves are not in the file.

    \b
    Example:
      kvstore token list tokens.toml
    """
    rows = [_row(principal) for principal in read_tokens(file).values()]
    emit(output, {"tokens": rows}, table([list(row.values()) for row in rows]))


@token.command("revoke")
@click.argument("name")
@_file
@output_option
def revoke(name: str, file: Path, output: str) -> None:
    """Take a token out of the file; nodes that run refuse it within seconds.

    \b
    Example:
      kvstore token revoke shop tokens.toml
    """
    read_tokens(file)
    try:
        text = without(file.read_text("utf-8"), name)
    except KeyError:
        raise NotFound(
            f"{file} has no token named {name!r:.64}", advice=f"`kvstore token list {file}` shows them"
        ) from None
    _replace(file, text)
    say(f"revoked {name}; nodes that run refuse it within seconds")
    emit(output, {"revoked": name}, [])


def _row(principal: Principal) -> dict[str, Any]:
    expires_s = principal.expires_at_ms / 1000
    return {
        "name": principal.name,
        "role": principal.role.name.lower(),
        "buckets": " ".join(principal.buckets) or "all",
        "expires": datetime.fromtimestamp(expires_s, UTC).isoformat() if expires_s else "never",
    }


def _add(file: Path, entry: str) -> None:
    """Raises ConfigError if the name is taken, or the file was wrong before; then it stays as it is."""
    before = file.read_text("utf-8") if file.exists() else ""
    kept = before.rstrip("\n")
    text = f"{kept}\n\n{entry}" if kept.strip() else entry
    parse_tokens(text, str(file))
    _replace(file, text)


def _replace(file: Path, text: str) -> None:
    """At once: no node reads half of it. The mode stays; a new file is for its owner only."""
    mode = file.stat().st_mode & 0o777 if file.exists() else 0o600
    beside = file.with_name(f".{file.name}.new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        os.fchmod(stream.fileno(), mode)
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    beside.replace(file)
