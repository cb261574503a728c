"""Never a signal to a process that is not ours, whatever the files say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kvstore.cli import processes
from kvstore.cli.processes import Process, State

SLEEP = "import time; time.sleep(60)"


def until(condition: object, what: str) -> None:
    assert callable(condition)
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


@contextmanager
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """Somebody else's process. For a moment after its start the system tells no command line of it."""
    with subprocess.Popen([sys.executable, "-c", SLEEP]) as process:
        try:
            until(lambda: SLEEP in getattr(processes.look_at(process.pid), "command", ""), "its command line")
            yield process
        finally:
            process.kill()


def started(place: Path, code: str = SLEEP) -> Process:
    return processes.start(
        ["-c", code, str(place)],
        mark=str(place),
        log=place / "log",
        pid_file=place / "pid",
        environment=os.environ,
    )


def test_a_life(tmp_path: Path) -> None:
    process = started(tmp_path)
    assert processes.remembered(tmp_path / "pid") == process
    assert process.state() is State.RUNNING
    process.send(signal.SIGSTOP)
    until(lambda: process.state() is State.PAUSED, "paused")
    process.send(signal.SIGCONT)
    until(lambda: process.state() is State.RUNNING, "running again")
    assert processes.stop([process], grace_s=10) == []
    assert process.state() is State.GONE
    assert process.send(signal.SIGTERM) is False


def test_a_paused_process_can_be_stopped(tmp_path: Path) -> None:
    """A handler of its own, as nodes have: paused, it would not run before the process goes on."""
    process = started(
        tmp_path,
        "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit()); print('x', flush=True); "
        + SLEEP,
    )
    until(lambda: "x" in (tmp_path / "log").read_text(), "its handler")
    process.send(signal.SIGSTOP)
    assert processes.stop([process], grace_s=10) == []


def test_who_ignores_sigterm_gets_sigkill(tmp_path: Path) -> None:
    process = started(
        tmp_path,
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); " + SLEEP,
    )
    until(lambda: "deaf" in (tmp_path / "log").read_text(), "deaf")
    assert processes.stop([process], grace_s=0.1) == [process]
    assert process.state() is State.GONE


def test_an_id_that_now_belongs_to_somebody_else_is_not_ours(tmp_path: Path) -> None:
    """The system gave the id of a dead node to another program, which was started later."""
    with bystander() as other:
        seen = processes.look_at(other.pid)
        assert seen is not None
        ours = Process(other.pid, started="1", mark=SLEEP)
        assert ours.state() is State.GONE
        assert ours.send(signal.SIGKILL) is False
        assert processes.stop([ours], grace_s=0) == []
        assert other.poll() is None

        same_moment = Process(other.pid, seen.started, mark=str(tmp_path))
        assert same_moment.state() is State.GONE, "its command line is not ours either"
        assert Process(other.pid, seen.started, mark=SLEEP).state() is State.RUNNING


def test_a_process_that_ended_is_gone_before_anybody_asked_for_its_exit_code(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "pass"]) as child:
        until(lambda: Path(f"/proc/{child.pid}/stat").read_text().split()[2] == "Z", "a zombie")
        assert processes.look_at(child.pid) is None


@pytest.mark.parametrize("content", ["", "{", "[]", "12", '{"pid": "x"}', '{"pid": 1, "started": "1"}'])
def test_a_damaged_pid_file_names_nobody(tmp_path: Path, content: str) -> None:
    (tmp_path / "pid").write_text(content)
    assert processes.remembered(tmp_path / "pid") is None


def test_a_pid_file_is_what_state_is_read_from(tmp_path: Path) -> None:
    process = started(tmp_path)
    assert json.loads((tmp_path / "pid").read_text())["pid"] == process.pid
    processes.stop([process], grace_s=10)


def test_without_proc_ps_says_the_same(tmp_path: Path) -> None:
    """macOS has no /proc."""
    process = started(tmp_path)
    try:
        seen = processes.ask_ps(process.pid)
    except FileNotFoundError:
        pytest.skip("this machine has no ps")
    finally:
        processes.stop([process], grace_s=10)
    assert seen is not None
    assert seen.state is State.RUNNING
    assert str(tmp_path) in seen.command
    assert processes.ask_ps(process.pid) is None
