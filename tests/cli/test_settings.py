"""config show, config check, keygen, serve: as far as a node need not start for them."""

from __future__ import annotations

import json
from pathlib import Path

from kvstore.config import FIELDS, parse_cluster_key
from tests.cli.conftest import Type

KEY = "9f3c1e7a5b8d2046f1e0d9c8b7a695847362514ffeeddccbbaa0192837465564"


def test_show_tells_each_value_and_where_it_comes_from(type_: Type, place: Path) -> None:
    (place / "kv.toml").write_text('zone = "z1"\nqueue_max = 7\n')
    result = type_("config", "show", "--origin", "--config", "kv.toml", "--weight", "2", KVSTORE_N="1")
    lines = [line.split(maxsplit=2) for line in result.stdout.splitlines()]
    assert ["zone", "z1", "file kv.toml"] in lines
    assert ["queue_max", "7", "file kv.toml"] in lines
    assert ["weight", "2", "flag --weight"] in lines
    assert ["n", "1", "env KVSTORE_N"] in lines
    assert ["log_level", "info", "default"] in lines
    assert not [line for line in lines if line[0] == "in_flight_max"], "limits at their defaults are left out"
    assert result.exit_code == 0


def test_show_as_json_has_every_setting(type_: Type) -> None:
    rows = json.loads(type_("config", "show", "-o", "json").stdout)
    assert list(rows) == list(FIELDS)
    assert rows["n"] == {"key": "n", "value": "3", "origin": "default"}


def test_show_all_describe_is_the_reference(type_: Type) -> None:
    text = type_("config", "show", "--all", "--describe").stdout
    for field in FIELDS.values():
        assert field.help in text
        assert field.wrong in text


def test_secrets_are_never_printed(type_: Type, place: Path) -> None:
    token = "a-token-that-nobody-guesses"
    secrets = {"KVSTORE_CLUSTER_KEY": KEY, "KVSTORE_CLIENT_TOKEN": token}
    for arguments in (
        ["show", "--origin"],
        ["show", "--all", "--describe", "-o", "json"],
        ["check"],
        ["check", "--data-dir", "data", "-o", "json"],
    ):
        result = type_("config", *arguments, **secrets)
        assert KEY not in result.output
        assert token not in result.output
    lines = type_("config", "show", "--origin", **secrets).stdout.splitlines()
    assert [line.split(maxsplit=2) for line in lines if line.startswith("cluster_key ")] == [
        ["cluster_key", "set", "env KVSTORE_CLUSTER_KEY"]
    ]


def test_check_names_the_problem_and_the_remedy_and_exits_2(type_: Type) -> None:
    result = type_("config", "check", "--r", "4", "--data-dir", "data", KVSTORE_CLUSTER_KEY=KEY)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "error: r=4 (flag --r) is more than n=3 (default): at most n nodes can answer a read",
        "hint: set r to at most 3, or n to at least 4",
    ]


def test_check_as_json(type_: Type) -> None:
    result = type_("config", "check", "-o", "json", "--data-dir", "data", KVSTORE_CLUSTER_KEY=KEY)
    assert json.loads(result.stdout)["ok"] is True
    assert result.exit_code == 0
    wrong = type_("config", "check", "-o", "json", "--data-dir", "data")
    assert json.loads(wrong.stdout)["problem"] == "no cluster key is set; there is no default"
    assert wrong.exit_code == 2


def test_check_prints_what_is_legal_but_costly(type_: Type) -> None:
    result = type_("config", "check", "--data-dir", "data", "--w", "1", KVSTORE_CLUSTER_KEY=KEY)
    assert result.exit_code == 0
    assert "warning: r=0 (default) and w=1 (flag --w) do not overlap" in result.stderr


def test_serve_refuses_before_anything_is_opened(type_: Type, place: Path) -> None:
    result = type_("serve", "--data-dir", "data")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: no cluster key is set; there is no default\nhint: make one with")
    assert not (place / "data").exists()


def test_serve_suggests_the_flag_that_was_meant(type_: Type) -> None:
    result = type_("serve", "--http-listn", "127.0.0.1:1")
    assert result.exit_code == 2
    assert "--http-listen" in result.stderr


def test_every_setting_but_secrets_is_a_flag_of_serve(type_: Type) -> None:
    shown = type_("serve", "--help").stdout
    limits = type_("serve", "--help-limits").stdout
    for field in FIELDS.values():
        if field.flag:
            assert f"  {field.flag} " in (limits if field.concern == "limits" else shown)


def test_keygen_prints_a_new_key_each_time(type_: Type) -> None:
    first, second = (type_("keygen").stdout.strip() for _ in range(2))
    assert first != second
    assert len(parse_cluster_key(first)) == 32


def test_keygen_writes_a_file_for_its_owner_only_and_overwrites_none(type_: Type, place: Path) -> None:
    result = type_("keygen", "cluster.key")
    file = place / "cluster.key"
    assert result.exit_code == 0
    assert file.stat().st_mode & 0o777 == 0o600
    written = file.read_text()
    assert written.strip() not in result.output
    parse_cluster_key(written)

    again = type_("keygen", "cluster.key")
    assert again.exit_code == 2
    assert again.stderr.startswith("error: cluster.key exists\nhint: a cluster has one key")
    assert file.read_text() == written


def test_what_keygen_wrote_is_accepted(type_: Type) -> None:
    type_("keygen", "cluster.key")
    type_("keygen", "client.token")
    result = type_(
        *("config", "check", "--data-dir", "d", "--cluster-key-file", "cluster.key"),
        *("--client-token-file", "client.token", "--http-listen", "192.0.2.1:8001"),
    )
    assert result.exit_code == 0, result.stderr
