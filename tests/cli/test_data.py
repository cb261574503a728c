"""get, put, delete, scan against a real node: what is printed where, and what the exit code tells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Type


def put(kv: Type, *arguments: str) -> dict[str, Any]:
    result = kv("put", *arguments, "-o", "json")
    assert result.exit_code == 0, result.stderr
    receipt: dict[str, Any] = json.loads(result.stdout)
    return receipt


def fetched(kv: Type, bucket: str, key: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(kv("get", bucket, key, "-o", "json").stdout)
    return document


def test_what_was_put_comes_out_byte_for_byte(kv: Type, place: Path) -> None:
    value = bytes(range(256))
    (place / "value").write_bytes(value)
    stored = kv("put", "bytes", "k", "--file", "value")
    assert (stored.exit_code, stored.stdout) == (0, "")
    assert stored.stderr.startswith("stored: 1 of 1 homes, etag ")
    assert kv("get", "bytes", "k").stdout_bytes == value


def test_a_value_can_be_typed_or_piped(kv: Type) -> None:
    assert kv("put", "in", "typed", "grüße").exit_code == 0
    assert kv("put", "in", "piped", stdin=b"\0\n").exit_code == 0
    assert kv("get", "in", "typed").stdout_bytes == "grüße".encode()
    assert kv("get", "in", "piped").stdout_bytes == b"\0\n"
    assert fetched(kv, "in", "typed")["values"][0]["content_type"] == "text/plain; charset=utf-8"
    assert fetched(kv, "in", "piped")["values"][0]["content_type"] == "application/octet-stream"


def test_a_file_brings_its_type_and_meta_stay(kv: Type, place: Path) -> None:
    (place / "cart.json").write_text('{"a": 1}')
    put(kv, "files", "cart", "--file", "cart.json", "--meta", "by=ann", "--meta", "via=x=y")
    (value,) = fetched(kv, "files", "cart")["values"]
    assert value["content_type"] == "application/json"
    assert value["meta"] == {"by": "ann", "via": "x=y"}
    assert value["value"] == '{"a": 1}'


def test_json_says_all_there_is(kv: Type) -> None:
    receipt = put(kv, "json", "k", "v")
    document = fetched(kv, "json", "k")
    assert (document["bucket"], document["key"], document["found"]) == ("json", "k", True)
    assert document["etag"] == receipt["etag"]
    assert document["context"]
    assert (document["acks"], document["n"]) == (1, 1)


def test_bytes_that_are_no_text_are_base64_in_json(kv: Type) -> None:
    assert kv("put", "raw", b"\xff".decode("utf-8", "surrogateescape"), stdin=b"\xfe").exit_code == 0
    document = fetched(kv, "raw", b"\xff".decode("utf-8", "surrogateescape"))
    assert document["key_base64"] == "/w=="
    assert document["values"][0]["value_base64"] == "/g=="


def test_no_value_is_exit_code_3(kv: Type) -> None:
    result = kv("get", "nothing", "k")
    assert (result.exit_code, result.stdout, result.stderr) == (3, "", "error: nothing/k has no value\n")
    as_json = kv("get", "nothing", "k", "-o", "json")
    assert as_json.exit_code == 3
    assert json.loads(as_json.stdout)["found"] is False


@pytest.fixture
def conflict(kv: Type) -> dict[str, Any]:
    """Two values that were written without knowing each other, as `get -o json` shows them."""
    assert kv("delete", "carts", "ann").exit_code == 0
    base = put(kv, "carts", "ann", "milk")
    put(kv, "carts", "ann", "eggs", "--context", base["context"])
    put(kv, "carts", "ann", "bread", "--context", base["context"])
    return fetched(kv, "carts", "ann")


def test_several_values_are_exit_code_4_with_a_list(kv: Type, conflict: dict[str, Any]) -> None:
    result = kv("get", "carts", "ann")
    assert (result.exit_code, result.stdout) == (4, "")
    head, *lines, error, hint = result.stderr.splitlines()
    assert head.split() == ["value", "written", "bytes", "content", "type"]
    assert [line.split()[0] for line in lines] == [value["id"] for value in conflict["values"]]
    assert error == "error: 2 concurrent values"
    assert "--sibling" in hint


def test_in_json_several_values_are_no_error(kv: Type, conflict: dict[str, Any]) -> None:
    assert {value["value"] for value in conflict["values"]} == {"eggs", "bread"}
    assert conflict["siblings"] == 2


def test_one_of_several_can_be_asked_for(kv: Type, conflict: dict[str, Any]) -> None:
    for value in conflict["values"]:
        result = kv("get", "carts", "ann", "--sibling", value["id"])
        assert (result.exit_code, result.stdout) == (0, value["value"])
    unknown = kv("get", "carts", "ann", "--sibling", "0" * 16)
    assert unknown.exit_code == 3
    assert conflict["values"][0]["id"] in unknown.stderr


def test_the_context_resolves_them(kv: Type, conflict: dict[str, Any]) -> None:
    assert kv("put", "carts", "ann", "eggs, bread", "--context", conflict["context"]).exit_code == 0
    assert kv("get", "carts", "ann").stdout == "eggs, bread"


def test_a_put_that_leaves_several_values_says_so(kv: Type) -> None:
    put(kv, "two", "k", "one")
    result = kv("put", "two", "k", "two", "--mode", "sibling")
    assert "the key has 2 concurrent values now" in result.stderr


def test_conditions_that_do_not_hold_are_exit_code_4(kv: Type) -> None:
    put(kv, "cond", "k", "v")
    for arguments in (["--if-absent"], ["--if-match", "0" * 16]):
        result = kv("put", "cond", "k", "w", *arguments)
        assert result.exit_code == 4, result.stderr
        assert result.stderr.startswith("error: ")
    etag = fetched(kv, "cond", "k")["etag"]
    assert kv("put", "cond", "k", "w", "--if-match", etag).exit_code == 0


def test_delete_and_delete_again(kv: Type) -> None:
    put(kv, "del", "k", "v")
    for _ in range(2):
        assert kv("delete", "del", "k").exit_code == 0
    assert kv("get", "del", "k").exit_code == 3


def test_scan_lists_keys_one_on_a_line(kv: Type) -> None:
    for key in ("b", "a1", "a2"):
        put(kv, "list", key, f"value of {key}")
    assert kv("scan", "list").stdout == "a1\na2\nb\n"
    assert kv("scan", "list", "--prefix", "a").stdout == "a1\na2\n"
    assert kv("scan", "list", "--limit", "1").stdout == "a1\n"
    assert kv("scan", "list", "--values", "--prefix", "b").stdout == "b\tvalue of b\n"
    lines = [json.loads(line) for line in kv("scan", "list", "-o", "json").stdout.splitlines()]
    assert [line["key"] for line in lines] == ["a1", "a2", "b"]
    (with_value,) = kv("scan", "list", "--values", "--prefix", "b", "-o", "json").stdout.splitlines()
    assert json.loads(with_value)["values"][0]["value"] == "value of b"


def test_a_key_with_a_line_end_stays_on_its_line(kv: Type) -> None:
    put(kv, "odd", "a\nb", "v")
    assert kv("scan", "odd").stdout == "a\\nb\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["put", "b", "k", "v", "--file", "x"], "does not exist"),
        (["put", "b", "k", "v", "--meta", "x"], "NAME=TEXT"),
        (["get", "b"], "KEY"),
        (["get", "b", "k", "--r", "0"], "0 is not in the range"),
        (["get", "b", "k", "-o", "yaml"], "'yaml' is not one of"),
    ],
)
def test_what_cannot_be_meant_is_exit_code_2(kv: Type, arguments: list[str], words: str) -> None:
    result = kv(*arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stderr.splitlines()[-1] == f"hint: kvstore {arguments[0]} --help"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["get", "bad bucket", "k"], "bucket name 'bad bucket'"),
        (["put", "b", "", "v"], "the key is empty"),
        (["put", "b", "k" * 2000, "v"], "1024"),
        (["put", "b", "k", "v", "--context", "nonsense"], "context"),
        (["get", "b", "k", "--r", "5"], "n=1"),
    ],
)
def test_what_the_cluster_refuses_is_exit_code_1_with_its_words(
    kv: Type, arguments: list[str], words: str
) -> None:
    result = kv(*arguments)
    assert result.exit_code == 1
    assert words in result.stderr
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr


def test_nobody_there_is_exit_code_5_and_says_who_named_them(type_: Type) -> None:
    for verb in (["get", "b", "k"], ["put", "b", "k", "v"], ["scan", "b"], ["status"], ["bucket", "list"]):
        result = type_(*verb, "--timeout", "1", KVSTORE_NODES="http://127.0.0.1:1")
        assert result.exit_code == 5, verb
        assert "127.0.0.1:1" in result.stderr
        assert "KVSTORE_NODES" in result.stderr
        assert "kvstore dev up" in result.stderr


def test_the_flag_goes_before_the_environment(type_: Type, node: str) -> None:
    put_there = type_("put", "flag", "k", "v", "--nodes", node, KVSTORE_NODES="http://127.0.0.1:1")
    assert put_there.exit_code == 0


def test_a_directory_with_a_local_cluster_needs_neither(type_: Type, node: str, place: Path) -> None:
    (place / ".dev").mkdir()
    described = {"name": "n1", "zone": "z1", "http": node.removeprefix("http://"), "rpc": "127.0.0.1:1"}
    (place / ".dev" / "cluster.json").write_text(json.dumps({"format": 1, "nodes": [described]}))
    assert type_("put", "found", "k", "v").exit_code == 0
    assert type_("get", "found", "k").stdout == "v"
