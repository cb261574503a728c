"""The local cluster, on stand-ins for nodes: what is started, found again, and never harmed."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvstore.cli import processes
from kvstore.cli.dev_cluster import DevCluster, find, free_ports, locked
from kvstore.cli.processes import State
from kvstore.config import load
from kvstore.errors import ConfigError
from tests.cli.conftest import Type
from tests.cli.test_processes import bystander, until

STUB = str(Path(__file__).with_name("stub_node.py"))


@pytest.fixture
def cluster(place: Path) -> Iterator[DevCluster]:
    """Three stand-ins in ./.dev, not started."""
    made = DevCluster.create(place / ".dev", 3)
    made.program = [STUB]
    yield made
    processes.stop(made.running(), grace_s=5)


@pytest.fixture
def running(cluster: DevCluster) -> DevCluster:
    for node in cluster.nodes:
        assert cluster.start(node)
    try:
        until(lambda: all(map(cluster.ready, cluster.nodes)), "all ready")
    except AssertionError:
        told = [(node, cluster.state(node), cluster.log(node).read_text()) for node in cluster.nodes]
        pytest.fail(f"not all ready: {told}")
    return cluster


def test_nodes_lie_in_three_zones_and_each_has_its_own_ports(place: Path) -> None:
    made = DevCluster.create(place / ".dev", 5)
    assert [node.name for node in made.nodes] == ["n1", "n2", "n3", "n4", "n5"]
    assert [node.zone for node in made.nodes] == ["z1", "z2", "z3", "z1", "z2"]
    assert len({address for node in made.nodes for address in (node.http, node.rpc)}) == 10
    assert DevCluster.open(place / ".dev").nodes == made.nodes


def test_the_key_is_made_once_and_for_the_owner_only(place: Path) -> None:
    DevCluster.create(place / ".dev", 1)
    file = place / ".dev" / "cluster.key"
    first = file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    DevCluster.create(place / ".dev", 1)
    assert file.read_text() == first


def test_what_a_node_is_told_is_what_a_node_accepts(running: DevCluster) -> None:
    for node in running.nodes:
        config = load(environment={}, file=running.home(node) / "node.toml")
        assert (config.node.name, config.node.zone, config.node.host) == (node.name, node.zone, node.name)
        assert config.node.http_listen == node.http
        assert set(config.node.seeds) == {n.rpc for n in running.nodes if n is not node}
        assert (config.bucket.n, config.node.bootstrap_expect) == (3, 3)
        assert config.warnings == ()


def test_up_finds_what_runs_and_says_where(running: DevCluster, type_: Type) -> None:
    result = type_("dev", "up")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"export KVSTORE_NODES={running.urls}\n"
    assert "3 nodes are ready, 0 just started" in result.stderr
    assert "kvstore demo" in result.stderr


def test_up_from_a_directory_below_finds_the_same_cluster(
    running: DevCluster, type_: Type, place: Path
) -> None:
    (place / "below").mkdir()
    os.chdir(place / "below")
    assert running.urls in type_("dev", "up").stdout
    assert not (place / "below" / ".dev").exists()


def test_up_does_not_change_the_size(running: DevCluster, type_: Type) -> None:
    result = type_("dev", "up", "--size", "5")
    assert result.exit_code == 2
    assert "has 3 nodes, --size is 5" in result.stderr
    assert "dev down --wipe" in result.stderr


def test_status(running: DevCluster, type_: Type) -> None:
    type_("dev", "kill", "n2")
    type_("dev", "pause", "n3")
    rows = json.loads(type_("dev", "status", "-o", "json").stdout)
    assert [row["state"] for row in rows] == ["ready", "stopped", "paused"]
    assert rows[1]["pid"] is None
    head, *lines = type_("dev", "status").stdout.splitlines()
    assert head.split() == ["node", "zone", "state", "pid", "http", "rpc"]
    assert [line.split()[2] for line in lines] == ["ready", "stopped", "paused"]


def test_kill_pause_resume(running: DevCluster, type_: Type) -> None:
    first, second, third = running.nodes
    assert type_("dev", "kill", "n1").exit_code == 0
    assert running.state(first) is State.GONE
    assert type_("dev", "pause", "n2").exit_code == 0
    until(lambda: running.state(second) is State.PAUSED, "paused")
    assert not running.ready(second, timeout_s=0.05)
    assert type_("dev", "resume", "n2").exit_code == 0
    until(lambda: running.ready(second), "resumed")
    assert running.state(third) is State.RUNNING


@pytest.mark.parametrize("verb", ["kill", "pause", "resume"])
def test_who_does_not_run_cannot_be_sent_anything(cluster: DevCluster, type_: Type, verb: str) -> None:
    result = type_("dev", verb, "n1")
    assert result.exit_code == 5
    assert result.stderr == "error: n1 does not run\nhint: start it: kvstore dev start n1\n"


def test_an_unknown_node_is_refused_with_those_there_are(cluster: DevCluster, type_: Type) -> None:
    result = type_("dev", "kill", "n9")
    assert result.exit_code == 3
    assert "the nodes are n1, n2, n3" in result.stderr


def test_down_keeps_data_and_wipe_removes_them(running: DevCluster, type_: Type, place: Path) -> None:
    data = running.home(running.nodes[0]) / "data"
    data.mkdir()
    (data / "file").write_text("acknowledged")
    result = type_("dev", "down")
    assert (result.exit_code, result.stderr) == (0, "stopped 3 nodes\n")
    assert not running.running()
    assert (data / "file").read_text() == "acknowledged"

    assert type_("dev", "down", "--wipe").exit_code == 0
    assert not (place / ".dev").exists()


def test_down_stops_a_paused_node_and_kills_a_stubborn_one(cluster: DevCluster, type_: Type) -> None:
    first, second, _ = cluster.nodes
    cluster.home(first).mkdir()
    (cluster.home(first) / "stubborn").write_text("")
    for node in (first, second):
        cluster.start(node)
        until(lambda node=node: cluster.ready(node), "ready")
    type_("dev", "pause", "n2")
    assert processes.stop(cluster.running(), grace_s=0.5) == [cluster.process(first)]
    assert not cluster.running()


def test_down_twice_and_down_where_nothing_is(cluster: DevCluster, type_: Type) -> None:
    assert type_("dev", "down").stderr == "stopped 0 nodes\n"
    assert type_("dev", "down", "--wipe").exit_code == 0
    result = type_("dev", "down")
    assert (result.exit_code, result.stderr) == (0, "no cluster in .dev, nothing to stop\n")


def test_wipe_leaves_alone_what_it_did_not_make(cluster: DevCluster, type_: Type, place: Path) -> None:
    (place / ".dev" / "notes.txt").write_text("mine")
    type_("dev", "down", "--wipe")
    assert [path.name for path in (place / ".dev").iterdir()] == ["notes.txt"]


def test_a_stale_pid_file_harms_nobody(cluster: DevCluster, type_: Type) -> None:
    """The machine was restarted: the id of n1 belongs to somebody else now."""
    home = cluster.home(cluster.nodes[0])
    home.mkdir()
    with bystander() as other:
        (home / "pid").write_text(json.dumps({"pid": other.pid, "started": "1", "mark": str(home)}))
        assert type_("dev", "kill", "n1").exit_code == 5
        assert type_("dev", "down").stderr == "stopped 0 nodes\n"
        assert other.poll() is None


def test_a_node_that_ends_at_once_is_told_with_its_last_words(cluster: DevCluster, type_: Type) -> None:
    home = cluster.home(cluster.nodes[1])
    home.mkdir()
    (home / "broken").write_text("")
    node = cluster.nodes[1]
    cluster.start(node)
    until(lambda: cluster.state(node) is State.GONE, "ended")
    assert type_("dev", "logs", "n2").stdout == "n2 | error: no cluster key\n"


def test_a_taken_port_is_replaced_and_remembered(cluster: DevCluster) -> None:
    node = cluster.nodes[0]
    before, port = node.http, int(node.http.rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)):
        cluster.start(node)
        until(lambda: cluster.ready(node), "ready elsewhere")
    assert node.http != before
    assert DevCluster.open(cluster.directory).nodes[0].http == node.http


def test_ports_that_are_taken_are_passed_over() -> None:
    first = free_ports(20_000, 2)
    with socket.create_server(("127.0.0.1", first[0])):
        assert free_ports(first[0], 1)[0] > first[0]
    assert free_ports(first[0], 1, but_not={first[0]})[0] > first[0]


def test_logs_are_named_by_node_and_limited(running: DevCluster, type_: Type) -> None:
    for node in running.nodes:
        with running.log(node).open("a") as log:
            log.write("second line\n")
    assert type_("dev", "logs", "-n", "1").stdout.splitlines() == [
        f"{name} | second line" for name in ("n1", "n2", "n3")
    ]
    assert type_("dev", "logs", "n2").stdout.splitlines() == ["n2 | n2 listens", "n2 | second line"]


def test_two_at_once_are_refused(cluster: DevCluster, type_: Type) -> None:
    with (cluster.directory / "lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        result = type_("dev", "down")
    assert result.exit_code == 2
    assert "another `kvstore dev` is at work" in result.stderr
    with locked(cluster.directory):
        pass


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"format": 9, "nodes": []}', '{"format": 1, "nodes": [{"a": 1}]}']
)
def test_a_damaged_cluster_file_is_named(place: Path, content: str) -> None:
    (place / ".dev").mkdir()
    (place / ".dev" / "cluster.json").write_text(content)
    with pytest.raises(ConfigError, match=r"cluster\.json"):
        find(place)


def test_signals_of_this_terminal_do_not_reach_the_nodes(running: DevCluster) -> None:
    """A Ctrl-C while `dev up` waits must not take down what ran before."""
    process = running.process(running.nodes[0])
    assert process is not None
    assert os.getpgid(process.pid) != os.getpgid(0)
    assert process.send(signal.SIGTERM)
