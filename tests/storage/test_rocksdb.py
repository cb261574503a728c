"""What only the adapter of the engine has: directories, stalls, a loop that goes on while the disk works."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rocksdict import Env, Options, Rdict

from kvstore.errors import ConfigError, CorruptRecord, StorageFailed, StorageFull
from kvstore.node.ports import Kind
from kvstore.storage.directory import DataDirectory
from kvstore.storage.record import seal
from kvstore.storage.rocksdb import RocksStorage
from kvstore.storage.rocksdb_cursor import read_error
from kvstore.storage.rocksdb_engine import Engine

DATA = Kind.DATA


@contextmanager
def without_rights(directory: Path) -> Iterator[None]:
    """Root may write everywhere, so it is somebody else for a while."""
    user = os.geteuid()
    directory.chmod(0o500)
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        directory.chmod(0o700)


class TestDirectories:
    async def test_are_created_with_their_parents(self, tmp_path: Path) -> None:
        storage = RocksStorage(tmp_path / "a" / "b")
        assert storage.was_clean
        await storage.close()

    def test_a_file_in_the_place_of_one(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("precious")
        for path in (tmp_path / "file", tmp_path / "file" / "node"):
            with pytest.raises(ConfigError, match="a file is in its place; name a directory"):
                RocksStorage(path)
        assert (tmp_path / "file").read_text() == "precious"

    def test_one_without_the_right_to_write(self, tmp_path: Path) -> None:
        for path in (tmp_path, tmp_path / "node"):
            with without_rights(tmp_path), pytest.raises(ConfigError, match="give this user the right"):
                RocksStorage(path)

    def test_one_where_nothing_can_be_created(self) -> None:
        with pytest.raises(ConfigError, match=r"/proc/node cannot be used: .*name another directory"):
            RocksStorage(Path("/proc/node"))

    def test_another_programs_database(self, tmp_path: Path) -> None:
        other = Rdict(str(tmp_path), Options(raw_mode=True))
        other.put(b"their", b"data")
        other.close()
        with pytest.raises(ConfigError, match="another program's data"):
            RocksStorage(tmp_path)
        again = Rdict(str(tmp_path), Options(raw_mode=True))
        assert again.get(b"their") == b"data"
        again.close()

    async def test_one_of_a_later_release(self, tmp_path: Path) -> None:
        storage = RocksStorage(tmp_path)
        storage._engine.root.put(b"format", seal(b"format", b"2"))
        await storage.close()
        for _ in range(2):
            with pytest.raises(ConfigError, match="later release"):
                RocksStorage(tmp_path)

    async def test_a_creation_that_was_killed_is_begun_again(self, tmp_path: Path) -> None:
        """The engine names its first manifest in CURRENT last; until then there is no log and no table."""
        (tmp_path / "MANIFEST-000001").write_bytes(b"torn")
        (tmp_path / "IDENTITY").write_bytes(b"")
        (tmp_path / "LOG").write_bytes(b"")
        storage = RocksStorage(tmp_path)
        assert storage.was_clean
        await storage.close()

    async def test_a_refused_start_does_not_keep_the_directory(self, tmp_path: Path) -> None:
        await RocksStorage(tmp_path).close()
        current = (tmp_path / "CURRENT").read_bytes()
        (tmp_path / "CURRENT").write_bytes(b"garbage")
        with pytest.raises(ConfigError):
            RocksStorage(tmp_path)
        (tmp_path / "CURRENT").write_bytes(current)
        await RocksStorage(tmp_path).close()


def sizes(directory: Path, pattern: str) -> list[int]:
    return [path.stat().st_size for path in directory.glob(pattern)]


def test_a_checkpoint_where_no_directory_is(tmp_path: Path) -> None:
    storage = RocksStorage(tmp_path / "node")
    with pytest.raises(ConfigError, match="in an existing directory"):
        storage.checkpoint(tmp_path / "no" / "checkpoint")
    asyncio.run(storage.close())


class TestRestarts:
    async def test_many_do_not_pile_up_tables(self, tmp_path: Path) -> None:
        """Each stop writes one per family; from four on, whoever is open long enough merges them."""
        for number in range(10):
            storage = RocksStorage(tmp_path)
            storage.apply([(kind, 1, b"key", b"%d" % number) for kind in Kind])
            await storage.close()
        storage = RocksStorage(tmp_path)
        assert list(storage.scan(DATA, 1)) == [(b"key", b"9")]
        deadline = time.monotonic() + 20
        while len(sizes(tmp_path, "*.sst")) > 5 * (len(Kind) + 1):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        await storage.close()

    async def test_everything_is_in_tables_after_a_clean_stop(self, tmp_path: Path) -> None:
        """So that a clean start replays nothing."""
        storage = RocksStorage(tmp_path)
        storage.apply([(DATA, 1, b"%d" % i, bytes(100)) for i in range(1000)])
        await storage.close()
        assert sum(sizes(tmp_path, "*.log")) == 0
        assert sum(sizes(tmp_path, "*.sst")) > 1000


class GatedStorage(RocksStorage):
    """Whose disk answers when it is let."""

    def __init__(self, path: Path) -> None:
        self.asked, self.answer = threading.Semaphore(0), threading.Semaphore(0)
        super().__init__(path)

    def _flush_log(self, engine: Engine) -> None:
        self.asked.release()
        assert self.answer.acquire(timeout=20)
        super()._flush_log(engine)


async def until_asked(storage: GatedStorage) -> None:
    assert await asyncio.get_running_loop().run_in_executor(None, storage.asked.acquire, True, 20)


class TestASlowDisk:
    async def test_the_loop_goes_on_and_the_next_group_forms(self, tmp_path: Path) -> None:
        storage = GatedStorage(tmp_path)
        storage.apply([(DATA, 1, b"a", b"1")])
        first = storage.sync()
        await until_asked(storage)
        storage.apply([(DATA, 1, b"b", b"1")])
        second = storage.sync()
        assert second is not first
        assert storage.get(DATA, 1, b"b") == b"1"
        storage.answer.release()
        await first
        assert not second.done()
        storage.answer.release()
        await second
        assert storage.syncs == 2
        storage.answer.release(2)
        await storage.close()

    async def test_a_cancelled_close_closes_all_the_same(self, tmp_path: Path) -> None:
        storage = GatedStorage(tmp_path)
        storage.apply([(DATA, 1, b"a", b"1")])
        running = storage.sync()
        await until_asked(storage)
        storage.apply([(DATA, 1, b"b", b"1")])
        waiting = storage.sync()
        closing = asyncio.create_task(storage.close())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        with pytest.raises(StorageFailed, match="closed"):
            storage.apply([(DATA, 1, b"c", b"1")])
        storage.answer.release(3)
        await storage.close()
        assert running.exception() is None
        assert waiting.exception() is None
        reopened = RocksStorage(tmp_path)
        assert reopened.was_clean
        assert reopened.get(DATA, 1, b"b") == b"1"
        await reopened.close()

    async def test_a_sync_that_fails_while_closing_leaves_no_clean_mark(self, tmp_path: Path) -> None:
        """Neither by the second sync, which may lie, nor in the eyes of who waited."""

        class FailsOnce(GatedStorage):
            failures = 1

            def _flush_log(self, engine: Engine) -> None:
                super()._flush_log(engine)
                if self.failures:
                    self.failures -= 1
                    raise OSError("IO error: While fdatasync: Input/output error")

        storage = FailsOnce(tmp_path)
        storage.apply([(DATA, 1, b"a", b"1")])
        running = storage.sync()
        await until_asked(storage)
        storage.apply([(DATA, 1, b"b", b"1")])
        waiting = storage.sync()
        closing = asyncio.create_task(storage.close())
        await asyncio.sleep(0)
        storage.answer.release(3)
        with pytest.raises(StorageFailed, match="an earlier one failed"):
            await closing
        assert isinstance(running.exception(), StorageFailed)
        assert isinstance(waiting.exception(), StorageFailed)
        reopened = RocksStorage(tmp_path)
        assert not reopened.was_clean
        await reopened.close()

    async def test_a_sync_whose_mark_cannot_be_written_has_failed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is not marked as synced would not be missed if it were gone after a crash."""
        storage = RocksStorage(tmp_path)
        storage.apply([(DATA, 1, b"a", b"1")])

        def broken(self: DataDirectory, sequence: int) -> None:
            raise OSError("Input/output error")

        with monkeypatch.context() as patched:
            patched.setattr(DataDirectory, "mark_synced", broken)
            with pytest.raises(StorageFailed, match="Input/output error"):
                await storage.sync()
        with pytest.raises(StorageFailed):
            storage.apply([(DATA, 1, b"b", b"1")])
        await storage.close()
        reopened = RocksStorage(tmp_path)
        assert not reopened.was_clean
        await reopened.close()


