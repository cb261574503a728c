"""serve --processes: what each of several nodes is told; and real ones under one signal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from benchmarks.processes import free_ports
from kvstore.cli.serve_many import commands, settings_of
from kvstore.config import Config, load
from kvstore.errors import ConfigError
from kvstore.storage.directory import DataDirectory
from tests.cli.conftest import Type

KEY = "9f3c1e7a5b8d2046f1e0d9c8b7a695847362514ffeeddccbbaa0192837465564"
TOKEN = "a-token-that-nobody-guesses"


def config(**flags: Any) -> Config:
    given = {"name": "m1", "data_dir": "data", "host": "rack-7"} | flags
    return load(flags=given, environment={"KVSTORE_CLUSTER_KEY": KEY, "KVSTORE_CLIENT_TOKEN": TOKEN})


def test_nodes_have_numbers_of_their_own_and_share_the_host() -> None:
    own = settings_of(config(http_listen="127.0.0.1:7000", rpc_listen="127.0.0.1:7100", seeds="m2:7100"), 3)
    assert [each["name"] for each in own] == ["m1-1", "m1-2", "m1-3"]
    assert [each["http_listen"] for each in own] == ["127.0.0.1:7000", "127.0.0.1:7001", "127.0.0.1:7002"]
    assert [each["rpc_listen"] for each in own] == ["127.0.0.1:7100", "127.0.0.1:7101", "127.0.0.1:7102"]
    assert len({each["data_dir"] for each in own}) == 3
    assert {each["host"] for each in own} == {"rack-7"}
    everyone = "127.0.0.1:7100,127.0.0.1:7101,127.0.0.1:7102,m2:7100"
    assert {each["seeds"] for each in own} == {everyone}


def test_what_is_told_to_others_moves_with_the_ports() -> None:
    wild = config(
        http_listen="0.0.0.0:7000",
        rpc_listen="0.0.0.0:7100",
        advertise_http="m1.example:17000",
        advertise_rpc="m1.example:17100",
    )
    first, second = settings_of(wild, 2)
    assert (first["advertise_rpc"], second["advertise_rpc"]) == ("m1.example:17100", "m1.example:17101")
    assert second["advertise_http"] == "m1.example:17001"
    assert second["seeds"] == "m1.example:17100,m1.example:17101"


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        ({"http_listen": "127.0.0.1:0"}, "port 0"),
        ({"http_listen": "127.0.0.1:9000", "rpc_listen": "127.0.0.1:9002"}, "9000 to 9002"),
        ({"rpc_listen": "127.0.0.1:65534"}, "end above 65535"),
    ],
)
def test_ports_that_cannot_be_are_refused_before_anything_starts(flags: dict[str, str], what: str) -> None:
    with pytest.raises(ConfigError, match=what) as caught:
        settings_of(config(**flags), 3)
    assert caught.value.advice


def test_the_directory_of_a_node_that_ran_alone_is_not_left_behind_unseen(tmp_path: Path) -> None:
    DataDirectory(tmp_path / "data").release()
    with pytest.raises(ConfigError, match="is that of one node") as caught:
        settings_of(config(data_dir=str(tmp_path / "data")), 2)
    assert str(tmp_path / "data" / "1") in caught.value.advice


def test_each_is_started_with_the_flags_of_all_and_its_own_and_no_secret() -> None:
    (first,) = commands(Path("kv.toml"), {"n": "2", "name": "m1"}, [{"name": "m1-1", "rpc_listen": "a:1"}])
    assert first[1:] == [
        *("-m", "kvstore", "serve", "--config", "kv.toml"),
        *("--n", "2", "--name", "m1-1", "--rpc-listen", "a:1"),
    ]


def test_seeds_elsewhere_without_the_number_of_all_nodes_are_refused(type_: Type) -> None:
    arguments = ("serve", "--data-dir", "d", "--processes", "2", "--seeds", "127.0.0.1:9100")
    result = type_(*arguments, KVSTORE_CLUSTER_KEY=KEY)
    assert result.exit_code == 2
    assert "how many nodes are there together" in result.stderr
    assert "bootstrap_expect" in result.stderr


def test_more_copies_than_nodes_are_refused_with_the_remedy(type_: Type) -> None:
    result = type_("serve", "--data-dir", "d", "--processes", "2", KVSTORE_CLUSTER_KEY=KEY)
    assert result.exit_code == 2
    assert "n=2" in result.stderr


# --- real processes ---------------------------------------------------------------------------------


class Group:
    """Three nodes under one process. Leaving the block ends whatever is left, by process id."""

    def __init__(self, directory: Path) -> None:
        for base in iter(lambda: free_ports(1)[0] // 10 * 10, None):
            if _free(range(base, base + 6)):
                break
        self.http_ports = range(base, base + 3)
        self.log = directory / "log"
        environment = {k: v for k, v in os.environ.items() if not k.startswith("KVSTORE_")}
        environment["KVSTORE_CLUSTER_KEY"] = KEY
        flags = ["--data-dir", str(directory / "data"), "--name", "m", "--host", "h"]
        flags += ["--http-listen", f"127.0.0.1:{base}", "--rpc-listen", f"127.0.0.1:{base + 3}"]
        with self.log.open("wb") as out:
            self.parent = subprocess.Popen(
                [sys.executable, "-m", "kvstore", "serve", "--processes", "3", *flags],
                stdout=out,
                stderr=subprocess.STDOUT,
                env=environment,
            )
        self.children: list[int] = []

    def wait_ready(self) -> None:
        deadline_s = time.monotonic() + 60
        for port in self.http_ports:
            while not self._ready(port):
                assert self.parent.poll() is None, self.log.read_text()
                assert time.monotonic() < deadline_s, self.log.read_text()
                time.sleep(0.05)
        listed = Path(f"/proc/{self.parent.pid}/task/{self.parent.pid}/children").read_text()
        self.children = [int(pid) for pid in listed.split()]

    def _ready(self, port: int) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def ask(self, i: int, path: str, body: bytes | None = None) -> bytes:
        url = f"http://127.0.0.1:{self.http_ports[i]}{path}"
        request = urllib.request.Request(url, body, method="PUT" if body is not None else "GET")
        with urllib.request.urlopen(request, timeout=5) as answer:
            return bytes(answer.read())

    def gone(self) -> bool:
        """Whether no node is left."""
        deadline_s = time.monotonic() + 20
        while any(Path(f"/proc/{pid}").exists() for pid in self.children):
            if time.monotonic() > deadline_s:
                return False
            time.sleep(0.02)
        return True

    def end(self) -> None:
        for pid in (*self.children, self.parent.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.parent.wait(10)


def _free(ports: range) -> bool:
    import socket

    for port in ports:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return False
    return True


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    made = Group(tmp_path)
    try:
        made.wait_ready()
        yield made
    finally:
        if made.parent.poll() is None or made.children:
            made.end()


@pytest.mark.processes
@pytest.mark.timeout(120)
def test_three_nodes_form_one_cluster_on_one_host_and_one_signal_ends_all(group: Group) -> None:
    members = json.loads(group.ask(0, "/v1/cluster"))["members"]
    assert {member["name"] for member in members} == {"m-1", "m-2", "m-3"}
    assert {member["host"] for member in members} == {"h"}
    group.ask(0, "/v1/kv/b/k", b"value")
    assert group.ask(2, "/v1/kv/b/k") == b"value"
    assert len(group.children) == 3
    group.parent.send_signal(signal.SIGTERM)
    assert group.parent.wait(30) == 0, group.log.read_text()
    assert group.gone()


@pytest.mark.processes
@pytest.mark.timeout(120)
def test_one_that_ends_by_itself_ends_all_with_its_exit_code(group: Group) -> None:
    os.kill(group.children[1], signal.SIGKILL)
    assert group.parent.wait(30) == 128 + signal.SIGKILL
    assert "node m-2 ended with exit code 137; the others were stopped" in group.log.read_text()
    assert group.gone()
