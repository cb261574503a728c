"""A flipped bit in any file of a data directory is detected or harmless, never served.

Detected: opening or reading raises an error of ours, or a scan gives (key, None). Harmless: every
record reads as it was written. A record that is silently missing counts as served wrong.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from kvstore.errors import ConfigError, CorruptRecord, KVStoreError
from kvstore.node.ports import Kind, Reader
from kvstore.storage.rocksdb import RocksStorage
from tests.storage.crash_child import PARTITIONS, batch_of

TABLES, LOG = 40, 20  # batches that a clean stop left in tables, and such that only the log has


async def _write(directory: Path) -> None:
    storage = RocksStorage(directory / "node")
    for number in range(TABLES):
        storage.apply(batch_of(number))
    await storage.close()
    shutil.copytree(directory / "node", directory / "closed")

    storage = RocksStorage(directory / "node")
    for number in range(TABLES, TABLES + LOG):
        storage.apply(batch_of(number))
    await storage.sync()
    shutil.copytree(directory / "node", directory / "killed")
    await storage.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`closed`: a directory after a clean stop. `killed`: one in use, everything synced."""
    directory = tmp_path_factory.mktemp("written")
    asyncio.run(_write(directory))
    return directory


def expected(state: str) -> dict[tuple[Kind, int, bytes], bytes]:
    return {
        (kind, partition, key): value
        for number in range(TABLES if state == "closed" else TABLES + LOG)
        for kind, partition, key, value in batch_of(number)
        if value is not None
    }


def outcome(directory: Path, right: dict[tuple[Kind, int, bytes], bytes]) -> str:
    """`refused`, `detected` or `harmless`; fails if anything wrong is served."""
    try:
        storage = RocksStorage(directory)
    except KVStoreError as error:
        text = str(error)
        assert "\n" not in text
        assert str(directory) in text
        return "refused"
    try:
        return "harmless" if all([_reads_right(storage, right), _scans_right(storage, right)]) else "detected"
    finally:
        with suppress(KVStoreError):
            asyncio.run(storage.close())


def _reads_right(reader: Reader, right: dict[tuple[Kind, int, bytes], bytes]) -> bool:
    """False if damage was detected."""
    detected = False
    for (kind, partition, key), value in right.items():
        try:
            assert reader.get(kind, partition, key) == value, (kind, partition, key)
        except KVStoreError:
            detected = True
    return not detected


def _scans_right(reader: Reader, right: dict[tuple[Kind, int, bytes], bytes]) -> bool:
    detected = False
    for kind in Kind:
        for partition in range(PARTITIONS):
            keys = iter(sorted(k for at, p, k in right if (at, p) == (kind, partition)))
            try:
                for key, value in reader.scan(kind, partition):
                    assert key == next(keys, None)
                    assert value in (None, right[kind, partition, key])
                    detected |= value is None
                assert next(keys, None) is None, "a scan ended early, without an error"
            except KVStoreError:
                detected = True
    return not detected


