"""What `ports.Storage` promises, run on every implementation of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from kvstore.errors import ConfigError, CorruptRecord, StorageFailed, StorageFull
from kvstore.node.ports import Kind, Reader, Storage, Write
from kvstore.storage.record import HEAD_BYTES
from tests.storage.harness import AnyStorage, Bench

DATA, COPY, META, HINT = Kind.DATA, Kind.COPY, Kind.META, Kind.HINT


def everything(reader: Reader, partitions: range = range(4)) -> dict[Kind, list[tuple[bytes, bytes | None]]]:
    return {kind: [pair for p in partitions for pair in reader.scan(kind, p)] for kind in Kind}


def numbered(count: int, value: bytes = b"") -> list[Write]:
    return [(DATA, 1, b"%05d" % i, value or b"v%d" % i) for i in range(count)]


def test_it_fits_the_port(storage: AnyStorage) -> None:
    port: Storage = storage
    assert port.was_clean


class TestBatches:
    def test_what_was_applied_is_visible_at_once(self, storage: AnyStorage) -> None:
        assert storage.get(DATA, 1, b"key") is None
        storage.apply([(DATA, 1, b"key", b"value")])
        assert storage.get(DATA, 1, b"key") == b"value"
        storage.apply([(DATA, 1, b"key", b"other")])
        assert storage.get(DATA, 1, b"key") == b"other"

    def test_empty_keys_and_values_are_keys_and_values(self, storage: AnyStorage) -> None:
        storage.apply([(COPY, 3, b"", b"")])
        assert storage.get(COPY, 3, b"") == b""
        assert list(storage.scan(COPY, 3)) == [(b"", b"")]

    def test_none_deletes_whether_it_was_there_or_not(self, storage: AnyStorage) -> None:
        storage.apply([(DATA, 1, b"key", b"value")])
        storage.apply([(DATA, 1, b"key", None)])
        storage.apply([(DATA, 1, b"absent", None), (DATA, 2, b"absent", None)])
        assert storage.get(DATA, 1, b"key") is None
        assert list(storage.scan(DATA, 1)) == []

    def test_kinds_and_partitions_are_apart(self, storage: AnyStorage) -> None:
        writes: list[Write] = [
            (kind, partition, b"key", b"%d/%d" % (kind, partition))
            for kind in Kind
            for partition in (0, 1, 255, 256, 0xFFFF)
        ]
        storage.apply(writes)
        for kind, partition, key, value in writes:
            assert storage.get(kind, partition, key) == value
            assert list(storage.scan(kind, partition)) == [(key, value)]

    def test_the_last_write_of_a_batch_wins(self, storage: AnyStorage) -> None:
        storage.apply([(DATA, 1, b"key", b"1"), (DATA, 1, b"key", None), (DATA, 1, b"key", b"2")])
        storage.apply([(DATA, 1, b"gone", b"1"), (DATA, 1, b"gone", None)])
        assert list(storage.scan(DATA, 1)) == [(b"key", b"2")]

    def test_an_empty_batch_changes_nothing(self, storage: AnyStorage) -> None:
        storage.apply([])
        assert everything(storage) == {kind: [] for kind in Kind}

    @pytest.mark.parametrize("bad", [(DATA, 1, b"key", "text"), (DATA, 70_000, b"key", b"value")])
    def test_a_batch_with_a_mistake_is_applied_nowhere_and_breaks_nothing(
        self, storage: AnyStorage, bad: Write
    ) -> None:
        with pytest.raises((TypeError, OverflowError)):
            storage.apply([(DATA, 1, b"first", b"1"), bad, (META, 0, b"last", b"1")])
        with pytest.raises((TypeError, OverflowError)):
            storage.apply([bad])
        assert everything(storage) == {kind: [] for kind in Kind}
        storage.apply([(DATA, 1, b"first", b"1")])
        assert storage.get(DATA, 1, b"first") == b"1"


class TestScans:
    def test_in_order_of_bytes(self, storage: AnyStorage) -> None:
        keys = [b"", b"\0", b"\0\0", b"a", b"a\0", b"a\xff", b"b", b"\xff", b"\xff\xff"]
        storage.apply([(DATA, 1, key, b"v") for key in reversed(keys)])
        storage.apply([(DATA, 0, b"\xff", b"before"), (DATA, 2, b"", b"behind")])
        assert [key for key, _ in storage.scan(DATA, 1)] == keys

    @pytest.mark.parametrize("partition", [0, 255, 0xFFFF])
    def test_from_a_start_to_the_end_of_the_partition(self, storage: AnyStorage, partition: int) -> None:
        storage.apply([(DATA, partition, b"%02d" % i, b"v") for i in range(10)])
        for neighbour in (max(partition - 1, 0), min(partition + 1, 0xFFFF)):
            storage.apply([(DATA, neighbour, b"x", b"v")])

        def keys(start: bytes) -> list[bytes]:
            return [key for key, _ in storage.scan(DATA, partition, start) if key != b"x"]

        assert keys(b"07") == [b"07", b"08", b"09"]
        assert keys(b"07\0") == [b"08", b"09"]
        assert keys(b"065") == [b"07", b"08", b"09"]
        assert keys(b"y") == []

    def test_many_and_large_records(self, storage: AnyStorage) -> None:
        storage.apply(numbered(1000))
        storage.apply([(DATA, 2, b"%d" % i, bytes([i]) * 300_000) for i in range(5)])
        assert list(storage.scan(DATA, 1)) == [(b"%05d" % i, b"v%d" % i) for i in range(1000)]
        assert list(storage.scan(DATA, 2)) == [(b"%d" % i, bytes([i]) * 300_000) for i in range(5)]

    def test_as_of_the_call(self, storage: AnyStorage) -> None:
        storage.apply(numbered(300))
        scan = storage.scan(DATA, 1)
        storage.apply([(DATA, 1, b"%05d" % i, None) for i in range(0, 300, 2)])
        storage.apply([(DATA, 1, b"%05d" % i, b"new") for i in range(1, 500, 2)])
        assert list(scan) == [(b"%05d" % i, b"v%d" % i) for i in range(300)]

    def test_two_at_once_do_not_disturb_each_other(self, storage: AnyStorage) -> None:
        storage.apply(numbered(300))
        pairs = list(zip(storage.scan(DATA, 1), storage.scan(DATA, 1, b"00100"), strict=False))
        assert [(a[0], b[0]) for a, b in pairs] == [(b"%05d" % i, b"%05d" % (i + 100)) for i in range(200)]


class TestSnapshots:
    def test_hold_one_moment_of_all_kinds(self, storage: AnyStorage) -> None:
        storage.apply([*numbered(300), (META, 0, b"name", b"old"), (HINT, 2, b"h", b"old")])
        before = everything(storage)
        snapshot = storage.snapshot()
        storage.apply([(DATA, 1, b"00001", None), (DATA, 1, b"00002", b"new"), (DATA, 1, b"a", b"new")])
        storage.apply([(META, 0, b"name", b"new"), (HINT, 2, b"h", None), (COPY, 1, b"", b"new")])

        assert everything(snapshot) == before
        assert snapshot.get(META, 0, b"name") == b"old"
        assert snapshot.get(DATA, 1, b"00001") == b"v1"
        assert snapshot.get(DATA, 1, b"a") is None
        assert snapshot.get(COPY, 1, b"") is None
        assert storage.get(META, 0, b"name") == b"new"

    def test_read_while_they_scan(self, storage: AnyStorage) -> None:
        storage.apply(numbered(300))
        snapshot = storage.snapshot()
        found = []
        for (key, _), (other, _) in zip(snapshot.scan(DATA, 1), snapshot.scan(DATA, 1), strict=True):
            assert key == other
            assert snapshot.get(DATA, 1, b"00299") == b"v299"
            found.append(key)
        assert found == [b"%05d" % i for i in range(300)]

    def test_a_closed_one_answers_nothing(self, storage: AnyStorage) -> None:
        snapshot = storage.snapshot()
        snapshot.close()
        snapshot.close()
        with pytest.raises(StorageFailed):
            snapshot.get(DATA, 1, b"key")
        with pytest.raises(StorageFailed):
            list(snapshot.scan(DATA, 1))


class TestCheckpoints:
    async def test_open_on_their_own_and_are_equal(self, bench: Bench) -> None:
        storage, path = bench.open(), bench.checkpoint_path()
        storage.apply([*numbered(300), (META, 0, b"name", b"old")])
        before = everything(storage)
        storage.checkpoint(path)
        storage.apply([(META, 0, b"name", b"new")])

        copy = bench.open_checkpoint(path)
        assert everything(copy) == before
        copy.apply([(META, 0, b"only here", b"1")])
        assert storage.get(META, 0, b"only here") is None
        assert storage.get(META, 0, b"name") == b"new"

    async def test_are_not_clean_so_that_no_identity_lives_twice(self, bench: Bench) -> None:
        bench.open().checkpoint(bench.checkpoint_path())
        assert not bench.open_checkpoint(bench.checkpoint_path()).was_clean

    async def test_overwrite_nothing(self, bench: Bench) -> None:
        storage = bench.open()
        storage.checkpoint(bench.checkpoint_path())
        with pytest.raises(ConfigError, match="exists"):
            storage.checkpoint(bench.checkpoint_path())


class TestSettingAside:
    """For a directory from the past: what it held is kept, and does not take part any more."""

    async def test_all_but_meta_is_gone_and_kept_elsewhere(self, bench: Bench) -> None:
        keys = [(p, key) for p in (0, 1, 255, 0xFFFF) for key in (b"", b"key", b"\xff" * 1500)]
        old: list[Write] = [(kind, partition, key, b"old") for kind in Kind for partition, key in keys]
        storage = bench.open()
        storage.apply(old)
        changes: list[Write] = [(META, 0, b"key", b"new"), (META, 0, b"more", b"1"), (META, 1, b"", None)]
        where = storage.set_aside(changes)
        assert list(storage.scan(DATA, 1)) == []
        storage = bench.crash()  # nobody synced: it was durable on return
        expected = {(p, key): value for kind, p, key, value in (*old, *changes) if kind is META}
        for kind, partition, key, _ in (*old, *changes):
            held = expected[partition, key] if kind is META else None
            assert storage.get(kind, partition, key) == held, (kind, partition, key)
        kept = bench.open_checkpoint(Path(where))
        assert not kept.was_clean
        assert all(kept.get(kind, p, key) == value for kind, p, key, value in old)

    async def test_it_goes_on_and_can_be_done_again(self, bench: Bench) -> None:
        storage = bench.open()
        places = []
        for number in range(2):
            storage.apply([(DATA, 1, b"key", b"%d" % number)])
            places.append(storage.set_aside([]))
        storage.apply([(DATA, 1, b"key", b"new")])
        await storage.sync()
        await storage.close()
        storage = bench.open()
        assert storage.get(DATA, 1, b"key") == b"new"
        assert [bench.open_checkpoint(Path(where)).get(DATA, 1, b"key") for where in places] == [b"0", b"1"]

    def test_without_room_nothing_changes(self, bench: Bench) -> None:
        storage = bench.open()
        storage.apply([(DATA, 1, b"key", b"old")])
        bench.fill()
        with pytest.raises(StorageFull):
            storage.set_aside([(META, 0, b"key", b"new")])
        assert storage.get(DATA, 1, b"key") == b"old"
        assert storage.get(META, 0, b"key") is None


class TestSync:
    async def test_callers_of_one_turn_share_a_group(self, storage: AnyStorage) -> None:
        storage.apply([(DATA, 1, b"a", b"1")])
        first = storage.sync()
        storage.apply([(DATA, 1, b"b", b"1")])
        assert storage.sync() is first
        assert not first.done()
        await first
        assert storage.syncs == 1

    async def test_with_nothing_to_sync_there_is_no_sync(self, storage: AnyStorage) -> None:
        storage.apply([(DATA, 1, b"a", b"1")])
        await storage.sync()
        await storage.sync()
        assert storage.syncs == 1

    async def test_everything_applied_before_survives_a_crash(self, bench: Bench) -> None:
        storage = bench.open()
        storage.apply(numbered(100))
        await storage.sync()
        before = everything(storage)
        assert everything(bench.crash()) == before

    async def test_a_cancelled_waiter_ends_at_once_and_takes_nobody_along(self, storage: AnyStorage) -> None:
        async def wait() -> None:
            await storage.sync()

        storage.apply([(DATA, 1, b"a", b"1")])
        cancelled, other = asyncio.create_task(wait()), asyncio.create_task(wait())
        await asyncio.sleep(0)
        shared = storage.sync()
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert not shared.cancel()
        await other
        assert shared.done()
        assert not shared.cancelled()

    async def test_a_failed_one_fails_everything_after_it(self, bench: Bench) -> None:
        storage = bench.open()
        storage.apply([(DATA, 1, b"a", b"1")])
        await storage.sync()
        bench.fail_syncs()
        storage.apply([(DATA, 1, b"b", b"1")])
        waiting = [asyncio.ensure_future(storage.sync()) for _ in range(3)]
        for future in waiting:
            with pytest.raises(StorageFailed, match="sync failed"):
                await future

        bench.fail_syncs(on=False)  # the disk is fine again; nobody may believe it
        with pytest.raises(StorageFailed, match="sync failed"):
            await storage.sync()
        with pytest.raises(StorageFailed, match="sync failed"):
            storage.apply([(DATA, 1, b"c", b"1")])
        assert storage.failure is not None
        assert storage.get(DATA, 1, b"a") == b"1"
        assert storage.get(DATA, 1, b"c") is None
        await storage.close()
        assert not bench.open().was_clean


class TestFaults:
    @pytest.mark.parametrize("bit", [0, 8, 8 * HEAD_BYTES, 8 * HEAD_BYTES + 17])
    def test_a_flipped_bit_is_known_and_costs_one_record(self, bench: Bench, bit: int) -> None:
        storage = bench.open()
        storage.apply(numbered(5, b"value"))
        bench.flip_bit(DATA, 1, b"00002", bit)
        snapshot = storage.snapshot()
        readers: list[Reader] = [storage, snapshot]
        for reader in readers:
            with pytest.raises(CorruptRecord):
                reader.get(DATA, 1, b"00002")
            expected = [(b"%05d" % i, None if i == 2 else b"value") for i in range(5)]
            assert list(reader.scan(DATA, 1)) == expected
        storage.apply([(DATA, 1, b"00002", b"healed")])
        assert storage.get(DATA, 1, b"00002") == b"healed"

    async def test_a_full_disk_refuses_writes_whole_and_recovers(self, bench: Bench) -> None:
        storage = bench.open()
        storage.apply([(DATA, 1, b"before", b"1")])
        bench.fill()
        applied, refused = 0, False
        while not refused and applied < 20:  # an engine may look at the disk every few MiB only
            large: Write = (DATA, 2, b"%02d" % applied, bytes(500_000))
            try:
                storage.apply([large, (META, 0, b"last", b"%d" % applied)])
                applied += 1
            except StorageFull:
                refused = True
        assert refused
        for _ in range(2):
            with pytest.raises(StorageFull):
                storage.apply([(DATA, 1, b"refused", b"1"), (DATA, 1, b"before", None)])
        assert storage.get(DATA, 1, b"before") == b"1"
        assert len(list(storage.scan(DATA, 2))) == applied
        assert storage.get(META, 0, b"last") == (b"%d" % (applied - 1) if applied else None)
        await storage.sync()

        bench.fill(on=False)
        storage.apply([(DATA, 1, b"after", b"1")])
        await storage.sync()
        assert [key for key, _ in storage.scan(DATA, 1)] == [b"after", b"before"]


class TestOpeningAndClosing:
    async def test_a_stop_is_clean_only_if_it_was_closed(self, bench: Bench) -> None:
        storage = bench.open()
        assert storage.was_clean  # a new directory has forgotten nothing
        storage.apply(numbered(10))
        await storage.close()

        storage = bench.open()
        assert storage.was_clean
        assert list(storage.scan(DATA, 1)) == [(b"%05d" % i, b"v%d" % i) for i in range(10)]

        storage = bench.crash()  # nothing was written since: still, it was not closed
        assert not storage.was_clean
        await storage.close()
        assert bench.open().was_clean

    async def test_closing_makes_everything_durable_and_ends_who_waits(self, bench: Bench) -> None:
        storage = bench.open()
        storage.apply([(DATA, 1, b"a", b"1")])
        waiting = storage.sync()
        await asyncio.gather(storage.close(), storage.close())
        await storage.close()
        assert waiting.done()
        assert waiting.exception() is None
        assert bench.open().get(DATA, 1, b"a") == b"1"

    async def test_a_closing_that_fails_says_so_and_is_not_clean(self, bench: Bench) -> None:
        storage = bench.open()
        storage.apply([(DATA, 1, b"a", b"1")])
        waiting = storage.sync()
        bench.fail_syncs()
        with pytest.raises(StorageFailed, match="sync failed"):
            await storage.close()
        assert isinstance(waiting.exception(), StorageFailed)
        bench.fail_syncs(on=False)
        assert not bench.open().was_clean

    @pytest.mark.parametrize(
        "use",
        [
            lambda storage, path: storage.get(DATA, 1, b"a"),
            lambda storage, path: list(storage.scan(DATA, 1)),
            lambda storage, path: storage.apply([(DATA, 1, b"a", b"2")]),
            lambda storage, path: storage.apply([(DATA, 1, b"a", b"2"), (DATA, 1, b"b", b"2")]),
            lambda storage, path: storage.sync().result(),
            lambda storage, path: storage.snapshot(),
            lambda storage, path: storage.checkpoint(path),
        ],
        ids=["get", "scan", "apply one", "apply two", "sync", "snapshot", "checkpoint"],
    )
    async def test_a_closed_one_refuses_everything(
        self, bench: Bench, use: Callable[[AnyStorage, object], object]
    ) -> None:
        storage = bench.open()
        storage.apply([(DATA, 1, b"a", b"1")])
        await storage.close()
        with pytest.raises(StorageFailed, match="closed"):
            use(storage, bench.checkpoint_path())

    async def test_a_scan_that_outlives_the_storage_never_ends_as_if_it_were_complete(
        self, bench: Bench
    ) -> None:
        storage = bench.open()
        storage.apply(numbered(1000))
        scan, snapshot = storage.scan(DATA, 1), storage.snapshot()
        part = snapshot.scan(DATA, 1)
        seen = {next(scan)[0]}
        next(part)
        await storage.close()
        reopened = bench.open()  # neither of them keeps the directory in use
        try:
            seen.update(key for key, _ in scan)
        except StorageFailed:
            assert len(seen) < 1000
        else:
            assert len(seen) == 1000
        assert len(list(reopened.scan(DATA, 1))) == 1000

    async def test_one_user_at_a_time(self, bench: Bench) -> None:
        storage = bench.open()
        storage.apply([(DATA, 1, b"a", b"1")])
        with pytest.raises(ConfigError, match="in use"):
            bench.open()
        storage.apply([(DATA, 1, b"a", b"2")])  # the refused one did not disturb the first
        await storage.close()
        assert bench.open().get(DATA, 1, b"a") == b"2"

    async def test_it_tells_how_much_it_holds_and_synced(self, storage: AnyStorage) -> None:
        noise = Random(1)  # what compresses well counts for little
        storage.apply([(DATA, 1, b"%05d" % i, noise.randbytes(1000)) for i in range(100)])
        await storage.sync()
        assert 100_000 < storage.approximate_bytes() < 10_000_000
        assert storage.syncs == 1
        assert storage.sync_seconds_total >= 0
