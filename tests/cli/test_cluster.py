"""status, explain and bucket against a real node."""

from __future__ import annotations

import json
import re
import socket
from threading import Thread

import pytest

from kvstore.cli.cluster import explained
from kvstore.cli.hints import lines
from tests.cli.conftest import Type


def test_status(kv: Type) -> None:
    head, row, summary = kv("status").stdout.splitlines()
    assert head.split() == ["name", "zone", "host", "state", "partitions", "http", "rpc"]
    assert row.split()[0] == "n1"
    assert row.split()[3:5] == ["up", "256"]
    assert summary == "1 of 1 nodes up · layout 1 · seen by n1"
    assert json.loads(kv("status", "-o", "json").stdout)["answered_by"] == "n1"


def test_explain_tells_what_each_home_holds(kv: Type) -> None:
    assert kv("explain", "exp", "k").stdout.splitlines()[0].endswith(", no home holds anything")
    kv("put", "exp", "k", "12345")
    first, head, home, version = kv("explain", "exp", "k").stdout.splitlines()
    assert first.startswith("exp/k: partition ")
    assert first.endswith(", all homes hold the same")
    assert head.split() == ["home", "zone", "holds"]
    assert home.split()[:3] == ["n1", "z1", "1"]
    assert version.strip().startswith("5 bytes text/plain; charset=utf-8, written ")
    kv("delete", "exp", "k")
    assert "deleted, written " in kv("explain", "exp", "k").stdout
    assert json.loads(kv("explain", "exp", "k", "-o", "json").stdout)["homes"][0]["siblings"][0]["tombstone"]


def test_hints_of_a_node_that_keeps_none(kv: Type) -> None:
    assert kv("hints").stdout == "0 pending · 0 delivered · 0 dropped\n"
    (told,) = json.loads(kv("hints", "-o", "json").stdout)
    assert (told["node"], told["targets"]) == ("n1", [])


def test_hints_tell_of_a_node_that_does_not_answer(type_: Type, node: str) -> None:
    result = type_("hints", "--nodes", f"http://127.0.0.1:1,{node}")
    assert (result.exit_code, result.stdout) == (0, "0 pending · 0 delivered · 0 dropped\n")
    assert result.stderr.startswith("error: http://127.0.0.1:1: ")
    nobody = type_("hints", "--nodes", "http://127.0.0.1:1")
    assert (nobody.exit_code, nobody.stdout) == (5, "")


def test_hints_are_shown_by_who_keeps_them_and_for_whom() -> None:
    away = {"name": "n2", "count": 3, "bytes": 300, "oldest_age_s": 12.4, "in_reach": False}
    back = {"name": "n3", "count": 1, "bytes": 100, "oldest_age_s": None, "in_reach": True}
    counts = {"count": 4, "bytes": 400, "delivered": 7, "dropped": 1}
    told = [
        {
            "node": "n1",
            "targets": [away | {"next_attempt_s": None}, back | {"next_attempt_s": 2.0}],
            **counts,
        },
        {"node": "n4", "targets": [back | {"next_attempt_s": 0.0}], **counts},
    ]
    head, *rows, total = lines(told)
    assert head.split() == ["kept", "by", "for", "hints", "bytes", "oldest", "next", "attempt"]
    assert [re.split(r"  +", row) for row in rows] == [
        ["n1", "n2", "3", "300", "12 s", "when it is back"],
        ["n1", "n3", "1", "100", "-", "in 2 s"],
        ["n4", "n3", "1", "100", "-", "now"],
    ]
    assert total == "8 pending · 14 delivered · 2 dropped"


def test_explain_shows_who_keeps_hints() -> None:
    sibling = {"tombstone": False, "value_bytes": 5, "content_type": "a/b", "modified_ms": 0, "dot": "1:1"}
    document = {
        "bucket": "b",
        "key": "k",
        "partition": 7,
        "equal": False,
        "homes": [{"name": "n1", "zone": "z1", "answer": "nothing"}],
        "hints": [{"name": "n4", "zone": "z2", "targets": ["n2", "n3"], "siblings": [sibling]}],
    }
    *_, kept, version = explained(document)
    assert kept.split(maxsplit=2) == ["n4", "z2", "a hint for n2, n3"]
    assert version.strip().startswith("5 bytes a/b, written 1970-01-01")


def test_explain_shows_which_home_is_slow() -> None:
    home = {"zone": "z", "answer": "nothing", "breaker": "closed"}
    homes = [
        home | {"name": "n1", "latency_breaker": "self"},
        home | {"name": "n2", "latency_breaker": "half-open"},
    ]
    document = {"bucket": "b", "key": "k", "partition": 7, "equal": True, "homes": homes}
    _, _, quick, slow = explained(document)
    assert "slow" not in quick
    assert slow.split(maxsplit=2) == ["n2", "z", "nothing, slow: asked last"]


