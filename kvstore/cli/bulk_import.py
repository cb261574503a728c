"""import: a file of records into a bucket, many at a time, and on from where it stopped."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import click

from kvstore.cli import checkpoint, records
from kvstore.cli.bulk_load import Load, Raw, Writer
from kvstore.cli.checkpoint import Progress
from kvstore.cli.nodes import Target, in_reach, target, target_options
from kvstore.cli.output import emit_json, exit_code_of, output_option, say, this_writes
from kvstore.cli.records import Place

BATCHES = 4
FAILURES_MAX = 100
FAILURES_SHOWN = 10
SAVE_EVERY_S = 0.5
TIMEOUT_S = 10.0  # of one write with all its attempts: better late than a failed record


@click.command("import")
@click.argument("bucket")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True))
@click.option(
    "--format", "form", type=click.Choice(records.FORMATS), help="Else by the name: msgpack or jsonl."
)
@click.option(
    "--resume", is_flag=True, help="Go on where an import of this file stopped; failed records again."
)
@click.option("--state", type=click.Path(path_type=Path), help="Where that is kept. [FILE.import-state]")
@click.option("--concurrency", type=click.IntRange(1, 64), default=BATCHES, help="Batches at once. [4]")
@click.option(
    "--failures-max", type=click.IntRange(1, 100_000), default=FAILURES_MAX, help="Stop after so many. [100]"
)
@click.option("--w", type=click.IntRange(min=1), help="How many replicas must have each record.")
@target_options
@output_option
def import_(
    bucket: str,
    file: Path,
    form: str | None,
    resume: bool,
    state: Path | None,
    concurrency: int,
    failures_max: int,
    w: int | None,
    nodes: str | None,
    timeout_s: float | None,
    output: str,
) -> None:
    """Write every record of FILE (- for stdin) into BUCKET.

    A record is a JSON line like {"key": "ann", "value": …}, as `kvstore export` writes them, or the same
    as msgpack maps. A value that is no text is stored as JSON. Of records with one key the last holds.

    Interrupted, or with failed records, it leaves a small file with which --resume goes on.

    \b
    Example:
      kvstore import users users.jsonl
      kvstore import users users.jsonl --resume
      zcat users.jsonl.gz | kvstore import users -
    """
    this_writes()
    where = target(nodes, timeout_s)
    form = form or records.format_of(file.name)
    from_stdin = str(file) == "-"
    if from_stdin and (resume or state):
        raise click.UsageError("stdin cannot be resumed: name a file")
    with nullcontext(sys.stdin.buffer) if from_stdin else file.open("rb") as stream:
        kept = None if from_stdin else _Kept(file, state, bucket, form)
        progress, source = _begin(stream, form, kept, resume=resume)
        before, began_s = progress.imported, time.monotonic()
        try:
            with _bar(file, progress, shown=not from_stdin) as advance:

                def step() -> None:
                    advance()
                    if kept is not None:
                        kept.save_now_and_then(progress)

                asyncio.run(_import(where, bucket, source, progress, step, concurrency, failures_max, w))
        finally:
            if kept is not None:
                kept.save_or_remove(progress)
            _summary(output, progress, progress.imported - before, time.monotonic() - began_s, kept)
    if progress.errors:
        click.get_current_context().exit(max(exit_code_of(e, writes=True) for e in progress.errors.values()))


class _Kept:
    """The small file: what it is of, and when it is written."""

    def __init__(self, file: Path, state: Path | None, bucket: str, form: str) -> None:
        found = file.stat()
        self.file = state or file.with_name(file.name + ".import-state")
        self.source: dict[str, Any] = {
            "file": str(file.absolute()),
            "bytes": found.st_size,
            "modified_ns": found.st_mtime_ns,
            "bucket": bucket,
            "format": form,
        }
        self._saved_s = time.monotonic()

    def load(self) -> tuple[Progress, list[Place]]:
        return checkpoint.load(self.file, self.source)

    def save_now_and_then(self, progress: Progress) -> None:
        now_s = time.monotonic()
        if now_s - self._saved_s >= SAVE_EVERY_S:
            self._saved_s = now_s
            checkpoint.save(self.file, progress, self.source)

    def save_or_remove(self, progress: Progress) -> None:
        """Removed when there is nothing left to go on with."""
        if progress.finished and not progress.pending:
            self.file.unlink(missing_ok=True)
        else:
            checkpoint.save(self.file, progress, self.source)


def _begin(
    stream: BinaryIO, form: str, kept: _Kept | None, *, resume: bool
) -> tuple[Progress, Iterator[Raw]]:
    if kept is None or not resume:
        if kept is not None and kept.file.exists():
            say(f"note: starting anew; --resume goes on where {kept.file} says")
        return Progress(), records.read(stream, form)
    progress, again = kept.load()
    redo = [next(records.read(stream, form, place.start, place.number - 1)) for place in again]
    _, end, number = progress.read_to
    return progress, chain(redo, records.read(stream, form, end, number))


async def _import(
    where: Target,
    bucket: str,
    source: Iterator[Raw],
    progress: Progress,
    step: Callable[[], None],
    concurrency: int,
    failures_max: int,
    w: int | None,
) -> None:
    from kvstore.client.asynchronous import AsyncClient

    with in_reach(where):
        async with AsyncClient(where.nodes, token=where.token, priority="background") as client:
            writer = Writer(client, bucket, w, where.timeout_s or TIMEOUT_S)
            load = Load(writer.put_many, progress, step, batches_max=concurrency, failures_max=failures_max)
            await load.run(source)


@contextmanager
def _bar(file: Path, progress: Progress, *, shown: bool) -> Iterator[Callable[[], None]]:
    """Bytes read, where somebody watches."""
    if not shown or not sys.stderr.isatty():
        yield lambda: None
        return
    with click.progressbar(length=file.stat().st_size, label=file.name, file=sys.stderr) as bar:
        yield lambda: bar.update(progress.read_to.end - bar.pos)


def _summary(output: str, progress: Progress, imported: int, took_s: float, kept: _Kept | None) -> None:
    failed = sorted(progress.errors.items())
    if output == "json":
        entries = [{"record": number, "error": error.detail} for number, error in failed]
        emit_json(
            {"imported": imported, "total": progress.imported, "failed": entries, "took_s": round(took_s, 3)}
        )
    for number, error in failed[:FAILURES_SHOWN]:
        say(f"record {number}: {error.detail}")
    if len(failed) > FAILURES_SHOWN:
        say(f"… and {len(failed) - FAILURES_SHOWN} more")
    rate = imported / max(took_s, 0.001)
    say(f"imported {imported} records in {took_s:.1f} s ({rate:.0f} per s), {len(failed)} failed")
    if kept is not None and kept.file.exists():
        say(f"to go on: the same command with --resume ({kept.file})")
