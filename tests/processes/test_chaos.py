"""Real processes and disks that fail under load: nothing acknowledged is lost, nothing wrong is shown.

`make chaos` runs all of it at full size and prints the figures; the plain run has a short version of one.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from tests.processes.chaos import SCENARIOS, run
from tests.processes.rig import rig

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]

PLAIN = ("fsync",)


def skip_without_means(name: str) -> None:
    reason = SCENARIOS[name].missing()
    if reason:
        pytest.skip(reason)


async def passes(name: str, directory: Path, *, short: bool) -> None:
    outcome = await run(name, directory, short=short)
    print(f"\n{outcome}")
    assert not outcome.violations, outcome
    assert not outcome.invalid, outcome
    if not short:  # bounds of time are asked of a machine that does nothing else
        assert not outcome.missed, outcome


@pytest.mark.parametrize("name", PLAIN)
async def test_nothing_is_lost(name: str, tmp_path: Path) -> None:
    skip_without_means(name)
    await passes(name, tmp_path, short=True)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", SCENARIOS)
async def test_nothing_is_lost_at_full_size(name: str, tmp_path: Path) -> None:
    skip_without_means(name)
    await passes(name, tmp_path, short=False)


@pytest.mark.slow
async def test_the_harness_sees_a_loss(tmp_path: Path) -> None:
    """Control: all homes of every key get back what they held before the load: writes are missed."""
    async with rig("rolled back", tmp_path, nodes=3) as cluster:
        nodes = range(3)
        for node in nodes:
            await cluster.stop(node)
            shutil.copytree(cluster.data_dir(node), tmp_path / f"old{node}")
            await cluster.restart(node)
        cluster.recorder.start()
        await asyncio.sleep(4.0)
        await cluster.recorder.stop()
        for node in nodes:
            await cluster.kill(node)
            shutil.rmtree(cluster.data_dir(node))
            shutil.move(tmp_path / f"old{node}", cluster.data_dir(node))
        await asyncio.gather(*map(cluster.restart, nodes))
        outcome = await cluster.finish(converged_s_max=10.0)
    assert any(text.startswith("lost ") for text in outcome.violations), outcome
    assert any(text.startswith("element missing ") for text in outcome.violations), outcome
    assert outcome.verdict == "VIOLATED"


@pytest.mark.slow
async def test_a_run_without_load_or_fault_is_invalid(tmp_path: Path) -> None:
    async with rig("idle", tmp_path, nodes=3) as cluster:
        cluster.confirm(False, "a fault that did not hit")
        outcome = await cluster.finish(converged_s_max=10.0)
    assert outcome.verdict == "INVALID"
    assert any("fault not confirmed" in text for text in outcome.invalid), outcome
    assert any("only 0 x get ok" in text for text in outcome.invalid), outcome


@pytest.mark.slow
@pytest.mark.xfail(
    raises=AssertionError,
    reason="a damaged block of a table stays, and no scan of its partitions gets past it",
)
async def test_a_damaged_block_of_a_table_is_healed_for_scans_too(tmp_path: Path) -> None:
    """B15: one bad block, and its partitions can never be compared again; a compaction ends the node."""
    async with rig("damaged block", tmp_path, nodes=3) as cluster:
        cluster.recorder.start()
        await asyncio.sleep(4.0)
        await cluster.recorder.stop()
        await cluster.stop(0)
        table = max(cluster.data_dir(0).rglob("*.sst"), key=lambda file: file.stat().st_size)
        held = bytearray(table.read_bytes())
        held[200] ^= 1  # in its first block, which holds records
        table.write_bytes(held)
        await cluster.restart(0)
        repair = "/v1/repair?all=true&wait=true&timeout=30s"
        await cluster.document(0, repair, "POST")
        await cluster.recorder.read_all()
        done = await cluster.document(0, repair, "POST")
    print(f"\n{done}")
    assert done["failed"] == []
