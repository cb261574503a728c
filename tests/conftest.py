"""What all tests share: Hypothesis profiles, and which tests must not run beside each other.

The profile is chosen by HYPOTHESIS_PROFILE:

`default` draws the same examples on every run, so that a red run stays red, and as many as keep
tests/core under 25 s. `thorough` draws new ones and more; a failure prints the blob that replays it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("default", deadline=None, max_examples=60, derandomize=True, print_blob=True)
settings.register_profile("thorough", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

_CLI = Path(__file__).parent / "cli"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Real processes share one worker: two at once would take each other's ports and time."""
    for item in items:
        if item.get_closest_marker("processes") or _CLI in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("processes"))
