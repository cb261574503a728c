from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from kvstore.errors import StorageError
from tests.storage.harness import AnyStorage, Bench, make_bench


@pytest.fixture(params=["rocksdb", "memory"])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    bench = make_bench(request.param, tmp_path)
    yield bench
    for storage in bench.opened:
        with suppress(StorageError):
            await storage.close()


@pytest.fixture
def storage(bench: Bench) -> AnyStorage:
    return bench.open()
