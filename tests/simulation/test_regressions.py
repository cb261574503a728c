"""Plans that failed once, made small: each has found a bug, and must not find it again.

Each file is a plan as `kvstore simulate --shrink --save` writes it, named by what went wrong.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from kvstore.simulation.campaign import run_plan
from kvstore.simulation.plan import Plan

FILES = sorted((Path(__file__).parent / "regressions").glob("*.json"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_has_not_come_back(file: Path) -> None:
    report = run_plan(Plan.from_lines(file.read_text().splitlines()))
    assert not report.violations, report.details


def test_there_are_some() -> None:
    assert FILES
