"""Who is in which group, whatever the disk does: the grouping alone, with syncs that end by hand."""

from __future__ import annotations

import asyncio

import pytest

from kvstore.errors import StorageFailed, StorageFull
from kvstore.storage.group_sync import GroupSync


class Disk:
    def __init__(self) -> None:
        self.begun = 0
        self.group = GroupSync(self._begin)

    def _begin(self) -> None:
        self.begun += 1

    def write_and_sync(self) -> asyncio.Future[None]:
        self.group.dirty = True
        return self.group.join()


async def turn() -> None:
    await asyncio.sleep(0)


async def test_a_group_begins_at_the_end_of_the_turn_with_all_who_came_in_it() -> None:
    disk = Disk()
    first = disk.write_and_sync()
    assert disk.begun == 0
    assert disk.write_and_sync() is first
    await turn()
    assert disk.begun == 1
    disk.group.finished(None, 0.5)
    assert first.done()
    assert (disk.group.syncs, disk.group.sync_seconds_total) == (1, 0.5)


async def test_who_writes_while_one_runs_waits_for_the_next() -> None:
    disk = Disk()
    first = disk.write_and_sync()
    await turn()
    second = disk.write_and_sync()
    assert disk.write_and_sync() is second
    await turn()
    assert disk.begun == 1  # never two at a time
    disk.group.finished(None)
    assert (first.done(), second.done(), disk.begun) == (True, False, 1)
    assert disk.write_and_sync() is second  # whoever comes in this turn is in it
    await turn()
    assert disk.begun == 2
    disk.group.finished(None)
    assert second.done()
    await turn()
    assert disk.begun == 2


async def test_who_wrote_nothing_since_shares_the_one_that_runs() -> None:
    disk = Disk()
    first = disk.write_and_sync()
    await turn()
    assert disk.group.join() is first
    disk.group.finished(None)
    assert disk.group.join().done()
    await turn()
    assert disk.begun == 1


async def test_a_failure_ends_the_running_group_the_waiting_one_and_all_later() -> None:
    disk = Disk()
    running = disk.write_and_sync()
    await turn()
    waiting = disk.write_and_sync()
    disk.group.finished(StorageFailed("fsync: EIO"))
    later = disk.write_and_sync()
    for future in (running, waiting, later):
        with pytest.raises(StorageFailed, match="EIO"):
            await future
    await turn()
    assert disk.begun == 1  # a second fsync may lie
    assert disk.group.syncs == 0


async def test_a_full_disk_fails_one_group_and_leaves_its_data_to_the_next() -> None:
    disk = Disk()
    full = disk.write_and_sync()
    await turn()
    disk.group.finished(StorageFull("full"))
    with pytest.raises(StorageFull):
        await full
    again = disk.group.join()  # nothing new was written; what was is still not durable
    await turn()
    assert disk.begun == 2
    disk.group.finished(None)
    await again


async def test_an_abandoned_group_is_the_callers_to_settle() -> None:
    disk = Disk()
    future = disk.write_and_sync()
    abandoned = disk.group.abandon()
    assert abandoned is future
    await turn()
    assert disk.begun == 0
    assert disk.group.abandon() is None


@pytest.mark.parametrize("way", ["timeout", "wait_for"])
async def test_a_deadline_on_one_waiter_leaves_the_others_alone(way: str) -> None:
    disk = Disk()

    async def wait() -> None:
        await disk.group.join()

    async def wait_until_the_deadline() -> None:
        if way == "wait_for":
            await asyncio.wait_for(wait(), 0.001)
        async with asyncio.timeout(0):
            await shared

    shared = disk.write_and_sync()
    patient = asyncio.create_task(wait())
    with pytest.raises(TimeoutError):
        await wait_until_the_deadline()
    assert not shared.done()
    assert not patient.done()
    disk.group.finished(None)
    await patient


async def test_nobody_has_to_ask_for_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    """A dropped future must not end as "exception was never retrieved" in the log."""
    disk = Disk()
    future = disk.write_and_sync()
    await turn()
    disk.group.finished(StorageFailed("fsync: EIO"))
    del future
    await turn()
    assert not caplog.records
