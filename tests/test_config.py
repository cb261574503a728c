"""Settings: where values come from, what is refused, and that every refusal names its remedy."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from kvstore.config import (
    FIELDS,
    Config,
    NodeConfig,
    is_loopback,
    load,
    parse_cluster_key,
    split_address,
)
from kvstore.config.sources import display, read_settings
from kvstore.config.words import LIMIT_WORDS
from kvstore.core.bucket import BucketProperties
from kvstore.core.limits import Limits
from kvstore.errors import ConfigError

KEY = "9f3c1e7a5b8d2046f1e0d9c8b7a695847362514ffeeddccbbaa0192837465564"
TOKEN = "a-token-of-twenty-seven-char"
MINIMAL = {"KVSTORE_CLUSTER_KEY": KEY, "KVSTORE_DATA_DIR": "/nowhere/data"}


def loaded(given: dict[str, Any] | None = None, /, file: Path | None = None, **environ: str) -> Config:
    """A configuration that is whole but for what is given; environment names without their prefix."""
    return load(given, MINIMAL | {f"KVSTORE_{name}": value for name, value in environ.items()}, file)


def refusal(given: dict[str, Any] | None = None, /, file: Path | None = None, **environ: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        loaded(given, file, **environ)
    return caught.value


# --- where values come from -----------------------------------------------------------------------


def test_flags_beat_the_environment_beats_the_file_beats_the_default(tmp_path: Path) -> None:
    file = tmp_path / "kv.toml"
    file.write_text('zone = "from-file"\nweight = 3\nlog_level = "debug"\n')
    config = loaded({"zone": "from-flag"}, file, ZONE="from-env", WEIGHT="2")

    assert (config.node.zone, config.origins["zone"]) == ("from-flag", "flag --zone")
    assert (config.node.weight, config.origins["weight"]) == (2, "env KVSTORE_WEIGHT")
    assert (config.log.level, config.origins["log_level"]) == ("debug", f"file {file}")
    assert (config.log.format, config.origins["log_format"]) == ("auto", "default")


def test_defaults_are_those_of_the_rules_they_configure() -> None:
    config = loaded()
    assert config.bucket == BucketProperties()
    assert config.limits == Limits()


def test_every_kind_of_value_is_read_from_text_and_from_toml(tmp_path: Path) -> None:
    file = tmp_path / "kv.toml"
    file.write_text(
        'seeds = ["a:1", "[::1]:2"]\nttl_s = 60\nvalue_bytes_max = 2_097_152\ndata_dir = "/nowhere/else"\n'
    )
    from_toml = load({}, {"KVSTORE_CLUSTER_KEY": KEY}, file)
    from_text = loaded(
        SEEDS=" a:1, [::1]:2,", TTL_S="60", VALUE_BYTES_MAX="2097152", DATA_DIR="/nowhere/else"
    )
    for config in (from_toml, from_text):
        assert config.node.seeds == ("a:1", "[::1]:2")
        assert config.bucket.ttl_s == 60.0
        assert config.limits.value_bytes_max == 2 * 1024 * 1024
        assert config.node.data_dir == Path("/nowhere/else")


def test_the_environment_can_name_the_file_and_a_flag_another(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(f'zone = "{name}"')
    assert loaded(CONFIG=str(tmp_path / "a")).node.zone == "a"
    assert loaded({}, tmp_path / "b", CONFIG=str(tmp_path / "a")).node.zone == "b"


def test_an_empty_variable_counts_as_not_set() -> None:
    """Compose files write KVSTORE_WEIGHT=${KVSTORE_WEIGHT:-}."""
    assert loaded(WEIGHT="").origins["weight"] == "default"


def test_a_node_without_a_name_takes_the_hosts() -> None:
    config = loaded()
    assert config.node.name == config.node.host
    assert config.node.name
    assert config.origins["name"] == "default, the host's name"


# --- unknown, malformed ---------------------------------------------------------------------------


def test_an_unknown_variable_is_refused_with_the_nearest_known_one() -> None:
    error = refusal(HTTP_LISTN="127.0.0.1:1")
    assert error.detail == "unknown environment variable KVSTORE_HTTP_LISTN"
    assert error.advice == "did you mean 'KVSTORE_HTTP_LISTEN'?"


def test_an_unknown_key_in_the_file_is_refused_with_the_nearest_known_one(tmp_path: Path) -> None:
    file = tmp_path / "kv.toml"
    file.write_text("bootstrap_expected = 3")
    error = refusal({}, file)
    assert error.detail == f"unknown setting 'bootstrap_expected' in {file}"
    assert error.advice == "did you mean 'bootstrap_expect'?"


def test_an_unknown_name_in_a_program_is_refused_the_same_way() -> None:
    """LocalCluster(nodes=3, weihgt=2) hands its settings on as flags."""
    error = refusal({"weihgt": 2})
    assert (error.detail, error.advice) == ("unknown setting 'weihgt'", "did you mean 'weight'?")


def test_nothing_near_means_no_guess() -> None:
    assert "config show" in refusal(QWERTZUIOP="1").advice


@pytest.mark.parametrize(
    "name",
    [
        "NODES",
        "DEBUG",
        "SERVICE_HOST",
        "SERVICE_PORT_HTTP",
        "PORT",
        "PORT_8001_TCP_ADDR",
        "N1_SERVICE_HOST",
        "N1_PORT_9001_TCP",
        "PORT_N1",
        "IMAGE",
    ],
)
def test_variables_of_the_client_and_of_orchestrators_are_no_errors(name: str) -> None:
    environ = MINIMAL | {f"KVSTORE_{name}": "tcp://10.0.0.1:8001"}
    assert read_settings({}, environ)[1] == []


def test_tables_in_the_file_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "kv.toml"
    file.write_text("[limits]\nqueue_max = 3")
    assert "[limits]" in refusal({}, file).detail


@pytest.mark.parametrize(
    ("content", "words"), [(b"zone = ", "not TOML"), (b"\xff\xfe", "not TOML"), (b"#" * 1_100_000, "larger")]
)
def test_a_broken_file_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "kv.toml"
    file.write_bytes(content)
    error = refusal({}, file)
    assert words in error.detail
    assert str(file) in error.detail
    assert error.advice


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    error = refusal(CONFIG=str(tmp_path / "none.toml"))
    assert "none.toml: No such file" in error.detail
    assert "KVSTORE_CONFIG" in error.advice


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("sloppy", "maybe", "must be true or false"),
        ("sloppy", 1.5, "must be true or false"),
        ("weight", "much", "not a whole number"),
        ("weight", "1.5", "not a whole number"),
        ("weight", True, "not a whole number"),
        ("weight", "-1", "between 0 and 1000"),
        ("bootstrap_expect", "0", "between 1 and"),
        ("value_bytes_max", "1 MiB", "not a whole number of bytes"),
        ("peer_deadline_s", "nan", "between"),
        ("peer_deadline_s", "soon", "not a number of seconds"),
        ("peer_deadline_s", "0", "between"),
        ("log_level", "loud", "one of debug, info, warning, error"),
        ("name", "no spaces", "letters, digits"),
        ("zone", 7, "must be a text"),
        ("http_listen", "8001", "not of the form host:port"),
        ("http_listen", "127.0.0.1:http", "port"),
        ("http_listen", "127.0.0.1:65536", "port"),
        ("http_listen", "127.0.0.1:-1", "port"),
        ("http_listen", "::1:8001", "IPv6"),
        ("rpc_listen", "http://127.0.0.1:9001", "is a URL"),
        ("seeds", "n1:9001,n2", "'n2' is not of the form host:port"),
        ("seeds", "http://n1:8001", "is a URL"),
        ("seeds", "n1:0", "port 0"),
        ("seeds", "0.0.0.0:9001", "wildcard"),
        ("seeds", 5, "list of host:port"),
        ("advertise_rpc", "0.0.0.0:9001", "wildcard"),
        ("advertise_http", "[::]:8001", "wildcard"),
        ("advertise_http", "n1:0", "port 0"),
        ("data_dir", "", "not a path"),
    ],
)
def test_a_malformed_value_is_named_with_its_origin(key: str, value: Any, words: str) -> None:
    error = refusal({key: value})
    assert error.detail.startswith(f"{key} (flag {FIELDS[key].flag}): ")
    assert words in error.detail
    assert error.advice == f"{key} is {FIELDS[key].help}"


def test_all_problems_are_told_at_once() -> None:
    error = refusal({"r": 4, "pw": 4}, ZOEN="a")
    assert error.detail.startswith("3 settings are wrong:")
    for words in ("KVSTORE_ZOEN", "r=4 (flag --r)", "pw=4 (flag --pw)"):
        assert words in error.detail


# --- contradictions: B22, contradictory settings accepted ------------------------------------------


@pytest.mark.parametrize(
    ("settings", "both", "remedy"),
    [
        ({"r": 4}, ("r=4 (flag --r)", "n=3 (default)"), "set r to at most 3, or n to at least 4"),
        ({"w": 2, "n": 1}, ("w=2 (flag --w)", "n=1 (flag --n)"), "set w to at most 1"),
        ({"pr": 3}, ("pr=3 (flag --pr)", "r=0 (default), the majority 2 of n"), "set pr to at most 2"),
        ({"pw": 2, "w": 1}, ("pw=2 (flag --pw)", "w=1 (flag --w)"), "set pw to at most 1"),
        (
            {"bootstrap_expect": 1},
            ("n=3 (default)", "needs at least 3 nodes", "bootstrap_expect=1 (flag --bootstrap-expect)"),
            "set n=1 or bootstrap_expect=3",
        ),
        (
            {"conflict": "last-write-wins", "blind": "reject"},
            ("conflict=last-write-wins (flag --conflict)", "blind=reject (flag --blind)"),
            "blind=overwrite",
        ),
        ({"ttl_s": 0.0001}, ("ttl_s=0.0001 (flag --ttl-s)",), "0 for never"),
        ({"requests_per_s": 1e-5}, ("requests_per_s=1e-05 (flag --requests-per-s)",), "0 for any number"),
        (
            {"rpc_listen": "127.0.0.1:8001"},
            ("rpc_listen=127.0.0.1:8001 (flag --rpc-listen)", "http_listen=127.0.0.1:8001 (default)"),
            "own port",
        ),
        (
            {"seeds": "192.0.2.7:9001"},
            ("192.0.2.7:9001", "seeds=192.0.2.7:9001 (flag --seeds)", "rpc_listen=127.0.0.1:9001 (default)"),
            "set advertise_rpc",
        ),
        (
            {"siblings_warn": 200},
            ("siblings_warn=200 (flag --siblings-warn)", "siblings_max=100 (default)"),
            "lower siblings_warn or raise siblings_max",
        ),
        (
            {"value_bytes_max": 4 * 2**20, "scan_bytes_max": 4 * 2**20, "frame_bytes_max": 4 * 2**20},
            ("value_bytes_max=4194304", "fits no frame", "frame_bytes_max=4194304"),
            "raise frame_bytes_max above",
        ),
        (
            {"value_bytes_max": 8 * 2**20, "scan_bytes_max": 8 * 2**20, "frame_bytes_max": 16 * 2**20},
            ("value_bytes_max=8388608", "state_bytes_max=7340032 (default)"),
            "raise state_bytes_max",
        ),
        (
            {"scan_bytes_max": 9 * 2**20},
            ("scan_bytes_max=9437184", "frame_bytes_max=8388608 (default)"),
            "raise frame_bytes_max",
        ),
        (
            {"peer_deadline_s": 1.5},
            ("peer_deadline_s=1.5 (flag --peer-deadline-s)", "request_timeout_s=2.0 (default)"),
            "lower peer_deadline_s",
        ),
        (
            {"request_timeout_s": 90},
            ("request_timeout_s=90.0", "request_timeout_max_s=60.0 (default)"),
            "raise request_timeout_max_s",
        ),
    ],
)
def test_contradictions_name_both_settings_their_origins_and_the_remedy(
    settings: dict[str, Any], both: tuple[str, ...], remedy: str
) -> None:
    error = refusal(settings)
    for part in both:
        assert part in error.detail
    assert remedy in error.advice


def test_a_node_of_its_own_needs_both_counts() -> None:
    config = loaded({"n": 1, "bootstrap_expect": 1})
    assert config.bucket.default_quorum.n == 1


def test_the_origin_in_a_contradiction_is_where_the_value_was_written(tmp_path: Path) -> None:
    file = tmp_path / "kv.toml"
    file.write_text("w = 3")
    assert f"w=3 (file {file}) is more than n=2 (env KVSTORE_N)" in refusal({}, file, N="2").detail


def test_a_data_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.write_text("")
    assert "is not a directory" in refusal({"data_dir": file}).detail


def test_a_data_directory_must_be_named() -> None:
    with pytest.raises(ConfigError, match="data_dir is not set"):
        load({}, {"KVSTORE_CLUSTER_KEY": KEY})


# --- who may connect -------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["192.0.2.1:8001", "n1:8001", "0.0.0.0:8001", "[::]:8001"])
@pytest.mark.parametrize("listen", ["http_listen", "rpc_listen"])
def test_other_machines_are_let_in_only_with_a_key_and_a_token(listen: str, address: str) -> None:
    given = {"http_listen": "127.0.0.1:1", "rpc_listen": "127.0.0.1:2", listen: address}
    given["advertise_" + listen.removesuffix("_listen")] = "n1:8001"
    error = refusal(given)
    assert f"{listen}={address} (flag --{listen.replace('_', '-')})" in error.detail
    assert "client_tokens_file or client_token_file not set" in error.detail
    assert "listen on 127.0.0.1:8001" in error.advice
    assert getattr(loaded(given, CLIENT_TOKEN=TOKEN).node, listen) == address


def test_a_missing_cluster_key_is_part_of_the_refusal() -> None:
    with pytest.raises(ConfigError) as caught:
        load({"http_listen": "192.0.2.1:8001", "data_dir": "/nowhere/data"})
    assert "cluster_key_file and client_tokens_file or client_token_file not set" in caught.value.detail


@pytest.mark.parametrize("address", ["127.0.0.1:8001", "localhost:8001", "[::1]:8001", "127.8.8.8:0"])
def test_loopback_needs_no_client_token(address: str) -> None:
    assert loaded({"http_listen": address}).security.client_token == ""


def test_a_wildcard_needs_an_address_to_tell_others() -> None:
    error = refusal({"http_listen": "0.0.0.0:8001"}, CLIENT_TOKEN=TOKEN)
    assert "http_listen=0.0.0.0:8001 (flag --http-listen) is a wildcard" in error.detail
    assert "set advertise_http" in error.advice


# --- secrets ---------------------------------------------------------------------------------------


def test_there_is_no_default_cluster_key() -> None:
    with pytest.raises(ConfigError) as caught:
        load({"data_dir": "/nowhere/data"})
    assert caught.value.detail == "no cluster key is set; there is no default"
    assert "kvstore keygen" in caught.value.advice


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("changeme", "has 6 bytes"),
        (KEY[:62], "has 31 bytes, at least 32"),
        ("not a key at all!", "neither hex nor base64"),
        ("ab" * 40, "repeats itself"),
        ("A" * 64, "repeats itself"),
        ("Z" * 44, "repeats itself"),
    ],
)
def test_a_weak_key_is_refused_without_being_shown(key: str, words: str) -> None:
    error = refusal(CLUSTER_KEY=key)
    assert words in error.detail
    assert "env KVSTORE_CLUSTER_KEY" in error.detail
    assert key not in error.detail + error.advice


def test_one_key_in_hex_and_base64_is_one_key() -> None:
    from base64 import b64encode, urlsafe_b64encode

    key = bytes.fromhex(KEY)
    spelled = (KEY, KEY.upper(), b64encode(key).decode(), urlsafe_b64encode(key).decode().rstrip("="))
    assert {parse_cluster_key(f" {text}\n") for text in spelled} == {key}


def test_secrets_are_read_from_files(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(KEY + "\n")
    (tmp_path / "token").write_text(TOKEN + "\n")
    config = load(
        {
            "data_dir": "/nowhere/data",
            "cluster_key_file": tmp_path / "key",
            "client_token_file": tmp_path / "token",
        }
    )
    assert config.security.cluster_key == bytes.fromhex(KEY)
    assert config.security.client_token == TOKEN


@pytest.mark.parametrize("secret", ["cluster_key", "client_token"])
def test_a_secret_and_its_file_contradict_each_other(secret: str, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(KEY)
    error = refusal({f"{secret}_file": file}, CLIENT_TOKEN=TOKEN)
    assert f"both {secret} (env KVSTORE_{secret.upper()}) and {secret}_file={file} (flag" in error.detail


@pytest.mark.parametrize(
    ("content", "words"), [(None, "No such file"), (b"", "is empty"), (b"\xff\xfe", "not text")]
)
def test_an_unusable_secret_file_is_named(content: bytes | None, words: str, tmp_path: Path) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load({"data_dir": "/nowhere/data", "cluster_key_file": file})
    assert words in caught.value.detail
    assert str(file) in caught.value.detail


@pytest.mark.parametrize("token", ["short", "with spaces in between", "umlaute-äöü-äöü-äöü"])
def test_a_token_that_can_be_guessed_or_not_sent_is_refused_unseen(token: str) -> None:
    error = refusal(CLIENT_TOKEN=token)
    assert "env KVSTORE_CLIENT_TOKEN" in error.detail
    assert token not in error.detail + error.advice


def test_secrets_show_in_no_repr_and_in_no_message() -> None:
    config = loaded(CLIENT_TOKEN=TOKEN)
    shown = repr(config) + str(config)
    assert KEY not in shown
    assert repr(config.security.cluster_key) not in shown
    assert TOKEN not in shown

    settings, _ = read_settings({}, {"KVSTORE_CLUSTER_KEY": KEY})
    assert settings.said("cluster_key") == "cluster_key (env KVSTORE_CLUSTER_KEY)"


def test_secrets_have_no_flags() -> None:
    """Every user of a machine can read its command lines."""
    assert {f.key for f in FIELDS.values() if not f.flag} == {"cluster_key", "client_token"}


# --- legal, but ------------------------------------------------------------------------------------


def test_legal_settings_with_a_hidden_cost_are_pointed_out(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(KEY)
    key.chmod(0o644)
    config = load(
        {"data_dir": "/nowhere/data", "cluster_key_file": key, "w": 1, "durability": "async", "seeds": ""}
    )
    for part, warning in zip(
        ("w=1 (flag --w) do not overlap", "durability=async", "no seeds", "chmod o-rwx"),
        config.warnings,
        strict=True,
    ):
        assert part in warning

    key.chmod(0o600)
    assert (
        load({"data_dir": "/nowhere/data", "cluster_key_file": key, "seeds": "127.0.0.1:9002"}).warnings == ()
    )


# --- the table -------------------------------------------------------------------------------------


def test_every_setting_says_what_it_is_and_what_a_wrong_one_costs() -> None:
    for field in FIELDS.values():
        assert field.help, field.key
        assert field.wrong, field.key


def test_every_value_of_a_node_can_be_set_and_every_setting_is_one() -> None:
    values = {f.name for kind in (NodeConfig, BucketProperties, Limits) for f in fields(kind) if f.init}
    assert values <= set(FIELDS)
    assert set(FIELDS) - values == {
        "cluster_key",
        "cluster_key_file",
        "client_token",
        "client_token_file",
        "client_tokens_file",
        "http_certificate_file",
        "http_key_file",
        "rpc_certificate_file",
        "rpc_key_file",
        "rpc_ca_file",
        "log_level",
        "log_format",
    }
    assert set(LIMIT_WORDS) == {f.name for f in fields(Limits)}


@pytest.mark.parametrize(("given", "value"), [("true", True), ("false", False), (False, False)])
def test_a_flag_is_true_or_false(given: object, value: bool) -> None:
    settings, problems = read_settings({"sloppy": given}, {})
    assert (settings["sloppy"].value, problems) == (value, [])
    assert display(settings["sloppy"].value) == str(value).lower()


def test_every_default_is_within_its_own_bounds() -> None:
    given = {
        key: field.default
        for key, field in FIELDS.items()
        if field.default not in (None, "") and not field.secret
    }
    settings, problems = read_settings(given, {})
    assert problems == []
    assert {key: settings[key].value for key in given} == given


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("[::1]:8001", ("::1", 8001)),
        ("n1.example:65535", ("n1.example", 65535)),
    ],
)
def test_addresses(address: str, parts: tuple[str, int]) -> None:
    assert split_address(address) == parts


@pytest.mark.parametrize("address", ["", ":1", "[]:1", "a b:1", "a:", "a:²", "a/b:1", "u@h:1", "[::1]"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ValueError, match=r"address|port"):
        split_address(address)


def test_a_name_may_mean_any_machine() -> None:
    assert is_loopback("LOCALHOST")
    assert not is_loopback("n1")
