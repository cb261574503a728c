"""import and export as a user types them, against a real node."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Type
from tests.cli.test_processes import until


def lines(count: int, *, size: int = 10) -> str:
    return "".join(json.dumps({"key": f"k{i:05}", "value": f"{i:0{size}}"}) + "\n" for i in range(count))


def exported(kv: Type, bucket: str) -> list[dict[str, object]]:
    result = kv("export", bucket)
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_what_is_imported_is_exported(kv: Type, place: Path) -> None:
    (place / "in.jsonl").write_text(lines(700))
    result = kv("import", "bulk", "in.jsonl", "-o", "json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout) | {"took_s": 0} == {
        "imported": 700,
        "total": 700,
        "failed": [],
        "took_s": 0,
    }
    assert [(line["key"], line["value"]) for line in exported(kv, "bulk")] == [
        (f"k{i:05}", f"{i:010}") for i in range(700)
    ]
    assert not (place / "in.jsonl.import-state").exists()


@pytest.mark.parametrize("name", ["out.jsonl", "out.msgpack"])
def test_types_metadata_siblings_and_any_bytes_survive_the_round_trip(
    kv: Type, place: Path, name: str
) -> None:
    records = [
        {"key": "doc", "value": {"a": [1, 2]}},
        {"key": "page", "value": "<p>", "content_type": "text/html", "meta": {"by": "ann"}},
        {"key_base64": "/w==", "value_base64": "AP8="},
        {"key": "conflict", "siblings": [{"value": "one"}, {"value": "two", "content_type": "text/x"}]},
    ]
    source = "".join(json.dumps(record) + "\n" for record in records)
    first, second = f"from-{name}", f"to-{name}"
    assert kv("import", first, "-", stdin=source).exit_code == 0
    assert kv("export", first, name, "-o", "json").exit_code == 0
    assert kv("import", second, name).exit_code == 0

    def without_order(bucket: str) -> list[dict[str, object]]:
        found = exported(kv, bucket)
        for record in found:
            if isinstance(siblings := record.get("siblings"), list):
                siblings.sort(key=str)
        return found

    assert without_order(first) == without_order(second)
    conflict, document, page, raw = without_order(second)
    assert [sibling["value"] for sibling in conflict["siblings"]] == ["one", "two"]  # type: ignore[attr-defined]
    assert (document["value"], document["content_type"]) == ('{"a": [1, 2]}', "application/json")
    assert (page["content_type"], page["meta"]) == ("text/html", {"by": "ann"})
    assert (raw["key_base64"], raw["value_base64"]) == ("/w==", "AP8=")


def test_failed_records_are_listed_the_others_written_and_a_second_run_tries_them_again(
    kv: Type, place: Path
) -> None:
    too_large = json.dumps({"key": "large", "value": "v" * (1 << 20) + "v"})
    (place / "in.jsonl").write_text(lines(3) + "not JSON\n" + too_large + "\n")
    result = kv("import", "partly", "in.jsonl")
    assert result.exit_code == 1
    assert "record 4: not JSON" in result.stderr
    assert "record 5: " in result.stderr
    assert "imported 3 records" in result.stderr
    assert "2 failed" in result.stderr
    assert "--resume" in result.stderr
    assert len(exported(kv, "partly")) == 3

    again = kv("import", "partly", "in.jsonl", "--resume", "-o", "json")
    assert again.exit_code == 1
    document = json.loads(again.stdout)
    assert (document["imported"], document["total"]) == (0, 3)
    assert [entry["record"] for entry in document["failed"]] == [4, 5]


def test_too_many_failures_stop_it(kv: Type, place: Path) -> None:
    (place / "in.jsonl").write_text("x\n" * 50)
    result = kv("import", "b", "in.jsonl", "--failures-max", "3")
    assert result.exit_code == 5
    assert "3 records failed" in result.stderr


@pytest.fixture
def heeds_ctrl_c() -> Iterator[None]:
    """A shell starts what it runs in the background with SIGINT ignored, and children inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_ctrl_c")
def test_an_interrupted_import_goes_on(kv: Type, place: Path, node: str) -> None:
    """Ctrl-C in the middle, of a real process."""
    count = 30_000  # two seconds of work: interrupted after its first pages, however slow the machine is
    (place / "in.jsonl").write_text(lines(count, size=300))
    command = [sys.executable, "-m", "kvstore", "import", "stopped", "in.jsonl", "--concurrency", "1"]
    with subprocess.Popen(
        command, env={**os.environ, "KVSTORE_NODES": node}, stderr=subprocess.PIPE, text=True
    ) as process:
        until(lambda: kv("scan", "stopped", "--limit", "1").stdout, "the first record")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 130, said
    assert "interrupted" in said
    assert "--resume" in said
    state = place / "in.jsonl.import-state"
    done = json.loads(state.read_text())["imported"]
    assert done < count

    result = kv("import", "stopped", "in.jsonl", "--resume", "-o", "json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert (document["imported"], document["total"]) == (count - done, count)
    assert not state.exists()
    assert len(kv("scan", "stopped").stdout.splitlines()) == count


def test_resume_needs_something_to_go_on_with(kv: Type, place: Path) -> None:
    (place / "in.jsonl").write_text(lines(1))
    nothing = kv("import", "b", "in.jsonl", "--resume")
    assert nothing.exit_code == 2
    assert "without --resume" in nothing.stderr
    assert kv("import", "b", "-", "--resume", stdin=lines(1)).exit_code == 2

    (place / "in.jsonl").write_text("x\n")
    kv("import", "b", "in.jsonl")
    (place / "in.jsonl").write_text("changed\n")
    changed = kv("import", "b", "in.jsonl", "--resume")
    assert changed.exit_code == 2
    assert "bytes, modified_ns differs" in changed.stderr


def test_an_unreachable_cluster_loses_no_record(type_: Type, place: Path) -> None:
    (place / "in.jsonl").write_text(lines(3))
    result = type_("import", "b", "in.jsonl", "--timeout", "0.5", KVSTORE_NODES="http://127.0.0.1:1")
    assert result.exit_code == 5
    assert "imported 0 records" in result.stderr
    assert (place / "in.jsonl.import-state").exists()


def test_an_export_that_fails_leaves_the_old_file(type_: Type, place: Path) -> None:
    (place / "out.jsonl").write_text("the old one")
    result = type_("export", "b", "out.jsonl", "--timeout", "0.5", KVSTORE_NODES="http://127.0.0.1:1")
    assert result.exit_code == 5
    assert (place / "out.jsonl").read_text() == "the old one"
    assert [path.name for path in place.iterdir()] == ["out.jsonl"]


def test_export_keeps_to_a_prefix(kv: Type) -> None:
    kv("import", "prefix", "-", stdin='{"key": "a1", "value": ""}\n{"key": "b1", "value": ""}\n')
    result = kv("export", "prefix", "--prefix", "a")
    assert [json.loads(line)["key"] for line in result.stdout.splitlines()] == ["a1"]
    assert result.stderr.startswith("exported 1 keys, ")


def test_records_and_counts_do_not_both_go_to_stdout(kv: Type) -> None:
    assert kv("export", "b", "-o", "json").exit_code == 2
