"""What comes out: data to stdout as text or JSON, talk to stderr, and one exit code per kind of end."""

from __future__ import annotations

import json
import sys
from base64 import b64encode
from collections.abc import Iterable
from enum import IntEnum
from typing import Any

import click

from kvstore.errors import ConfigError, Conflict, KVStoreError, NotFound, Unavailable


class Exit(IntEnum):
    OK = 0
    ERROR = 1
    USAGE = 2
    NOT_FOUND = 3
    CONFLICT = 4
    UNAVAILABLE = 5
    UNKNOWN = 6  # a write that may be applied, now or later
    INTERRUPTED = 130


_WRITES = "kvstore.writes"
output_option = click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", help="Form of what is printed."
)


def this_writes() -> None:
    """From now on an error with outcome `unknown` ends in exit code 6."""
    click.get_current_context().meta[_WRITES] = True


def exit_code_of(error: KVStoreError, *, writes: bool) -> Exit:
    if isinstance(error, NotFound):
        return Exit.NOT_FOUND
    if isinstance(error, ConfigError):
        return Exit.USAGE
    if isinstance(error, Conflict):
        return Exit.CONFLICT
    if writes and error.outcome == "unknown":
        return Exit.UNKNOWN
    return Exit.UNAVAILABLE if isinstance(error, Unavailable) else Exit.ERROR


def report(error: KVStoreError) -> Exit:
    """Tell of an error on stderr; how to exit."""
    say(f"error: {error.detail or type(error).__name__}")
    if error.request_id:
        say(f"request: {error.request_id}")
    if error.advice:
        say(f"hint: {error.advice}")
    context = click.get_current_context(silent=True)
    return exit_code_of(error, writes=bool(context and context.meta.get(_WRITES)))


def say(text: str) -> None:
    """Talk: to stderr, so that stdout holds nothing but data."""
    click.echo(text, err=True)


def emit_json(value: Any) -> None:
    """One JSON document on one line."""
    click.echo(json.dumps(value, ensure_ascii=False, default=str))


def emit(output: str, data: Any, lines: Iterable[str]) -> None:
    """`data` as JSON, or `lines` of text, as -o says."""
    if output == "json":
        emit_json(data)
    else:
        for line in lines:
            click.echo(line)


def emit_bytes(value: bytes) -> None:
    """A value as it is; on a terminal with a line end, and refused there if it would garble it."""
    stdout = sys.stdout.buffer
    if sys.stdout.isatty():
        if not _is_text(value):
            raise click.ClickException(
                f"the value is binary ({len(value)} bytes): redirect it, or use -o json"
            )
        value = value if value.endswith(b"\n") else value + b"\n"
    stdout.write(value)
    stdout.flush()


def _is_text(value: bytes) -> bool:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character in "\n\t" for character in text)


def bytes_fields(name: str, data: bytes) -> dict[str, str]:
    """Bytes in a JSON document: {name: text} where they are UTF-8, {name_base64: …} otherwise."""
    try:
        return {name: data.decode("utf-8")}
    except UnicodeDecodeError:
        return {f"{name}_base64": b64encode(data).decode("ascii")}


def shown_key(key: bytes) -> str:
    """A key for people: one line, bytes that are no text as \\xNN."""
    text = key.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def table(rows: Iterable[Iterable[object]]) -> list[str]:
    """Rows as aligned columns, the first row being the head."""
    cells = [[str(cell) for cell in row] for row in rows]
    if not cells:
        return []
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in cells]
