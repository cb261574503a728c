"""get, put, delete: one key."""

from __future__ import annotations

import mimetypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kvstore.cli.nodes import in_reach, target, target_options
from kvstore.cli.output import (
    Exit,
    bytes_fields,
    emit_bytes,
    emit_json,
    output_option,
    say,
    shown_key,
    table,
    this_writes,
)
from kvstore.cli.records import OCTETS, TEXT
from kvstore.errors import InvalidRequest, NotFound, SiblingsError

if TYPE_CHECKING:
    from kvstore.client.records import Receipt, Record, Sibling
    from kvstore.client.synchronous import Bucket

VALUE_BYTES_MAX = 256 << 20  # of a file or stdin; nodes take much less, and say how much


@contextmanager
def opened(
    bucket: str, nodes: str | None, timeout_s: float | None, content_type: str = OCTETS
) -> Iterator[Bucket[bytes]]:
    """A bucket whose values are bytes of any type, stored as `content_type`."""
    from kvstore.client.codecs import Codec
    from kvstore.client.synchronous import Client

    where = target(nodes, timeout_s)
    raw: Codec[bytes] = Codec("bytes", content_type, bytes, bytes, frozenset({"*"}))
    # One request, or one after the other: learning the layout first would cost more than it saves.
    with in_reach(where), Client(where.nodes, token=where.token, follow_layout=False) as client:
        yield client.bucket(bucket, codec=raw, timeout_s=where.timeout_s)


def key_of(text: str) -> bytes:
    """The bytes that were typed, whatever the terminal's encoding made of them."""
    return text.encode("utf-8", "surrogateescape")


@click.command()
@click.argument("bucket")
@click.argument("key")
@click.option("--r", type=click.IntRange(min=1), help="How many replicas must answer.")
@click.option("--pr", type=click.IntRange(min=0), help="How many of these must be homes of the key.")
@click.option(
    "--sloppy/--no-sloppy", default=None, help="Whether stand-ins may answer for homes that do not."
)
@click.option("--monotonic", is_flag=True, help="No later read shows less than this one.")
@click.option("--sibling", metavar="ID", help="Of several values, this one.")
@target_options
@output_option
def get(
    bucket: str,
    key: str,
    r: int | None,
    pr: int | None,
    sloppy: bool | None,
    monotonic: bool,
    sibling: str | None,
    nodes: str | None,
    timeout_s: float | None,
    output: str,
) -> None:
    """Print a value. Exit code 3 if there is none, 4 if there are several: then they are listed.

    With -o json several values are no error, and `context` is what supersedes them with a put.

    \b
    Example:
      kvstore get greetings hello
      kvstore get greetings hello -o json | jq -r .context
      kvstore get greetings hello --sibling 3f2a9c0d11e5b7a6
    """
    with opened(bucket, nodes, timeout_s) as handle:
        record = handle.fetch(key_of(key), r=r, pr=pr, monotonic=monotonic or None, sloppy=sloppy)
    found = [s for s in record.siblings if sibling is None or s.id == sibling]
    if sibling is not None and not found and record.found:
        raise NotFound(f"no value {sibling}", advice=f"there are {', '.join(s.id for s in record.siblings)}")
    if output == "json":
        emit_json(_record(bucket, record, found))
    if not found:
        say(f"error: {bucket}/{shown_key(key_of(key))} has no value")
        click.get_current_context().exit(Exit.NOT_FOUND)
    if output == "json":
        return
    if len(found) > 1:
        for line in table([["value", "written", "bytes", "content type"], *map(_described, found)]):
            say(line)
        raise SiblingsError(
            f"{len(found)} concurrent values",
            advice="see one with --sibling ID, all with -o json; put the right one with their --context",
        )
    emit_bytes(found[0].value)


def _described(sibling: Sibling[bytes]) -> list[object]:
    ms = sibling.modified_ms
    written = datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ") if ms else "-"
    return [sibling.id, written, len(sibling.value), sibling.content_type]


def _record(bucket: str, record: Record[bytes], values: list[Sibling[bytes]]) -> dict[str, Any]:
    key = record.key if isinstance(record.key, bytes) else record.key.encode()
    return {
        "bucket": bucket,
        **bytes_fields("key", key),
        "found": record.found,
        "values": [value_document(value) for value in values],
        **_receipt(record.receipt),
    }


def value_document(sibling: Sibling[bytes]) -> dict[str, Any]:
    """One value, ready for JSON."""
    return {
        "id": sibling.id,
        **bytes_fields("value", sibling.value),
        "content_type": sibling.content_type,
        "modified_ms": sibling.modified_ms,
        "meta": dict(sibling.meta),
    }


