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
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import click

from kvstore import AsyncBucket, AsyncClient, KVStoreError

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


class Load:
    """All stanzas through one client, some at a time, again and again."""

    def __init__(
        self, text: bytes, stanzas: list[Stanza], bucket: AsyncBucket[bytes], concurrency: int
    ) -> None:
        self._text, self._stanzas, self._bucket = text, stanzas, bucket
        self._concurrency = concurrency

    async def write(self, half_way: Callable[[], Awaitable[None]] | None) -> Pass:
        """`half_way` runs beside the writes, once half of them are done."""
        return await self._pass("writing", self._put, half_way)

    async def compare(self) -> Pass:
        return await self._pass("reading", self._get_and_compare, None)

    async def _put(self, stanza: Stanza) -> str:
        await self._bucket.put(stanza.key, self._text[stanza.start : stanza.end])
        return ""

    async def _get_and_compare(self, stanza: Stanza) -> str:
        """What is wrong with it; "" if nothing."""
        value = await self._bucket.get(stanza.key, r=2)
        if value == self._text[stanza.start : stanza.end]:
            return ""
        return "missing" if value is None else f"{len(value)} bytes that are not those that were written"

    async def _pass(
        self,
        label: str,
        work: Callable[[Stanza], Awaitable[str]],
        half_way: Callable[[], Awaitable[None]] | None,
    ) -> Pass:
        result, pending = Pass(), iter(self._stanzas)
        count = len(self._stanzas)
        interlude: asyncio.Task[None] | None = None

        async def worker() -> None:
            nonlocal interlude
            for stanza in pending:
                try:
                    difference = await work(stanza)
                except KVStoreError as error:
                    result.failures += 1
                    result.complain(f"{stanza.key}: {type(error).__name__}: {error}")
                else:
                    if difference:
                        result.differences += 1
                        result.complain(f"{stanza.key}: {difference}")
                result.operations += 1
                bar.update(1)
                if half_way is not None and interlude is None and 2 * result.operations >= count:
                    interlude = asyncio.ensure_future(half_way())

        started = time.monotonic()
        with click.progressbar(length=count, label=label, file=sys.stderr, update_min_steps=100) as bar:
            async with asyncio.TaskGroup() as workers:
                for _ in range(self._concurrency):
                    workers.create_task(worker())
        result.duration_s = time.monotonic() - started
        if interlude is not None:
            await interlude
        return result


class LocalNodes:
    """Five node processes in a directory that is removed afterwards; `kvstore dev` does the work."""

    def __init__(self) -> None:
        self._directory = tempfile.mkdtemp(prefix="kvstore-packages-")

    def __enter__(self) -> LocalNodes:
        self._dev("up")
        return self

    def __exit__(self, *_: object) -> None:
        self._dev("down", "--wipe")
        shutil.rmtree(self._directory, ignore_errors=True)

    @property
    def urls(self) -> list[str]:
        return [f"http://{node['http']}" for node in json.loads(self._dev("status", "-o", "json"))]

    async def kill(self, name: str) -> None:
        await asyncio.to_thread(self._dev, "kill", name)

    async def start(self, name: str) -> None:
        """Returns when the node is ready."""
        await asyncio.to_thread(self._dev, "start", name)

    def _dev(self, verb: str, *arguments: str) -> str:
        command = [sys.executable, "-m", "kvstore", "dev", verb, *arguments, "--dir", self._directory]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"kvstore dev {verb}: {done.stderr.strip()}")
        return done.stdout


async def run(
    text: bytes, stanzas: list[Stanza], urls: list[str] | str, concurrency: int, local: LocalNodes | None
) -> bool:
    """Whether nothing failed and nothing differs."""
    victim = "n3"
    async with AsyncClient(urls) as client:
        load = Load(text, stanzas, client.bucket(BUCKET), concurrency)

        async def kill() -> None:
            assert local is not None
            await local.kill(victim)
            click.echo(f"\nkilled {victim} with SIGKILL", err=True)

        written = await load.write(kill if local else None)
        if local:
            await local.start(victim)
            click.echo(f"started {victim} again", err=True)
        read = await load.compare()
    size_mb = sum(stanza.end - stanza.start for stanza in stanzas) / 1e6
    click.echo(f"{len(stanzas):,} stanzas, {size_mb:.1f} MB, {concurrency} operations at a time")
    click.echo(f"written  {written}" + (f", {victim} killed half way" if local else ""))
    click.echo(f"read     {read} (r=2)")
    click.echo(f"{read.differences} differences, {written.failures + read.failures} failed operations")
    for complaint in (*written.complaints, *read.complaints):
        click.echo(f"  {complaint}")
    return not (written.failures or read.failures or read.differences)


def package_index(file: Path | None) -> bytes:
    """Raises SystemExit with what to do where there is none."""
    if file is not None:
        return file.read_bytes()
    if shutil.which("apt-cache") is None:
        raise SystemExit(
            "no apt-cache here: pass --stanzas FILE (any file of paragraphs with Package and Version)"
        )
    return subprocess.run(["apt-cache", "dumpavail"], capture_output=True, check=True).stdout


@click.command()
@click.option(
    "--stanzas",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Read them from a file instead of apt-cache.",
)
@click.option("--nodes", help="URLs of a running cluster, with commas; no node of it is killed.")
@click.option(
    "--concurrency", type=click.IntRange(1, 256), default=32, show_default=True, help="Operations at a time."
)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first so many stanzas.")
def main(file: Path | None, nodes: str | None, concurrency: int, limit: int | None) -> None:
    """Load Debian's package index into a cluster, lose a node on the way, and read every byte back.

    Five local nodes are made for this run, unless --nodes names a cluster. Exit code 0 only if no
    operation failed and no byte differs.
    """
    text = package_index(file)
    try:
        stanzas = stanzas_of(text)[:limit]
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    if not stanzas:
        raise SystemExit("the package index is empty; on Debian as root: apt-get update")
    if nodes:
        ok = asyncio.run(run(text, stanzas, nodes, concurrency, None))
    else:
        with LocalNodes() as local:
            ok = asyncio.run(run(text, stanzas, local.urls, concurrency, local))
    raise SystemExit(0 if ok else 1)


if __name__ == "__main__":
    main()
