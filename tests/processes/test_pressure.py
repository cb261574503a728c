"""What `make pressure` prints, in short: the mechanism helps, and without it the same load hurts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.processes.pressure import OFF, flood, overload

pytestmark = [pytest.mark.slow, pytest.mark.processes, pytest.mark.timeout(180)]


async def test_under_three_times_its_load_a_node_does_what_it_can(tmp_path: Path) -> None:
    for folder in ("with", "control"):
        (tmp_path / folder).mkdir()
    with_it = await overload(tmp_path / "with", {}, 5.0)
    control = await overload(tmp_path / "control", OFF, 5.0)
    assert with_it["offered / peak before"] > 2.5
    assert with_it["goodput / lower peak"] > 0.5
    assert with_it["shed"] > with_it["gave up"], "who is not served is told so"
    assert with_it["normal again after, s"] < 10
    assert control["gave up"] > control["shed"] == 0
    assert control["served p99, ms"] > with_it["served p99, ms"]


async def test_a_flood_in_the_background_leaves_room_for_others(tmp_path: Path) -> None:
    for folder in ("with", "control"):
        (tmp_path / folder).mkdir()
    with_it = await flood(tmp_path / "with", "background", 5.0)
    control = await flood(tmp_path / "control", "normal", 5.0)
    assert with_it["clients served, share"] > 0.8
    assert control["clients served, share"] < with_it["clients served, share"]
