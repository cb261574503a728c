"""A data directory that was copied, with real processes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.processes import Processes, free_ports, start_cluster

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]

STOPS_ITSELF_WITHIN_S = 5.0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Processes]:
    with start_cluster(tmp_path) as nodes:
        nodes.wait_ready()
        yield nodes


def until_logged(log: Path, text: str) -> None:
    deadline = time.monotonic() + 30
    while not log.exists() or text not in log.read_text():
        assert time.monotonic() < deadline, f"{text!r} is not in {log}"
        time.sleep(0.02)


def test_a_clone_ends_itself_and_the_original_serves_on(cluster: Processes, tmp_path: Path) -> None:
    original = cluster.ports[0]
    cluster.kill(original)
    shutil.copytree(tmp_path / "n1", tmp_path / "clone")
    cluster.restart(original)
    cluster.wait_ready()

    arguments, _, settings, _ = cluster.starts[original]
    clone, rpc_port = free_ports(2)
    elsewhere = {
        "KVSTORE_DATA_DIR": str(tmp_path / "clone"),
        "KVSTORE_HTTP_LISTEN": f"127.0.0.1:{clone}",
        "KVSTORE_RPC_LISTEN": f"127.0.0.1:{rpc_port}",
    }
    log = tmp_path / "clone.log"
    cluster.start(clone, arguments, log, {**settings, **elsewhere})
    until_logged(log, "serving")
    deadline = time.monotonic() + STOPS_ITSELF_WITHIN_S
    while cluster.ended(clone) is None:
        assert time.monotonic() < deadline, "the clone still runs"
        time.sleep(0.02)
    text = log.read_text()
    assert cluster.ended(clone) == 2, text
    assert "another process runs with this node's identity" in text
    assert "empty data directory" in text
    assert "Traceback" not in text
    assert cluster.ended(original) is None
    assert cluster._ready(original)
