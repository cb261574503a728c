"""The local cluster with real nodes: up, the tour, a killed node, down, and everything is still there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kvstore.cli.app import app
from kvstore.cli.dev_cluster import DevCluster
from kvstore.cli.output import Exit
from kvstore.cli.processes import State

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]

Shell = Callable[..., Result]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working directory, with nothing in the environment that names another cluster."""
    before, environment = Path.cwd(), dict(os.environ)
    made = tmp_path_factory.mktemp("dev")
    os.chdir(made)
    for name in [name for name in os.environ if name.startswith("KVSTORE_")]:
        del os.environ[name]
    yield made
    os.chdir(before)
    os.environ.clear()
    os.environ.update(environment)


@pytest.fixture(scope="module")
def sh(place: Path) -> Iterator[Shell]:
    """`sh("dev", "up")`; a cluster is up. Stopped and removed in the end. Only the nodes are processes."""

    def run(*arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(app, arguments, prog_name="kvstore")
        assert result.exit_code == code, f"{arguments}: {result.output}"
        return result

    try:
        run("dev", "up", "--size", "3")
        yield run
    finally:
        run("dev", "down", "--wipe")
    assert not (place / ".dev").exists()


@pytest.fixture
def cluster(sh: Shell, place: Path) -> DevCluster:
    """All nodes ready, whatever the test before did."""
    cluster = DevCluster.open(place / ".dev")
    if not all(map(cluster.ready, cluster.nodes)):
        sh("dev", "up")
    return cluster


def serve(cluster: DevCluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A further node with the settings of n1, but for `arguments`, until it ends."""
    settings = cluster.home(cluster.node("n1")) / "node.toml"
    command = [sys.executable, "-m", "kvstore", "serve", "--config", str(settings), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_up_again_starts_nothing_and_prints_the_same(cluster: DevCluster, sh: Shell) -> None:
    before = [process.pid for process in cluster.running()]
    again = sh("dev", "up")
    assert again.stdout == f"export KVSTORE_NODES={cluster.urls}\n"
    assert "0 just started" in again.stderr
    assert [process.pid for process in cluster.running()] == before


def test_verbs_find_the_cluster_by_themselves(cluster: DevCluster, sh: Shell) -> None:
    sh("put", "found", "k", "v")
    assert sh("get", "found", "k").stdout == "v"
    assert sh("status").stdout.splitlines()[-1].startswith("3 of 3 nodes up")
    assert sh("healthcheck", "--url", cluster.nodes[0].url).stdout == "ready\n"


def test_a_killed_node_is_missed_by_nobody_and_comes_back(cluster: DevCluster, sh: Shell) -> None:
    sh("dev", "kill", "n2")
    assert cluster.state(cluster.node("n2")) is State.GONE
    sh("put", "without", "n2", "written")
    assert sh("get", "without", "n2").stdout == "written"
    states = {row["node"]: row["state"] for row in json.loads(sh("dev", "status", "-o", "json").stdout)}
    assert states == {"n1": "ready", "n2": "stopped", "n3": "ready"}
    sh("dev", "start", "n2")
    assert cluster.ready(cluster.node("n2"), 2.0)


def test_a_paused_node_goes_on(cluster: DevCluster, sh: Shell) -> None:
    sh("dev", "pause", "n3")
    sh("put", "paused", "k", "v", "--timeout", "10")
    assert sh("get", "paused", "k", "--timeout", "10").stdout == "v"
    sh("dev", "resume", "n3")
    assert cluster.ready(cluster.node("n3"), 5.0)


def test_the_tour_shows_what_it_claims(cluster: DevCluster, sh: Shell) -> None:
    result = sh("demo", "-o", "json")
    told = result.stderr
    for claim in ("HTTP 300, KV-Siblings: 2", "milk, eggs, bread", "KV-Acks: 2/3", "all homes hold the same"):
        assert claim in told
    assert all(cluster.ready(node, 2.0) for node in cluster.nodes), "it leaves the cluster as it found it"
    assert len(json.loads(result.stdout)["steps"]) == 6


def test_a_tour_that_does_not_show_what_it_claims_fails(cluster: DevCluster, sh: Shell) -> None:
    """With last-write-wins there are no siblings to be shown."""
    sh("bucket", "set", "demo", "conflict=last-write-wins")
    try:
        result = sh("demo", code=1)
    finally:
        sh("bucket", "set", "demo", "conflict=siblings")
    assert "did not show that both values are there" in result.stderr


def test_the_tour_says_what_it_needs(cluster: DevCluster, sh: Shell) -> None:
    sh("dev", "kill", "n1")
    result = sh("demo", code=5)
    assert result.stderr == "error: n1 is not ready\nhint: kvstore dev up\n"


def test_a_node_that_cannot_start_says_why_and_nothing_new_is_left(cluster: DevCluster, sh: Shell) -> None:
    sh("dev", "down")
    data = cluster.home(cluster.node("n1")) / "data"
    kept = data.rename(data.with_name("kept"))
    data.write_text("not a directory")
    try:
        result = sh("dev", "up", code=5)
    finally:
        data.unlink()
        kept.rename(data)
    assert "n1 ended: " in result.stderr
    assert "is not a directory" in result.stderr
    assert "kvstore dev logs n1" in result.stderr
    assert not cluster.running()


def test_down_and_up_keep_what_was_written(cluster: DevCluster, sh: Shell) -> None:
    sh("put", "kept", "k", "still here")
    assert sh("dev", "down").stderr == "stopped 3 nodes\n"
    assert not cluster.running()
    sh("dev", "up")
    assert sh("get", "kept", "k").stdout == "still here"


def test_a_second_node_on_a_data_directory_is_refused_in_one_line(cluster: DevCluster) -> None:
    result = serve(cluster, "--http-listen", "127.0.0.1:0", "--rpc-listen", "127.0.0.1:0")
    assert result.returncode in (Exit.ERROR, Exit.USAGE)
    assert len([line for line in result.stderr.splitlines() if line.startswith("error: ")]) == 1
    assert "Traceback" not in result.stderr


def test_a_port_in_use_is_refused_in_one_line(cluster: DevCluster, place: Path) -> None:
    result = serve(cluster, "--data-dir", str(place / "elsewhere"), "--rpc-listen", "127.0.0.1:0")
    assert result.returncode in (Exit.ERROR, Exit.USAGE)
    assert cluster.node("n1").http in result.stderr
    assert "Traceback" not in result.stderr
