"""Processes that another run of this program started: sure that they are ours before anything is sent.

A process id alone is no name: the system gives it to somebody else once its process is gone. A
process counts as ours only if its start time and its command line are those that were written down.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import NamedTuple

POLL_S = 0.02


class State(Enum):
    GONE = "gone"
    RUNNING = "running"
    PAUSED = "paused"


class Seen(NamedTuple):
    """What the system says of a process id: when it started, in its own terms, and how it was called."""

    started: str
    command: str
    state: State


class Process(NamedTuple):
    """One that we started. `mark` occurs in its command line and in no other's."""

    pid: int
    started: str
    mark: str

    def state(self) -> State:
        seen = look_at(self.pid)
        if seen is None or seen.started != self.started or self.mark not in seen.command:
            return State.GONE
        return seen.state

    def send(self, number: signal.Signals) -> bool:
        """Whether it was there to be sent to."""
        if self.state() is State.GONE:
            return False
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)
            return True
        return False


def look_at(pid: int) -> Seen | None:
    """None if there is no such process, or if it has ended and only its exit code is left."""
    if not Path("/proc/self/stat").exists():
        return ask_ps(pid)
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    after_name = stat.rpartition(")")[2].split()  # the name before may hold spaces and brackets
    return _seen(started=after_name[19], letter=after_name[0], command=command)


def ask_ps(pid: int) -> Seen | None:
    """Where there is no /proc (macOS)."""
    columns = ["-o", "lstart=", "-o", "state=", "-o", "command="]
    command = ["ps", "-ww", "-p", str(pid), *columns]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=5)  # noqa: S603  (a number)
    parts = answer.stdout.split(maxsplit=6)  # "Mon Jan  5 10:00:00 2026 S command …"
    if answer.returncode != 0 or len(parts) < 7:
        return None
    return _seen(started=" ".join(parts[:5]), letter=parts[5][0], command=parts[6])


def _seen(*, started: str, letter: str, command: str) -> Seen | None:
    if letter in "ZX":
        return None
    return Seen(started, command, State.PAUSED if letter in "Tt" else State.RUNNING)


def start(
    arguments: list[str], *, mark: str, log: Path, pid_file: Path, environment: Mapping[str, str]
) -> Process:
    """A process of its own session, so that a Ctrl-C here does not reach it. Its output goes to `log`."""
    assert any(mark in argument for argument in arguments)
    with log.open("ab") as output:
        child = subprocess.Popen(  # noqa: S603  (this program itself)
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=dict(environment),
        )
    # Outlives us on purpose; without this, collecting the object warns about a process still running.
    child.returncode = 0
    process = Process(child.pid, _start_time(child.pid, mark), mark)
    temporary = pid_file.with_suffix(".new")
    temporary.write_text(json.dumps(process._asdict()))
    temporary.replace(pid_file)
    return process


def _start_time(pid: int, mark: str) -> str:
    """Waits until the command line is that of the program: for a moment after the start it is empty."""
    deadline_s = time.monotonic() + 5
    while (seen := look_at(pid)) is not None:
        if mark in seen.command or time.monotonic() > deadline_s:
            return seen.started
        time.sleep(0.001)
    return "ended at once"


def remembered(pid_file: Path) -> Process | None:
    """The process of a pid file; None if there is no file, or none of ours."""
    try:
        fields = json.loads(pid_file.read_text())
        return Process(int(fields["pid"]), str(fields["started"]), str(fields["mark"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def stop(processes: Iterable[Process], *, grace_s: float) -> list[Process]:
    """SIGTERM to all at once, SIGKILL to those that are left after `grace_s`; these are returned."""
    waiting = [process for process in processes if process.send(signal.SIGTERM)]
    for process in waiting:
        process.send(signal.SIGCONT)  # a paused one could not even end
    stubborn = wait_gone(waiting, grace_s)
    for process in stubborn:
        process.send(signal.SIGKILL)
    wait_gone(stubborn, 5.0)
    return stubborn


def wait_gone(processes: list[Process], deadline_s: float) -> list[Process]:
    """Those that are still there when `deadline_s` have passed."""
    deadline = time.monotonic() + deadline_s
    left = processes
    while True:
        left = [process for process in left if process.state() is not State.GONE]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(POLL_S)