def _receipt(receipt: Receipt) -> dict[str, Any]:
    return receipt._asdict()


# --- writes ---------------------------------------------------------------------------------------


def write_options(command: Any) -> Any:
    for option in (
        click.option("--w", type=click.IntRange(min=1), help="How many replicas must have it."),
        click.option("--pw", type=click.IntRange(min=0), help="How many of these must be homes of the key."),
        click.option(
            "--sloppy/--no-sloppy", default=None, help="Whether stand-ins count where homes do not answer."
        ),
        click.option("--context", help="What this write supersedes: the context of an earlier answer."),
        click.option("--if-match", metavar="ETAG", help="Only if this is what the key holds now."),
        click.option("--operation-id", help="Names the write: sent again with the same, it is the same."),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("bucket")
@click.argument("key")
@click.argument("value", required=False)
@click.option(
    "--file", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Take the value from it."
)
@click.option("--content-type", help="Stored with the value. Else by the name of the file; text if typed.")
@click.option("--meta", multiple=True, metavar="NAME=TEXT", help="Stored with the value; may be repeated.")
@click.option("--ttl", "ttl_s", type=click.FloatRange(min=0), help="Seconds until it expires, 0 for never.")
@click.option("--if-absent", is_flag=True, help="Only if the key has no value.")
@click.option(
    "--mode",
    type=click.Choice(["blind", "sibling"]),
    help="Without a context: overwrite what is there, or sit beside it.",
)
@write_options
@target_options
@output_option
def put(
    bucket: str,
    key: str,
    value: str | None,
    file: Path | None,
    content_type: str | None,
    meta: tuple[str, ...],
    nodes: str | None,
    timeout_s: float | None,
    output: str,
    **options: Any,
) -> None:
    """Store VALUE, or what comes from --file or stdin.

    \b
    Example:
      kvstore put greetings hello world
      kvstore put photos cat --file cat.jpg --meta by=ann
      kvstore put carts ann '["milk"]' --context "$(kvstore get carts ann -o json | jq -r .context)"
    """
    data, by_default = _input(value, file)
    options["meta"] = _meta(meta) or None
    options["if_absent"] = bool(options["if_absent"])
    this_writes()
    with opened(bucket, nodes, timeout_s, content_type or by_default) as handle:
        receipt = handle.put(key_of(key), data, **options)
    _tell(output, "stored", receipt)


@click.command()
@click.argument("bucket")
@click.argument("key")
@write_options
@target_options
@output_option
def delete(
    bucket: str, key: str, nodes: str | None, timeout_s: float | None, output: str, **options: Any
) -> None:
    """Delete a key. That it has no value is no error.

    \b
    Example:
      kvstore delete greetings hello
      kvstore delete carts ann --context "$(kvstore get carts ann -o json | jq -r .context)"
    """
    this_writes()
    with opened(bucket, nodes, timeout_s) as handle:
        receipt = handle.delete(key_of(key), **options)
    _tell(output, "deleted", receipt)


def _tell(output: str, what: str, receipt: Receipt) -> None:
    if output == "json":
        emit_json(_receipt(receipt))
        return
    stood_in = f", {receipt.hinted} by a stand-in" if receipt.hinted else ""
    say(f"{what}: {receipt.acks} of {receipt.n} homes{stood_in}, etag {receipt.etag}")
    if receipt.siblings > 1:
        say(f"the key has {receipt.siblings} concurrent values now: kvstore get … -o json shows them")


def _input(value: str | None, file: Path | None) -> tuple[bytes, str]:
    """(the value, its content type unless one is given)."""
    if value is not None and file is not None:
        raise click.UsageError("VALUE and --file are both given")
    if value is not None:
        data = key_of(value)
        return data, TEXT
    if file is not None:
        with file.open("rb") as stream:
            data = stream.read(VALUE_BYTES_MAX + 1)
        by_default = mimetypes.guess_type(file.name)[0] or OCTETS
    elif sys.stdin.isatty():
        raise click.UsageError("no VALUE: type one, name a --file, or pipe it in")
    else:
        data, by_default = sys.stdin.buffer.read(VALUE_BYTES_MAX + 1), OCTETS
    if len(data) > VALUE_BYTES_MAX:
        raise InvalidRequest(f"the value is larger than {VALUE_BYTES_MAX} bytes")
    return data, by_default


def _meta(pairs: tuple[str, ...]) -> dict[str, str]:
    meta = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not name or not equals:
            raise click.UsageError(f"--meta {pair!r} is not of the form NAME=TEXT")
        meta[name] = text
    return meta