class TestAStalledEngine:
    @contextmanager
    def stalled(self, storage: RocksStorage) -> Iterator[None]:
        """No thread compacts, and one table of level 0 is too many."""
        env = Env()
        env.set_low_priority_background_threads(0)
        family = storage._families[DATA]
        triggers = ("level0_file_num_compaction", "level0_slowdown_writes", "level0_stop_writes")
        family.set_options({f"{trigger}_trigger": "1" for trigger in triggers})
        family.flush()
        try:
            yield
        finally:
            env.set_low_priority_background_threads(1)

    async def test_refuses_whole_batches_at_once_and_goes_on_later(self, tmp_path: Path) -> None:
        storage = RocksStorage(tmp_path)
        storage.apply([(DATA, 1, b"before", b"1")])
        with self.stalled(storage):
            for batch in ([(DATA, 1, b"a", b"1")], [(DATA, 1, b"a", b"1"), (Kind.META, 0, b"a", b"1")]):
                began = time.monotonic()
                with pytest.raises(StorageFull, match="behind"):
                    storage.apply(batch)
                assert time.monotonic() - began < 0.5  # and does not sleep in the loop
            assert storage.get(DATA, 1, b"before") == b"1"
            assert storage.get(DATA, 1, b"a") is None
            assert storage.get(Kind.META, 0, b"a") is None
            await storage.sync()
        deadline = time.monotonic() + 10
        while True:
            try:
                storage.apply([(DATA, 1, b"after", b"1")])
                break
            except StorageFull:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.001)
        await storage.sync()
        await storage.close()


