"""Any history of batches, reads, snapshots, syncs, restarts and crashes against a plain dict."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.errors import StorageError
from kvstore.node.ports import Kind, Reader, Write
from tests.storage.harness import make_bench

Model = dict[tuple[Kind, int, bytes], bytes]

kinds = st.sampled_from(list(Kind))
partitions = st.sampled_from([0, 1, 255, 256, 0xFFFF])
keys = st.binary(max_size=2) | st.binary(max_size=3).map(lambda tail: b"\xff" + tail)
writes: st.SearchStrategy[Write] = st.tuples(kinds, partitions, keys, st.none() | st.binary(max_size=8))
batches = st.lists(writes, max_size=8)
steps = st.one_of(
    st.tuples(st.just("apply"), batches),
    st.tuples(st.just("apply"), batches),
    st.tuples(st.sampled_from(["snapshot", "sync", "close and open", "crash"]), st.none()),
)


def assert_equal(reader: Reader, model: Model, start: bytes) -> None:
    for kind in Kind:
        for partition in (0, 1, 2, 255, 256, 0xFFFF):
            expected = sorted((k, v) for (at, p, k), v in model.items() if (at, p) == (kind, partition))
            assert list(reader.scan(kind, partition)) == expected
            behind = [pair for pair in expected if pair[0] >= start]
            assert list(reader.scan(kind, partition, start)) == behind
    for (kind, partition, key), value in model.items():
        assert reader.get(kind, partition, key) == value


@pytest.mark.parametrize("name", ["rocksdb", "memory"])
@given(history=st.lists(steps, max_size=10), start=keys)
@settings(max_examples=25)
def test_it_behaves_as_a_dict_does(
    name: str, history: list[tuple[str, list[Write] | None]], start: bytes
) -> None:
    async def run(directory: Path) -> None:
        bench, model = make_bench(name, directory), Model()
        storage = bench.open()
        snapshots = []
        for step, batch in history:
            if step == "apply":
                assert batch is not None
                storage.apply(batch)
                for kind, partition, key, value in batch:
                    if value is None:
                        model.pop((kind, partition, key), None)
                    else:
                        model[kind, partition, key] = value
            elif step == "snapshot":
                snapshots.append((storage.snapshot(), dict(model)))
            elif step == "sync":
                await storage.sync()
            else:
                for snapshot, then in snapshots:
                    assert_equal(snapshot, then, start)
                snapshots.clear()
                if step == "crash":
                    old, storage = storage, bench.crash()
                else:
                    old = storage
                    await storage.close()
                    storage = bench.open()
                assert storage.was_clean == (step != "crash")
                with suppress(StorageError):  # it was killed: how it ends does not matter
                    await old.close()
        assert_equal(storage, model, start)
        for snapshot, then in snapshots:
            assert_equal(snapshot, then, start)
        await storage.close()

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(run(Path(directory)))


@given(st.lists(batches, max_size=8), st.lists(batches, max_size=8), st.integers(0, 9))
def test_of_the_unsynced_batches_the_memory_disk_keeps_a_prefix(
    synced: list[list[Write]], unsynced: list[list[Write]], kept: int
) -> None:
    """So that a simulated crash is as bad as a real one can be, and no worse."""

    async def run() -> None:
        bench, model = make_bench("memory", Path()), Model()
        storage = bench.open()
        for batch in synced:
            storage.apply(batch)
        await storage.sync()
        for batch in unsynced:
            storage.apply(batch)
        for batch in [*synced, *unsynced[:kept]]:
            for kind, partition, key, value in batch:
                if value is None:
                    model.pop((kind, partition, key), None)
                else:
                    model[kind, partition, key] = value
        storage = storage.crash(kept)  # type: ignore[union-attr]
        assert not storage.was_clean
        assert_equal(storage, model, b"")
        assert_equal(storage.crash(), model, b"")  # what was found after a start stays

    asyncio.run(run())
