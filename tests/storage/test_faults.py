"""Disks that fail for real: in a process of its own, made by the kernel, not by us."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kvstore.errors import ConfigError
from kvstore.node.ports import Kind
from kvstore.storage.rocksdb import RocksStorage

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]
MOUNT = ["unshare", "--user", "--map-root-user", "--mount"]


def run(*command: str | Path) -> str:
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def child(scenario: str, directory: Path) -> list[str | Path]:
    return [sys.executable, "-m", "tests.storage.fault_child", scenario, directory]


def on_a_small_disk(scenario: str, directory: Path) -> str:
    """With `directory` on a file system of 24 MiB that only the child sees."""
    probe = [*MOUNT, "mount", "-t", "tmpfs", "tmpfs", str(directory)]
    if not shutil.which("unshare") or subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("needs user and mount namespaces (unshare --user --mount)")
    script = 'mount -t tmpfs -o size=24m tmpfs "$0" && exec "$@"'
    return run(*MOUNT, "sh", "-c", script, directory, *child(scenario, directory))


def test_a_disk_that_fills_up_costs_no_record_and_no_restart(tmp_path: Path) -> None:
    said = on_a_small_disk("full", tmp_path)
    assert "apply: no space left" in said  # the engine failed, not our look at the free space
    assert "recovered with" in said


def test_a_start_on_a_full_disk_says_so(tmp_path: Path) -> None:
    assert "make room on that disk" in on_a_small_disk("start_full", tmp_path)


def test_after_a_failed_write_nothing_is_taken_or_claimed(tmp_path: Path) -> None:
    assert "apply: write failed" in run(*child("write_error", tmp_path))


def test_after_a_failed_fsync_nothing_is_taken_or_claimed(tmp_path: Path) -> None:
    if not shutil.which("strace"):
        pytest.skip("needs strace, to make fdatasync fail")
    inject = ["-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO:when=40+"]
    traced = ["strace", "-f", "-qq", "-o", "/dev/null", *inject]
    if subprocess.run([*traced, "true"], capture_output=True).returncode:
        pytest.skip("strace may not trace here")
    said = run(*traced, *child("sync_error", tmp_path))
    assert "sync failed: IO error" in said
    synced = int(said.split("synced")[-1])

    storage = RocksStorage(tmp_path / "node")
    assert not storage.was_clean
    assert len(list(storage.scan(Kind.DATA, 1))) >= synced
    asyncio.run(storage.close())


def test_the_second_process_on_a_directory_is_told_who_the_first_is(tmp_path: Path) -> None:
    first = subprocess.Popen(
        list(map(str, child("hold", tmp_path))), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert first.stdout is not None
    assert first.stdout.readline() == b"open\n"
    with pytest.raises(ConfigError, match=rf"in use by process {first.pid}; stop that process"):
        RocksStorage(tmp_path / "node")
    first.communicate(b"", timeout=20)
    assert first.returncode == 0
    storage = RocksStorage(tmp_path / "node")  # and it was not disturbed
    assert storage.was_clean
    asyncio.run(storage.close())