def test_explain_shows_why_a_tombstone_waits() -> None:
    sibling = {"tombstone": True, "modified_ms": 0, "dot": "1:2"}
    home = {"name": "n1", "zone": "z1", "answer": "state", "digest": "0" * 32, "siblings": [sibling]}
    document = {"bucket": "b", "key": "k", "partition": 7, "equal": True, "homes": [home]}
    waits = [{"name": "n4", "reason": "keeps a hint of the key"}]
    tombstone = {"collected_by": "n1", "every_s": 600.0, "verdict": "waits", "waits_for": waits}
    *_, head, reason = explained(document | {"tombstone": tombstone})
    assert head == "its tombstone is collected by n1, and has to wait:"
    assert reason == "  n4 keeps a hint of the key"
    *_, line = explained(document | {"tombstone": tombstone | {"verdict": "proven", "waits_for": []}})
    assert line == "its tombstone is collected by n1, which looks for such every 600 s"
    assert "tombstone" not in explained(document | {"tombstone": None})[-1]


def test_flags_of_a_bucket_are_typed_as_they_are_shown(kv: Type) -> None:
    assert "sloppy" in kv("bucket", "show", "strict").stdout
    shown = kv("bucket", "set", "strict", "sloppy=false").stdout.splitlines()
    assert ["sloppy", "false"] in [row.split() for row in shown]
    assert "sloppy='maybe'" in kv("bucket", "set", "strict", "sloppy=maybe").stderr


def test_bucket_set_show_list(kv: Type) -> None:
    shown = kv("bucket", "show", "props").stdout.splitlines()
    assert shown[0] == "props: the cluster's defaults"
    changed = kv("bucket", "set", "props", "ttl_s=1.5", "conflict=last-write-wins", "-o", "json")
    properties = json.loads(changed.stdout)["properties"]
    assert (properties["ttl_s"], properties["conflict"], properties["n"]) == (1.5, "last-write-wins", 1)
    assert kv("bucket", "show", "props").stdout.splitlines()[0] == "props: set for this bucket"
    head, *rows = kv("bucket", "list").stdout.splitlines()
    assert head.split()[:3] == ["bucket", "n", "r"]
    assert "props" in [row.split()[0] for row in rows]


@pytest.mark.parametrize(
    ("assignments", "words"),
    [
        (["w"], "'w' is not of the form PROPERTY=VALUE"),
        (["w=1", "w=1"], "w is given twice"),
        (["ttl=3"], "did you mean 'ttl_s'?"),
        (["w=2"], "w=2 must lie between 1 and n=1"),
        (["w=x"], "w='x'"),
        (["ttl_s=inf"], "ttl_s='inf'"),
        (["conflict=last-write-wins", "blind=reject"], "blind"),
    ],
)
def test_properties_that_make_no_sense_are_refused(kv: Type, assignments: list[str], words: str) -> None:
    result = kv("bucket", "set", "refused", *assignments)
    assert result.exit_code == 1
    assert words in result.stderr
    assert kv("bucket", "show", "refused").stdout.startswith("refused: the cluster's defaults")


def test_the_next_node_is_asked_when_one_is_down(type_: Type, node: str) -> None:
    assert type_("status", "--nodes", f"http://127.0.0.1:1,{node}").exit_code == 0


@pytest.mark.parametrize("url", ["ftp://n1", "http://", "http://n1:port"])
def test_a_url_that_is_none(type_: Type, url: str) -> None:
    for verb in (["status"], ["get", "b", "k"], ["import", "b", "-"]):
        result = type_(*verb, "--nodes", url)
        assert result.exit_code == 2
        assert result.stderr.splitlines()[0].startswith("error: nodes: ")


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>", 5, "something else than JSON"),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 5\r\n\r\nproxy", 5, "502"),
        (b"SSH-2.0-OpenSSH\r\n", 5, "broke off"),
        (b"", 5, "broke off"),
    ],
)
def test_a_stranger_on_the_port_is_told_from_a_node(
    type_: Type, answer: bytes, code: int, words: str
) -> None:
    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65_536)
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = Thread(target=serve, args=(listener,))
        thread.start()
        result = type_("status", "--nodes", f"http://127.0.0.1:{listener.getsockname()[1]}")
        thread.join()
    assert result.exit_code == code
    assert words in result.stderr


def test_a_write_whose_answer_was_lost_is_exit_code_6(type_: Type) -> None:
    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65_536)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = Thread(target=serve, args=(listener,))
        thread.start()
        where = f"http://127.0.0.1:{listener.getsockname()[1]}"
        result = type_("bucket", "set", "b", "n=1", "--nodes", where)
        thread.join()
    assert result.exit_code == 6


def test_the_level_of_degradation_is_shown_and_set(kv: Type) -> None:
    assert kv("degradation").stdout.split()[-3:] == ["normal", "normal", "0"]
    assert kv("degradation", "--floor", "scans").stdout.split()[-3:] == ["scans", "scans", "0"]
    assert kv("scan", "b").exit_code != 0
    (told,) = json.loads(kv("degradation", "--floor", "normal", "-o", "json").stdout)
    assert (told["level"], told["floor"]) == ("normal", "normal")
