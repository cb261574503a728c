"""How many records become batches: order of equal keys, failures, bounds, and what can be resumed."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.cli import checkpoint, records
from kvstore.cli.bulk_load import BATCH_RECORDS, Load, PutMany
from kvstore.cli.checkpoint import Progress
from kvstore.cli.records import Place, Record, Value
from kvstore.errors import ConfigError, InvalidRequest, KVStoreError, Overloaded, Unavailable

SOURCE = {"file": "/f", "bytes": 1}


def file_of(pairs: list[tuple[str, str]]) -> bytes:
    some = (Record(key.encode(), (Value(value.encode(), "t", {}),)) for key, value in pairs)
    return b"".join(records.write(record, "jsonl") for record in some)


class Bucket:
    """A dumb bucket: last put wins. Puts take turns of the loop; keys in `fails` are refused."""

    def __init__(self, fails: frozenset[bytes] = frozenset(), turns: int = 3) -> None:
        self.values: dict[bytes, bytes] = {}
        self.fails, self.turns = fails, turns
        self.at_once = self.at_once_max = 0
        self.sizes: list[int] = []

    async def put_many(self, batch: list[Record]) -> list[KVStoreError | None]:
        keys = [record.key for record in batch]
        assert len(set(keys)) == len(keys), "records of one batch are put in any order"
        self.sizes.append(len(batch))
        self.at_once += 1
        self.at_once_max = max(self.at_once, self.at_once_max)
        for _ in range(self.turns + len(self.sizes) % 3):  # batches overtake each other
            await asyncio.sleep(0)
        self.at_once -= 1
        failed: list[KVStoreError | None] = []
        for record in batch:
            if record.key in self.fails:
                failed.append(Overloaded("busy"))
            else:
                self.values[record.key] = record.values[0].data
                failed.append(None)
        return failed


def run(
    put_many: PutMany,
    source: Iterator[Any],
    progress: Progress,
    *,
    batches_max: int = 4,
    failures_max: int = 100,
) -> None:
    async def load() -> None:
        await Load(put_many, progress, lambda: None, batches_max=batches_max, failures_max=failures_max).run(
            source
        )

    asyncio.run(load())


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.text("xyz", max_size=3)), max_size=300))
def test_of_records_with_one_key_the_last_holds(pairs: list[tuple[str, str]]) -> None:
    bucket, progress = Bucket(), Progress()
    run(bucket.put_many, records.read(io.BytesIO(file_of(pairs)), "jsonl"), progress)
    assert bucket.values == {key.encode(): value.encode() for key, value in pairs}
    assert (progress.imported, progress.pending, progress.finished) == (len(pairs), {}, True)


def test_batches_are_full_and_no_more_than_asked_for_at_once() -> None:
    bucket = Bucket()
    pairs = [(str(i), "v") for i in range(1000)]
    run(bucket.put_many, records.read(io.BytesIO(file_of(pairs)), "jsonl"), Progress(), batches_max=3)
    assert bucket.sizes == [BATCH_RECORDS] * (1000 // BATCH_RECORDS)
    assert bucket.at_once_max == 3


def test_large_values_make_small_batches() -> None:
    bucket = Bucket()
    pairs = [(str(i), "v" * (1 << 20)) for i in range(6)]
    run(bucket.put_many, records.read(io.BytesIO(file_of(pairs)), "jsonl"), Progress())
    assert bucket.sizes == [2, 2, 2]


def test_failed_records_are_kept_and_the_rest_goes_on() -> None:
    bucket, progress = Bucket(frozenset({b"3"})), Progress()
    content = file_of([(str(i), "v") for i in range(5)]) + b"not JSON\n" + file_of([("9", "v")])
    run(bucket.put_many, records.read(io.BytesIO(content), "jsonl"), progress)
    assert set(bucket.values) == {b"0", b"1", b"2", b"4", b"9"}
    assert {number: type(error) for number, error in progress.errors.items()} == {
        4: Overloaded,
        6: InvalidRequest,
    }
    assert sorted(progress.pending) == [4, 6]
    assert progress.imported == 5


def test_too_many_failures_end_it() -> None:
    bucket, progress = Bucket(frozenset(str(i).encode() for i in range(1000))), Progress()
    content = file_of([(str(i), "v") for i in range(1000)])
    with pytest.raises(Unavailable, match="records failed, the last one: busy"):
        run(bucket.put_many, records.read(io.BytesIO(content), "jsonl"), progress, failures_max=60)
    assert 60 <= len(progress.errors) < 200
    assert not progress.finished


def test_too_many_malformed_records_end_it() -> None:
    with pytest.raises(Unavailable, match="2 records failed"):
        run(Bucket().put_many, records.read(io.BytesIO(b"x\ny\nz\n"), "jsonl"), Progress(), failures_max=2)


def test_a_file_that_cannot_be_read_on_ends_it_with_the_place() -> None:
    bucket, progress = Bucket(), Progress()
    content = records.write(Record(b"k", (Value(b"v", "t", {}),)), "msgpack") + b"\xc1"
    with pytest.raises(InvalidRequest, match="record 2 at byte"):
        run(bucket.put_many, records.read(io.BytesIO(content), "msgpack"), progress)
    assert not progress.finished


# --- going on --------------------------------------------------------------------------------------


class Killed(Exception):
    """Stands for the end of the process in the middle of an import."""


def gone_on(bucket: Bucket, content: bytes, file: Path) -> Progress:
    """What `import --resume` does."""
    progress, again = checkpoint.load(file, SOURCE)
    redo = [next(records.read(io.BytesIO(content), "jsonl", p.start, p.number - 1)) for p in again]
    rest = records.read(io.BytesIO(content), "jsonl", progress.read_to.end, progress.read_to.number)
    run(bucket.put_many, iter([*redo, *rest]), progress)
    return progress


@given(
    count=st.integers(1, 400),
    refused=st.sets(st.integers(0, 399), max_size=5),
    batches_max=st.integers(1, 5),
    batches_done=st.integers(0, 8),
)
def test_an_interrupted_import_that_goes_on_has_written_every_record(
    count: int, refused: set[int], batches_max: int, batches_done: int
) -> None:
    pairs = [(str(i), f"value {i}") for i in range(count)]
    content, progress = file_of(pairs), Progress()
    bucket = Bucket(frozenset(str(i).encode() for i in refused))

    async def put_until_killed(batch: list[Record]) -> list[KVStoreError | None]:
        if len(bucket.sizes) >= batches_done:
            raise Killed
        return await bucket.put_many(batch)

    with TemporaryDirectory() as directory:
        file = Path(directory) / "state"
        try:
            run(
                put_until_killed,
                records.read(io.BytesIO(content), "jsonl"),
                progress,
                batches_max=batches_max,
            )
        except* Killed:
            pass
        checkpoint.save(file, progress, SOURCE)
        bucket.fails = frozenset()
        resumed = gone_on(bucket, content, file)
    assert bucket.values == {key.encode(): value.encode() for key, value in pairs}
    assert (resumed.imported, resumed.pending, resumed.finished) == (count, {}, True)


def test_only_the_same_import_can_go_on(tmp_path: Path) -> None:
    file = tmp_path / "state"
    checkpoint.save(file, Progress(Place(0, 9, 1), 1), SOURCE)
    progress, again = checkpoint.load(file, SOURCE)
    assert (progress.read_to, progress.imported, again) == (Place(0, 9, 1), 1, [])
    with pytest.raises(ConfigError, match="of another import: bytes differs"):
        checkpoint.load(file, {**SOURCE, "bytes": 2})


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"format": 1, "source": {"file": "/f", "bytes": 1}}'])
def test_a_damaged_state_is_named(tmp_path: Path, content: str) -> None:
    file = tmp_path / "state"
    file.write_text(content)
    with pytest.raises(ConfigError, match="state"):
        checkpoint.load(file, SOURCE)
    with pytest.raises(ConfigError, match="does not exist"):
        checkpoint.load(tmp_path / "none", SOURCE)
