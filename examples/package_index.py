"""Load Debian's package index into a cluster, lose a node on the way, and read every byte back.

    python -m examples.package_index                        # five local nodes, made for this run
    python -m examples.package_index --nodes http://127.0.0.1:8001,http://127.0.0.1:8002

The input is what `apt-cache dumpavail` prints: some 64,000 stanzas, 50 to 70 MB of text; `--stanzas FILE`
takes them from a file. Each is one value, its key the package's name and version. When half of them are
written, one node gets SIGKILL; it is started again before they are read back with r=2 and compared byte
for byte. A running cluster (`--nodes`) is not harmed.

Exit code 0 only if no operation failed and no byte differs.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import click

from kvstore import AsyncClient, KVStoreError

BUCKET = "debian-packages"
ERRORS_SHOWN = 5


class Stanza(NamedTuple):
    """Where one package's paragraph lies in the input, and what it is called."""

    key: str
    start: int
    end: int


def stanzas_of(text: bytes) -> list[Stanza]:
    """The paragraphs of a package index, in order. Raises ValueError with the place for one that has no name.

    A name and version that come twice (a second architecture) get a number, so that nothing is overwritten.
    """
    found: list[Stanza] = []
    times: dict[str, int] = {}
    start = 0
    while start < len(text):
        end = text.find(b"\n\n", start)
        end = len(text) if end < 0 else end
        if text[start:end].strip():
            key = _key(text[start:end], start)
            times[key] = times.get(key, 0) + 1
            found.append(Stanza(key if times[key] == 1 else f"{key}#{times[key]}", start, end))
        start = end + 2
    return found


def _key(stanza: bytes, at: int) -> str:
    fields: dict[bytes, bytes] = {}
    for line in stanza.split(b"\n"):
        name, colon, value = line.partition(b": ")
        if colon and not line.startswith(b" "):
            fields.setdefault(name, value)
    try:
        return f"{fields[b'Package'].decode()}={fields[b'Version'].decode()}"
    except KeyError as missing:
        raise ValueError(f"the stanza at byte {at} has no field {missing.args[0].decode()}") from None


@dataclass(slots=True)
class Pass:
    """One pass over all stanzas."""

    operations: int = 0
    failures: int = 0
    differences: int = 0
    duration_s: float = 0.0
    complaints: list[str] = field(default_factory=list)

    def complain(self, text: str) -> None:
        if len(self.complaints) < ERRORS_SHOWN:
            self.complaints.append(text)

    def __str__(self) -> str:
        rate = self.operations / self.duration_s if self.duration_s else 0.0
        return f"{self.operations:,} in {self.duration_s:.1f} s, {rate:,.0f}/s, {self.failures} failed"


async def run_pass(
    stanzas: Iterable[Stanza],
    work: Callable[[Stanza], Awaitable[str | None]],
    *,
    count: int,
    label: str,
    concurrency: int,
    half_way: Callable[[], Awaitable[None]] | None = None,
) -> Pass:
    """`work` on every stanza, `concurrency` of them at a time; what it returns is a difference."""
    result = Pass()
    pending = iter(stanzas)
    interludes: list[asyncio.Task[None]] = []
    started = time.monotonic()

    async def worker(bar: click.progressbar) -> None:  # type: ignore[valid-type]
        for stanza in pending:
            try:
                difference = await work(stanza)
            except KVStoreError as error:
                result.failures += 1
                result.complain(f"{stanza.key}: {type(error).__name__}: {error}")
            else:
                if difference is not None:
                    result.differences += 1
                    result.complain(f"{stanza.key}: {difference}")
            result.operations += 1
            bar.update(1)
            if half_way is not None and result.operations == count // 2:
                interludes.append(asyncio.create_task(half_way()))  # the load goes on meanwhile

    with click.progressbar(length=count, label=label, file=sys.stderr, update_min_steps=200) as bar:
        async with asyncio.TaskGroup() as workers:
            for _ in range(concurrency):
                workers.create_task(worker(bar))
    result.duration_s = time.monotonic() - started
    for interlude in interludes:
        await interlude
    return result
