"""Budgets at the start, and what is left while it runs: with the limits of this very process."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kvstore.core.limits import DEFAULT_LIMITS, MIB
from kvstore.core.watermarks import Mark
from kvstore.errors import ConfigError
from kvstore.machine import Watch, check_budgets, usage


@pytest.fixture
def descriptors() -> Iterator[Any]:
    """Sets the soft limit; it is as it was afterwards."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield lambda soft: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_usage_is_that_of_this_process(tmp_path: Path) -> None:
    before = usage(tmp_path, 0)
    with ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(Path(os.devnull).open("rb"))
        assert usage(tmp_path, 0).descriptors_open == before.descriptors_open + 10
    kept = bytearray(64 * MIB)
    kept[::4096] = b"x" * len(kept[::4096])
    assert usage(tmp_path, 0).memory_bytes >= before.memory_bytes + 60 * MIB
    assert 0 < before.disk_free_bytes < 1 << 60
    assert usage(None, 123).memory_max_bytes == 123


def test_the_soft_limit_of_descriptors_is_raised_as_far_as_it_goes(descriptors: Any) -> None:
    descriptors(300)
    assert not [warning for warning in check_budgets(DEFAULT_LIMITS, MIB) if "descriptors" in warning]
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= 512 + 256


def test_too_few_descriptors_are_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (500, 500))
    (warning, *_) = check_budgets(DEFAULT_LIMITS, MIB)
    assert warning.startswith("500 descriptors are too few for connections_max=512: 220 clients fit")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 64))
    with pytest.raises(ConfigError, match="may open 64 files") as error:
        check_budgets(DEFAULT_LIMITS, MIB)
    assert "ulimit -n 792" in error.value.advice


def test_little_memory_is_told_with_the_remedy() -> None:
    little = replace(DEFAULT_LIMITS, memory_max_bytes=200 * MIB)
    assert [w for w in check_budgets(little, 64 * MIB) if w.startswith("200 MiB of memory are little")]


def test_marks_are_reported_when_they_are_crossed_and_connections_bounded(
    tmp_path: Path, descriptors: Any
) -> None:
    told: list[str] = []
    free = usage(tmp_path, 0).disk_free_bytes
    full = replace(
        DEFAULT_LIMITS,
        disk_free_warn_bytes=free * 4,
        disk_free_background_bytes=free * 3,
        disk_free_read_only_bytes=free * 2,
    )
    watch = Watch(full, tmp_path, lambda event, **fields: told.append(event))
    for _ in range(2):
        assert watch.look(0).marks["disk"] is Mark.READ_ONLY
    assert told == ["disk: used up, only reads and deletes from now on"]
    watch = Watch(DEFAULT_LIMITS, None, lambda event, **fields: told.append(event))
    assert watch.look(0).marks["disk"] is Mark.NORMAL
    is_open = usage(None, 0).descriptors_open
    descriptors(is_open + 34)
    looked = watch.look(connections=5)
    assert looked.connections_max == 15, "the five that are there, and those that fit beside what is kept"
    assert told[-1] == "fewer connections of clients"
    descriptors(is_open + 2000)
    assert watch.look(5).connections_max == DEFAULT_LIMITS.connections_max
