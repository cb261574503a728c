"""The project's own benchmarks, as far as they are rules: loads, recovery, growth, formulas of scale."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from benchmarks.__main__ import failures
from benchmarks.growth import sizes
from benchmarks.growth_fill import fill_stopped
from benchmarks.loader import FORM, Paths, Workload, fill, load
from benchmarks.processes import Processes, free_ports
from benchmarks.progress import Progress
from benchmarks.scale import TOLERANCE, deviations
from benchmarks.scale_on_paper import N, formula, homes_of, sample_member
from benchmarks.scale_simulated import INTERVAL_SIMULATED_S, measured
from benchmarks.suite import SHORT, VALUE_BYTES, Suite, as_round, figure
from benchmarks.trouble import recovery_s
from kvstore.bench.result import Case, Ratio
from kvstore.client import AsyncClient
from kvstore.core.layout import first_layout
from kvstore.testing import LocalCluster

STORE = """
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Store(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # a head and its end in one packet, or each waits for a delayed acknowledgement
    values = {}
    def do_GET(self):
        self.answer(200 if self.path.partition("?")[0] in self.values else 404)
    def do_PUT(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        form = self.headers.get("Content-Type", "").startswith("application/x-www-form-urlencoded")
        self.values[self.path] = body
        self.answer(201 if form == body.startswith(b"value=") else 400)
    def answer(self, status):
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *_):
        pass

Store.values["/ready"] = b""
ThreadingHTTPServer.request_queue_size = 128  # of 5, one more is dropped, and tried again after seconds
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Store).serve_forever()
"""


@pytest.mark.processes
@pytest.mark.parametrize(
    ("tool", "paths"),
    [
        ("wrk", Paths("/v2/k", reads="?q=100%25", field="value", digits=5)),
        ("python", Paths("/v2/k", reads="?q=100%25", field="value", digits=5)),
    ],
)
def test_both_tools_ask_for_the_same_keys_in_the_same_way(tool: str, paths: Paths, tmp_path: Path) -> None:
    if tool == "wrk" and not shutil.which("wrk"):
        pytest.skip("wrk is not installed")
    (tmp_path / "store.py").write_text(STORE)
    ports = free_ports(2)
    with Processes("/ready", (200,)) as stores:
        for port in ports:
            stores.start(port, [str(tmp_path / "store.py"), str(port)], tmp_path / f"{port}.log", {})
        stores.wait_ready()
        for port in ports:
            fill([port], Workload(paths, 20, 10, 4))
        for value_bytes in (0, 10):
            got = load(ports, Workload(paths, 20, value_bytes, 3), 1, tool=tool, seed=1)
            assert got.errors == 0
            assert got.requests > 50
            assert got.latency_us.total() >= got.requests
            assert 0 < got.percentile_ms(50) <= got.percentile_ms(99) < 1000
        missing = load(ports, Workload(paths, 5000, 0, 2), 1, tool=tool, seed=1)
        assert missing.errors > 10, "keys that are not there are errors, not speed"


def test_a_form_and_options_are_written_as_the_store_wants_them() -> None:
    paths = Paths("/v2/keys/k", reads="?quorum=true", field="value", digits=3)
    assert paths.read(7) == b"GET /v2/keys/k007?quorum=true HTTP/1.1"
    head, body = paths.write(7, b"abc", b"")
    assert head == f"PUT /v2/keys/k007 HTTP/1.1\r\nContent-Type: {FORM}".encode()
    assert body == b"value=abc"
    assert Paths("/kv/k").write(7, b"abc", b"ctx") == (b"PUT /kv/k7 HTTP/1.1\r\nKV-Context: ctx", b"abc")


# --- trouble --------------------------------------------------------------------------------------------


def steps(*p99_ms: float) -> list[dict[str, float]]:
    return [{"at_s": i / 2, "p99_ms": value} for i, value in enumerate(p99_ms)]


@pytest.mark.parametrize(
    ("p99_ms", "back_s"),
    [
        ((5, 5, 5, 5, 5, 5, 5, 5), 0.0),  # killed at 2.0 s, and nobody noticed
        ((5, 5, 5, 5, 900, 400, 8, 5), 1.0),
        ((5, 5, 5, 40, 900, 39, 30, 5), 0.5),  # as rough as it was before
        ((5, 5, 5, 5, 900, 8, 900, 5, 5, 5, 5, 5), 1.5),  # once below is not back
        ((5, 5, 5, 5, 900, 900, 900, 900), 2.0),  # never, as far as one saw
    ],
)
def test_recovery_is_when_latency_stays_down(p99_ms: tuple[float, ...], back_s: float) -> None:
    assert recovery_s(steps(*p99_ms), 2.0) == back_s


# --- collecting -----------------------------------------------------------------------------------------


def test_sides_take_turns_and_ratios_are_of_one_round(capsys: pytest.CaptureFixture[str]) -> None:
    suite, order = Suite(SHORT, tool="python"), []

    def measure(name: str, per_s: float):  # type: ignore[no-untyped-def]
        def one(number: int) -> dict[str, float]:
            order.append(name)
            return {"per_s": per_s * (number + 1)}

        return one

    ours, theirs = suite.case("G", "ours"), suite.case("G", "theirs")
    suite.alternate([(ours, measure("a", 50.0)), (theirs, measure("b", 100.0))])
    assert order == ["a", "b", "b", "a", "a", "b"]
    suite.ratio("ours ÷ theirs", ours, theirs, bar=0.6)
    assert suite.result.ratios == [Ratio("ours ÷ theirs", [0.5, 0.5, 0.5], 0.6)]
    assert suite.result.ratios[0].verdict == "missed"
    assert figure(Case("x", "G", {}, [{"latency": {"all": {"p99_ms": 4.0}}}]), "p99_ms") == [4.0]
    assert "round 3" in capsys.readouterr().err


def test_a_measurement_of_wrk_is_a_round_like_any_other() -> None:
    from collections import Counter

    from benchmarks.loader import Measured

    found = as_round(Measured(2.0, 100, Counter(status=1), Counter({1000: 99, 50_000: 1})))
    assert found["per_s"] == 50.0
    assert found["failed"] == 1
    assert found["errors"] == {"status": 1}
    assert found["latency"]["all"]["p50_ms"] == pytest.approx(1.0, rel=0.01)
    assert found["latency"]["all"]["max_ms"] == pytest.approx(50.0, rel=0.01)


def test_failures_count_but_where_they_are_what_is_shown() -> None:
    suite = Suite(SHORT, tool="python")
    suite.case("G", "killed", failures_expected=True).rounds.append({"failed": 9})
    assert failures(suite.result) == 0
    suite.case("G", "calm").rounds.append({"failed": 2})
    assert failures(suite.result) == 2


# --- growth and scale -----------------------------------------------------------------------------------


def test_growth_goes_in_tens() -> None:
    assert sizes(10_000_000) == [10_000, 100_000, 1_000_000, 10_000_000]
    assert sizes(60_000) == [10_000, 60_000]


async def test_records_written_into_stopped_nodes_are_those_that_puts_leave(tmp_path: Path) -> None:
    async with LocalCluster(3, data_dir=tmp_path) as cluster:
        async with AsyncClient(cluster.endpoints) as client:
            await client.bucket("bench").put("user000000000000", b"v" * VALUE_BYTES)
        for name in cluster.names:
            await cluster.stop(name)
        for name in cluster.names:
            await fill_stopped(tmp_path / name, 1, 300)
        servers = [await cluster.start(name) for name in cluster.names]
        await cluster.ready()
        async with AsyncClient(cluster.endpoints) as client:
            bucket = client.bucket("bench")
            for number in (0, 1, 255, 299):
                found = await bucket.fetch(f"user{number:012}", r=3)
                assert len(found.value or b"") == VALUE_BYTES
            assert sum(server.node.coordinator.repairs for server in servers) == 0
            await bucket.put("user000000000255", b"new")
            assert await bucket.get("user000000000255") == b"new"
            assert await bucket.get("user000000000300") is None


def test_progress_tells_how_far_how_fast_and_how_long() -> None:
    line = Progress(1_000).line(250, 5.0)
    assert "[##########..............................]" in line
    assert "250 of 1,000 keys, 50 per s, 15 s left" in line


@pytest.mark.parametrize("nodes", [3, 4, 11])
def test_homes_on_paper_are_those_of_a_layout(nodes: int) -> None:
    layout = first_layout([sample_member(i) for i in range(nodes)])
    assert homes_of(nodes) == [list(walk[:N]) for walk in layout.walks]


@pytest.mark.parametrize("nodes", [4])
def test_the_formulas_of_scale_are_what_the_simulator_counts(nodes: int) -> None:
    found = deviations(
        formula(nodes, 200, interval_s=INTERVAL_SIMULATED_S), measured(nodes, 200, operations=400)
    )
    assert len(found) == 6
    assert all(abs(deviation) <= TOLERANCE for deviation in found.values()), json.dumps(found)


def test_gossip_grows_with_the_cluster_and_repair_does_not() -> None:
    small, large = formula(10, 100), formula(300, 100)
    assert 20 < large.gossip_bytes / small.gossip_bytes < 30
    assert large.repair_bytes < small.repair_bytes
    assert small.get_messages < large.get_messages < 4