@pytest.fixture
def work() -> Iterator[Path]:
    """In memory where there is such a place: thousands of copies are opened, and fsync is not the matter."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as directory:
        yield Path(directory)


def flip(written: Path, state: str, name: str, position: int, bit: int, work: Path) -> str:
    directory = work / "rotten"
    shutil.copytree(written / state, directory)
    try:
        content = bytearray((directory / name).read_bytes())
        content[position] ^= 1 << bit
        (directory / name).write_bytes(content)
        return outcome(directory, expected(state))
    finally:
        shutil.rmtree(directory)


def files(written: Path, state: str) -> Iterator[Path]:
    return (path for path in sorted((written / state).iterdir()) if path.stat().st_size)


def family_of(name: str) -> str:
    """sst, log (the write-ahead log), MANIFEST, CURRENT, OPTIONS, …"""
    return name.rsplit(".", 1)[-1] if name.endswith((".sst", ".log")) else name.split("-")[0].split(".")[0]


@pytest.mark.parametrize("state", ["closed", "killed"])
def test_every_kind_of_file_is_there_to_rot(written: Path, state: str) -> None:
    """Without damage everything reads right; and the sweep below covers what an engine writes."""
    assert {family_of(path.name) for path in files(written, state)} >= {
        "sst", "MANIFEST", "CURRENT", "OPTIONS", "IDENTITY", "LOG", "synced", "process",
    }  # fmt: skip
    assert ("log" in {family_of(path.name) for path in files(written, state)}) == (state == "killed")
    copy = written / "undamaged"
    shutil.copytree(written / state, copy)
    assert outcome(copy, expected(state)) == "harmless"
    shutil.rmtree(copy)


@pytest.mark.parametrize("state", ["closed", "killed"])
def test_a_flipped_bit_is_never_served(written: Path, work: Path, state: str) -> None:
    chance = Random(state)
    seen: dict[str, set[str]] = {}
    for path in files(written, state):
        kind, size = family_of(path.name), path.stat().st_size
        for _ in range({"sst": 8, "log": 20, "MANIFEST": 12, "CURRENT": 4}.get(kind, 1)):
            found = flip(written, state, path.name, chance.randrange(size), chance.randrange(8), work)
            seen.setdefault(kind, set()).add(found)
    assert seen["sst"] & {"detected", "refused"}
    assert "refused" in seen["MANIFEST"]
    assert state == "closed" or seen["log"] == {"refused"}
    assert seen["LOG"] == seen["IDENTITY"] == seen["process"] == seen["synced"] == {"harmless"}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("state", ["closed", "killed"])
def test_no_flipped_bit_of_a_dense_grid_is_ever_served(written: Path, work: Path, state: str) -> None:
    """A grid over all files: dense where every byte steers the engine, wide over records and texts."""
    chance = Random(state)
    counts: dict[tuple[str, str], int] = {}
    for path in files(written, state):
        kind = family_of(path.name)
        stride = {"OPTIONS": 997, "LOG": 9999}.get(kind, 5 if path.stat().st_size < 2000 else 61)
        for position in range(0, path.stat().st_size, stride):
            found = flip(written, state, path.name, position, chance.randrange(8), work)
            counts[kind, found] = counts.get((kind, found), 0) + 1
    print(state, counts)
    assert counts["sst", "detected"] + counts["sst", "refused"] > 100


def cut(node: Path, files: str) -> None:
    """As a copy that was broken off, or a disk that lost the end of a file."""
    for path in node.glob(files):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda node: (node / "CURRENT").unlink(), "no CURRENT"),
        (lambda node: (node / "CURRENT").write_text("garbage"), "damaged"),
        (lambda node: (node / "CURRENT").write_text(""), "damaged"),
        (lambda node: [p.unlink() for p in node.glob("MANIFEST-*")], "damaged"),
        (lambda node: [p.write_bytes(b"x" * 1000) for p in node.glob("MANIFEST-*")], "damaged"),
        (lambda node: next(node.glob("*.sst")).unlink(), "damaged"),
        (lambda node: [p.write_bytes(b"") for p in node.glob("*.sst")], "damaged"),
        (lambda node: [p.unlink() for p in node.glob("*.log")], "damaged"),
        (lambda node: [p.write_bytes(Random(1).randbytes(9000)) for p in node.glob("*.log")], "missing"),
        (lambda node: cut(node, "*.log"), "missing"),
        (lambda node: cut(node, "MANIFEST-*"), "damaged"),
        (lambda node: cut(node, "*.sst"), "damaged"),
    ],
    ids=[
        "CURRENT gone", "CURRENT garbage", "CURRENT empty", "MANIFEST gone", "MANIFEST garbage",
        "a table gone", "tables empty", "log gone", "log garbage", "log cut", "MANIFEST cut", "tables cut",
    ],
)  # fmt: skip
def test_a_damaged_directory_is_refused_in_one_line_with_the_remedy(
    written: Path, tmp_path: Path, damage: object, text: str
) -> None:
    node = tmp_path / "node"
    shutil.copytree(written / "killed", node)
    damage(node)  # type: ignore[operator]
    before = {path.name for path in node.glob("*.sst")}
    with pytest.raises(ConfigError, match=text) as refused:
        RocksStorage(node)
    assert "move it away and start with an empty one and recover_as" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert before <= {path.name for path in node.glob("*.sst")}  # nothing was thrown away


def test_a_corrupt_block_is_an_error_of_the_record_not_of_the_node(written: Path, tmp_path: Path) -> None:
    """A bad block costs the reads that need it; the rest is served, writes go on."""
    node = tmp_path / "node"
    shutil.copytree(written / "closed", node)
    table = max(node.glob("*.sst"), key=lambda path: path.stat().st_size)
    content = bytearray(table.read_bytes())
    content[len(content) // 3] ^= 1
    table.write_bytes(content)
    storage = RocksStorage(node)
    damaged = []
    for kind, partition, key in expected("closed"):
        try:
            storage.get(kind, partition, key)
        except CorruptRecord:
            damaged.append((kind, partition, key))
    assert 0 < len(damaged) < len(expected("closed")) / 2
    kind, partition, key = damaged[0]
    storage.apply([(kind, partition, key, b"healed")])
    assert storage.get(kind, partition, key) == b"healed"
    asyncio.run(storage.close())
