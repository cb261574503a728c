"""What the process may use of the machine, and how much of it is left: descriptors, memory, disk.

Linux tells by /proc and the control groups; where these are missing, memory counts as unlimited.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from kvstore.core.limits import MIB, Limits
from kvstore.core.watermarks import Mark, Watermarks, connections_within
from kvstore.errors import ConfigError

ENGINE_FILES = 256  # storage/rocksdb_engine.py opens no more
DESCRIPTORS_MIN = 128  # an engine with few tables, a few peers, a few clients
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_UNLIMITED = 1 << 60
_GROUP_LIMITS = ("memory.max", "memory.limit_in_bytes")


class Usage(NamedTuple):
    """`memory_max_bytes`: 0 where there is no limit."""

    descriptors_open: int
    descriptors_max: int
    memory_bytes: int
    memory_max_bytes: int
    disk_free_bytes: int


def usage(data_dir: Path | None, memory_max_bytes: int) -> Usage:
    """As it is now: about 0.1 ms. `memory_max_bytes`: a setting, 0 for what the control group allows."""
    free_bytes = _UNLIMITED
    if data_dir is not None:
        with suppress(OSError):
            status = os.statvfs(data_dir)
            free_bytes = status.f_bavail * status.f_frsize
    return Usage(
        descriptors_open(),
        descriptors_max(),
        resident_bytes(),
        memory_max_bytes or _group_memory_bytes(),
        free_bytes,
    )


def descriptors_open() -> int:
    """Raises no OSError: where none is left to look with, all are open."""
    try:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a path each would take longer
    except OSError:
        return descriptors_max()


def descriptors_max() -> int:
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _UNLIMITED if soft == resource.RLIM_INFINITY else soft


def resident_bytes() -> int:
    with suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
    return 0


def check_budgets(limits: Limits, cache_bytes: int) -> list[str]:
    """Warnings, each with the remedy. Raises ConfigError where the node could not work at all.

    The soft limit of descriptors is raised first, as far as the hard one allows.
    """
    wanted = limits.connections_max + ENGINE_FILES + limits.descriptors_kept
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    allowed = descriptors_max()
    if allowed < DESCRIPTORS_MIN:
        raise ConfigError(
            f"this process may open {allowed} files, a node needs {DESCRIPTORS_MIN} at least",
            advice=f"ulimit -n {wanted}, LimitNOFILE= of systemd, or --ulimit nofile= of the container",
        )
    found = []
    if allowed < wanted:
        fit = connections_within(allowed, ENGINE_FILES, limits.connections_max, limits.descriptors_kept)
        found.append(
            f"{allowed} descriptors are too few for connections_max={limits.connections_max}: {fit} "
            f"clients fit beside all files of the engine; ulimit -n {wanted}, or lower connections_max"
        )
    memory = limits.memory_max_bytes or _group_memory_bytes()
    needed = cache_bytes + 160 * MIB  # an idle node, and its write buffers
    if 0 < memory < needed:
        found.append(
            f"{memory // MIB} MiB of memory are little for cache_bytes={cache_bytes // MIB} MiB: "
            f"allow {needed // MIB} MiB, or lower cache_bytes"
        )
    return found


def _group_memory_bytes() -> int:
    """Of the control group of this process, and of those around it; 0 for none."""
    found = [_UNLIMITED]
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers not in ("", "memory"):
                continue
            root = Path("/sys/fs/cgroup") / controllers
            group = root / path.lstrip("/")
            for place in (group, *group.parents):
                found += [limit for name in _GROUP_LIMITS if (limit := _number(place / name))]
                if place == root:
                    break
    smallest = min(found)
    return 0 if smallest >= _UNLIMITED else smallest


def _number(path: Path) -> int:
    with suppress(OSError, ValueError):
        return int(path.read_text())
    return 0


class Looked(NamedTuple):
    """`marks` and `whys` by resource; `connections_max`: as many clients as descriptors are left for."""

    usage: Usage
    marks: dict[str, Mark]
    whys: dict[str, str]
    connections_max: int


class Watch:
    """Looks when it is told to, and reports a mark when it is crossed. `data_dir`: None for no disk."""

    def __init__(self, limits: Limits, data_dir: Path | None, report: Callable[..., None]) -> None:
        self._limits, self._data_dir, self._report = limits, data_dir, report
        self._disk = Watermarks(
            warn=limits.disk_free_warn_bytes,
            no_growth=min(limits.disk_free_background_bytes, limits.disk_free_warn_bytes),
            read_only=min(limits.disk_free_read_only_bytes, limits.disk_free_background_bytes),
        )
        self._memory = Watermarks(warn=0.2, no_growth=0.1, read_only=0.05)  # shares of the limit
        self._descriptors = Watermarks(warn=limits.descriptors_kept, no_growth=0, read_only=0)
        self._connections_max = limits.connections_max

    def look(self, connections: int) -> Looked:
        """`connections`: of clients, that are open."""
        found = usage(self._data_dir, self._limits.memory_max_bytes)
        memory_free = 1.0
        if found.memory_max_bytes:
            memory_free = 1.0 - found.memory_bytes / found.memory_max_bytes
        descriptors_free = found.descriptors_max - found.descriptors_open
        whys = {
            "disk": f"{found.disk_free_bytes // MIB} MiB are free on the disk of {self._data_dir}",
            "memory": f"the process takes {found.memory_bytes // MIB} of {found.memory_max_bytes // MIB} MiB",
            "descriptors": f"{found.descriptors_open} of {found.descriptors_max} descriptors are open",
        }
        before = {"disk": self._disk.mark, "memory": self._memory.mark, "descriptors": self._descriptors.mark}
        marks = {
            "disk": self._disk.look(found.disk_free_bytes),
            "memory": self._memory.look(memory_free),
            "descriptors": self._descriptors.look(descriptors_free),
        }
        for name, mark in marks.items():
            if mark is not before[name]:
                what = {"disk": "make room on that disk", "memory": "allow more memory, or lower cache_bytes",
                        "descriptors": "raise ulimit -n"}[name]  # fmt: skip
                advice = what if mark else ""
                self._report(f"{name}: {_MEANING[mark]}", reason=whys[name], advice=advice)
        others = found.descriptors_open - connections
        fit = connections_within(
            found.descriptors_max, others, self._limits.connections_max, self._limits.descriptors_kept
        )
        if fit < self._connections_max:
            self._report("fewer connections of clients", most=fit, reason=whys["descriptors"])
        self._connections_max = fit
        return Looked(found, marks, whys, fit)


_MEANING = {
    Mark.NORMAL: "enough is left again",
    Mark.WARN: "running low",
    Mark.NO_GROWTH: "nearly used up, background work stops",
    Mark.READ_ONLY: "used up, only reads and deletes from now on",
}
