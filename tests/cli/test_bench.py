"""bench run, compare, report: against a real node, as far as a second of load shows it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Type

SHORT = ("--duration", "0.2", "--warm-up", "0.05", "--rounds", "2", "--keys", "50", "--value-bytes", "64")


@pytest.mark.parametrize(
    ("arguments", "kinds"),
    [
        (("--workload", "A", "--rate", "300"), {"read", "update"}),
        (("--workload", "F", "--connections", "4"), {"read", "modify"}),
        (("--workload", "E", "--connections", "2"), {"scan"}),
        (("--workload", "D", "--via", "client", "--connections", "4"), {"read"}),
        (("--workload", "F", "--via", "client", "--rate", "100"), {"read", "modify"}),
        (("--workload", "E", "--via", "client", "--connections", "2"), {"scan"}),
        (
            ("--workload", "A", "--via", "batch", "--connections", "2", "--batch-items", "5"),
            {"read", "update"},
        ),
        (("--workload", "A", "--via", "sync", "--connections", "2"), {"read", "update"}),
    ],
    ids=lambda value: "-".join(value[1:4:2]) if isinstance(value, tuple) else "",
)
def test_run_measures_what_it_is_told_to(kv: Type, arguments: tuple[str, ...], kinds: set[str]) -> None:
    result = kv("bench", "run", *SHORT, *arguments, "--n", "1", "-o", "json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert len(document["rounds"]) == 2
    for each in document["rounds"]:
        assert not each["failed"]
        assert each["per_s"] > 10
        assert each["latency"].keys() - {"all"} >= kinds
    assert document["settings"]["workload"] == arguments[1]


def test_a_run_is_written_compared_and_drawn(kv: Type, place: Path) -> None:
    run = kv("bench", "run", *SHORT, "--workload", "C", "--connections", "2", "--json", "a.json")
    assert run.exit_code == 0, run.output
    assert "C via http" in run.stdout
    assert "p99.9 ms" in run.stdout
    same = kv("bench", "compare", "a.json", "a.json", "--all")
    assert same.exit_code == 0
    assert "4 figures compared, 0 got worse" in same.stdout
    slower = json.loads(Path("a.json").read_text())
    for each in slower["cases"][0]["rounds"]:
        each["per_s"] /= 100  # beyond whatever a busy machine made of the two rounds
    Path("b.json").write_text(json.dumps(slower))
    worse = kv("bench", "compare", "a.json", "b.json")
    assert worse.exit_code == 1
    assert "-99.0%" in worse.stdout
    assert json.loads(kv("bench", "compare", "a.json", "b.json", "-o", "json").stdout)["regressions"] == 1
    assert kv("bench", "report", "a.json", "b.json", "--to", "out").exit_code == 0
    assert "C via http (b)" in (place / "out" / "index.html").read_text()


def test_a_node_that_is_not_there_ends_it_before_anything_is_measured(type_: Type) -> None:
    result = type_("bench", "run", *SHORT, KVSTORE_NODES="http://127.0.0.1:1")
    assert result.exit_code == 5
    assert "127.0.0.1:1" in result.stderr


def test_operations_that_fail_are_counted_and_end_in_exit_code_1(type_: Type) -> None:
    result = type_("bench", "run", *SHORT, "--no-fill", "-o", "json", KVSTORE_NODES="http://127.0.0.1:1")
    assert result.exit_code == 1
    (first, _) = json.loads(result.stdout)["rounds"]
    assert set(first["errors"]) == {"ConnectionRefusedError"}
    assert first["per_s"] == 0


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("--workload", "Z"), "no workload 'Z'"),
        (("--via", "sync", "--rate", "5"), "closed loop only"),
        (("--via", "batch", "--workload", "E"), "gets and puts only"),
        (("--processes", "9", "--connections", "3"), "9 processes share 3 connections"),
        (("--rate", "0"), "--rate"),
    ],
)
def test_what_makes_no_sense_is_refused(kv: Type, arguments: tuple[str, ...], what: str) -> None:
    result = kv("bench", "run", *SHORT, *arguments)
    assert result.exit_code in (1, 2)
    assert what in result.stderr


def test_missing_packages_are_named_with_the_remedy(kv: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    run = kv("bench", "run", *SHORT, "--workload", "C", "--connections", "1", "--json", "a.json")
    assert run.exit_code == 0, run.output
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    undrawn = kv("bench", "report", "a.json", "--to", "out")
    assert undrawn.exit_code == 2
    assert "pip install 'quorum-kvstore[bench]'" in undrawn.stderr
    monkeypatch.setattr("kvstore.bench.recording.HdrHistogram", None)
    unmeasured = kv("bench", "run", *SHORT)
    assert unmeasured.exit_code == 2
    assert "hdrhistogram" in unmeasured.stderr


def test_a_file_that_is_no_result_is_told(type_: Type, place: Path) -> None:
    (place / "x.json").write_text("{}")
    result = type_("bench", "compare", "x.json", "x.json")
    assert result.exit_code == 2
    assert "x.json is no result of a benchmark" in result.stderr
