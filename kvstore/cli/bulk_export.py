"""export: every key of a bucket with its values, as `import` reads them."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import click

from kvstore.cli import records
from kvstore.cli.nodes import Target, in_reach, target, target_options
from kvstore.cli.output import emit_json, output_option, say
from kvstore.cli.records import Record, Value

PAGE_SIZE = 500
TIMEOUT_S = 10.0  # of one page with all its attempts
SHOW_EVERY_S = 0.1


@click.command()
@click.argument("bucket")
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@click.option("--prefix", default="", help="Only keys that begin so.")
@click.option(
    "--format", "form", type=click.Choice(records.FORMATS), help="Else by the name: msgpack or jsonl."
)
@click.option("--partial", is_flag=True, help="What can be had, though some homes do not answer.")
@target_options
@output_option
def export(
    bucket: str,
    file: Path | None,
    prefix: str,
    form: str | None,
    partial: bool,
    nodes: str | None,
    timeout_s: float | None,
    output: str,
) -> None:
    """Write every key of BUCKET to FILE, or to stdout: values, siblings, content types and metadata.

    Not a backup of one moment: keys are as they were when their page was read. FILE appears when it is
    whole. Exit code 5 if some of the keys could not be asked for.

    \b
    Example:
      kvstore export users users.jsonl
      kvstore export users --prefix a | gzip > users-a.jsonl.gz
    """
    where = target(nodes, timeout_s)
    to_stdout = file is None or str(file) == "-"
    form = form or records.format_of(file.name if file else "")
    if to_stdout and output == "json":
        raise click.UsageError("the records go to stdout: name a FILE to have the counts as JSON")
    began_s = time.monotonic()
    with _destination(None if to_stdout else file) as stream:
        count, size = asyncio.run(_export(where, bucket, prefix, form, stream, partial=partial))
    took_s = time.monotonic() - began_s
    if output == "json":
        emit_json({"exported": count, "bytes": size, "took_s": round(took_s, 3)})
    say(f"exported {count} keys, {size} bytes in {took_s:.1f} s")


@contextmanager
def _destination(file: Path | None) -> Iterator[BinaryIO]:
    """`file` is replaced only by one that is whole."""
    if file is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    part = file.with_name(file.name + ".part")
    try:
        with part.open("wb") as stream:
            yield stream
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


async def _export(
    where: Target, bucket: str, prefix: str, form: str, stream: BinaryIO, *, partial: bool
) -> tuple[int, int]:
    """(keys, bytes)."""
    from kvstore.client.asynchronous import AsyncClient

    count = size = 0
    raw_prefix = prefix.encode("utf-8", "surrogateescape")
    show = _counter()
    with in_reach(where):
        async with AsyncClient(where.nodes, token=where.token, priority="background") as client:
            handle = client.bucket(bucket, timeout_s=where.timeout_s or TIMEOUT_S)
            async for item in handle.scan(raw_prefix, page_size=PAGE_SIZE, partial=partial):
                values = tuple(Value(s.value, s.content_type, dict(s.meta)) for s in item.record.siblings)
                written = records.write(Record(item.key, values), form)
                stream.write(written)
                count, size = count + 1, size + len(written)
                show(count)
    show(None)
    return count, size


def _counter() -> Callable[[int | None], None]:
    """A number that is written over, where somebody watches; how many there will be is not known."""
    last_s = 0.0

    def show(count: int | None) -> None:
        nonlocal last_s
        if not sys.stderr.isatty():
            return
        if count is None:
            click.echo("\r\x1b[K", err=True, nl=False)
        elif (now_s := time.monotonic()) - last_s >= SHOW_EVERY_S:
            last_s = now_s
            click.echo(f"\r\x1b[K{count} keys", err=True, nl=False)

    return show
