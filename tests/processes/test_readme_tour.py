"""The tour of README.md, typed line by line into a shell, against real processes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.processes,
    pytest.mark.timeout(120),
    pytest.mark.skipif(shutil.which("curl") is None, reason="the tour is typed with curl, which is not here"),
]

README = Path(__file__).parents[2] / "README.md"
_TOUR = re.compile(r"^## Five minutes$(.*?)^### ", re.MULTILINE | re.DOTALL)
_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MARK = "@@"


def commands() -> list[str]:
    tour = _TOUR.search(README.read_text())
    assert tour is not None
    return [line for block in _BLOCK.findall(tour[1]) for line in block.splitlines()]


@dataclass
class Shell:
    """bash in a directory of its own, where `kvstore dev` makes its cluster."""

    directory: Path
    ports: dict[str, str] = field(default_factory=dict)

    def run(self, script: str) -> str:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.directory,
            env={"PATH": path, "HOME": str(self.directory)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=90,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def type_in(self, lines: list[str]) -> list[str]:
        """What each line printed. A line that fails ends the shell: everything in the README works."""
        script = ["set -e"]
        for line in lines:
            for port in self.ports:
                line = line.replace(f"127.0.0.1:{port}", f"127.0.0.1:{self.ports[port]}")
            script += [f"echo; echo {_MARK}", line.replace("curl -", "curl -s -", 1)]
        return self.run("\n".join(script)).split(f"\n{_MARK}\n")[1:]


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    shell.run("kvstore dev up")
    try:
        nodes = json.loads(shell.run("kvstore dev status -o json"))
        shell.ports = {str(8001 + i): node["http"].rpartition(":")[2] for i, node in enumerate(nodes)}
        yield shell
    finally:
        shell.run("kvstore dev down")


def test_every_line_of_the_tour_does_what_is_written(shell: Shell) -> None:
    lines = commands()
    printed = dict(zip(lines, shell.type_in(lines), strict=True))

    def said(*words: str) -> str:
        (line,) = [line for line in lines if all(word in line for word in words)]
        return printed[line]

    put = said("--data 'hello'")
    assert put.startswith("HTTP/1.1 204")
    assert re.search(r"^KV-Acks: [23]/3\r?$", put, re.MULTILINE)
    read = said("curl -i http", "8002")
    assert read.startswith("HTTP/1.1 200")
    assert "Content-Type: text/plain" in read
    assert read.rstrip().endswith("hello")
    assert said("hello again").startswith("HTTP/1.1 204")

    siblings = said("Accept: application/json")
    assert siblings.startswith("HTTP/1.1 300")
    listed = json.loads(siblings.split("\n\n", 1)[1])["siblings"]
    assert {b64decode(sibling["value_base64"]) for sibling in listed} == {b"from bob", b"from carl"}
    for silent in ("from bob", "from carl", "from both"):
        assert not said(silent).strip()  # no problem document

    for line in lines:
        if status := re.search(r"# (\d{3})$", line):
            assert printed[line].startswith(f"HTTP/1.1 {status[1]}"), line
    assert re.search(r"^KV-Acks: [23]/3\r?$", said("still here"), re.MULTILINE)
    assert " pending" in said("kvstore hints")
    assert said("kvstore explain users dan").count("1 value, digest") >= 2


def test_a_write_that_is_sent_again_is_one_write(shell: Shell) -> None:
    twice = [line for line in commands() if "Idempotency-Key" in line]
    assert len(twice) == 2
    *silent, read = shell.type_in([*twice, "curl -i http://127.0.0.1:8003/v1/kv/orders/17"])
    assert not "".join(silent).strip()
    assert read.startswith("HTTP/1.1 200")
    assert read.rstrip().endswith("once")