class TestScansOfTheEngine:
    async def test_a_scan_steps_over_what_was_deleted_in_other_partitions(self, tmp_path: Path) -> None:
        """Its bound ends it; without one, the end of a partition is found by walking over all tombstones."""
        storage = RocksStorage(tmp_path)
        storage.apply([(DATA, 1, b"a", b"1")])
        for start in range(0, 200_000, 10_000):
            storage.apply([(DATA, 2, b"%06d" % i, None) for i in range(start, start + 10_000)])

        def fastest_s(partition: int) -> float:
            """Of five, because this machine may be doing something else."""
            taken = []
            for _ in range(5):
                began = time.perf_counter()
                found = list(storage.scan(DATA, partition))
                taken.append(time.perf_counter() - began)
                assert found == ([(b"a", b"1")] if partition == 1 else [])
            return min(taken)

        assert fastest_s(1) < fastest_s(2) / 10
        await storage.close()

    @pytest.mark.parametrize(
        ("text", "kind"),
        [
            ("Corruption: block checksum mismatch", CorruptRecord),
            ("IO error: While pread: Input/output error", StorageFailed),
        ],
    )
    def test_errors_of_reading(self, text: str, kind: type[Exception]) -> None:
        assert type(read_error(Exception(text))) is kind
        mistake = TypeError("a caller's mistake stays what it is")
        assert read_error(mistake) is mistake


def bytes_read() -> int:
    """By this process, through system calls."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("rchar:")))


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="no /proc/self/io to count the bytes in")
def test_a_get_reads_no_more_of_a_table_that_holds_many_keys(tmp_path: Path) -> None:
    """A filter in one piece, larger than a shard of the cache, was read whole by each get.

    Here 750 KB where a shard has 512; with the default cache, 1.2 MB from 1,000,000 keys on: 560 µs a get.
    """
    engine = Engine(tmp_path, cache_bytes=1 << 20, write_buffer_bytes=128 << 20)
    family = engine.families[Kind.DATA]
    for number in range(600_000):
        family.put(b"key%09d" % number, b"v")
    family.flush()
    family.compact_range(None, None)  # of tables in level 0, and of those opened there, filters are pinned
    del family
    engine.close()
    engine = Engine(tmp_path, cache_bytes=1 << 20, write_buffer_bytes=128 << 20)
    family = engine.families[Kind.DATA]
    before = bytes_read()
    for number in range(0, 600_000, 3_000):
        assert family.get(b"key%09d" % number) == b"v"
    each = (bytes_read() - before) / 200
    engine.close()
    assert each < 32 * 1024, f"{each:,.0f} bytes"
