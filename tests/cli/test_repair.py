"""repair and tasks against real nodes."""

from __future__ import annotations

import json

import pytest

from tests.cli.conftest import Type


def test_repairing_all_and_waiting_for_it(kv: Type) -> None:
    kv("put", "rep", "k", "v")
    result = kv("repair", "--all", "--wait", "-o", "json")
    assert result.exit_code == 0
    task = json.loads(result.stdout)
    assert (task["state"], task["done"], task["total"]) == ("done", 256, 256)
    assert (task["failed"], task["missing"]) == ([], [])
    head, first, *_ = kv("tasks").stdout.splitlines()
    assert head.split()[:4] == ["id", "state", "done", "total"]
    assert first.split()[:4] == [task["id"], "done", "256", "256"]


def test_repairing_one_key(kv: Type) -> None:
    kv("put", "rep", "a/b c", "v")
    result = kv("repair", "rep", "a/b c", "--wait")
    assert result.exit_code == 0
    assert "done in" in result.stdout
    document = json.loads(kv("repair", "rep", "a/b c", "--wait", "-o", "json").stdout)
    assert (document["found"], document["lacking"]) == (True, [])
    assert not json.loads(kv("repair", "rep", "none", "--wait", "-o", "json").stdout)["found"]


def test_without_waiting_the_task_is_named(kv: Type) -> None:
    result = kv("repair", "--partition", "17")
    assert result.exit_code == 0
    assert result.stdout.startswith("repair-")


@pytest.mark.parametrize(
    "arguments",
    [(), ("b",), ("--all", "--partition", "1"), ("b", "k", "--all"), ("--partition", "-1")],
)
def test_what_is_no_repair(kv: Type, arguments: tuple[str, ...]) -> None:
    result = kv("repair", *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")


def test_a_partition_that_there_is_not(kv: Type) -> None:
    result = kv("repair", "--partition", "256")
    assert result.exit_code == 1
    assert "from 0 to 255" in result.stderr


def test_nobody_in_reach(type_: Type) -> None:
    result = type_("repair", "--all", "--nodes", "http://127.0.0.1:1")
    assert result.exit_code == 5


def test_homes_that_were_out_of_reach_are_exit_code_5(kv: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    from kvstore.cli import repair

    begun = {"id": "repair-9", "kind": "repair", "state": "running", "done": 0, "total": 256, "took_s": 0.1}
    ended = begun | {"state": "done", "done": 256, "healed": 4, "missing": ["n3"], "failed": [1, 2]}
    monkeypatch.setattr(repair, "ask_one", lambda *_: ("http://n1", begun))
    monkeypatch.setattr(repair, "ask_node", lambda *_, **__: {"tasks": [ended]})
    result = kv("repair", "--all", "--wait")
    assert result.exit_code == 5
    assert "4 states healed · out of reach: n3 · not compared: 2 partitions" in result.stdout
    monkeypatch.setattr(repair, "ask_node", lambda *_, **__: {"tasks": []})
    result = kv("repair", "--all", "--wait")
    assert result.exit_code == 5
    assert "started again" in result.stdout
