"""Making, listing and revoking tokens; what the file holds, and what nodes make of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvstore.config.tokens import parse_tokens, read_tokens
from kvstore.core.credential import Role, hash_of
from kvstore.errors import ConfigError
from tests.cli.conftest import Type


def test_a_new_token_is_printed_once_and_the_file_knows_its_hash_only(type_: Type, place: Path) -> None:
    made = type_("token", "new", "shop", "--role", "write", "--bucket", "carts", "--bucket", "shop-*",
                 "--into", "tokens.toml")  # fmt: skip
    assert made.exit_code == 0, made.stderr
    token = made.stdout.strip()
    file = place / "tokens.toml"
    assert token.startswith("kv_")
    assert len(token) >= 43
    assert token not in made.stderr
    assert token not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    principal = read_tokens(file)[hash_of(token.encode())]
    assert (principal.name, principal.role, principal.buckets) == ("shop", Role.WRITE, ("carts", "shop-*"))


def test_without_a_file_the_entry_is_shown_and_is_one(type_: Type) -> None:
    made = type_("token", "new", "shop", "--role", "read", "--days", "1.5")
    ((digest, principal),) = parse_tokens(made.stderr, "stderr").items()
    assert digest == hash_of(made.stdout.strip().encode())
    assert principal.expires_at_ms > 0
    as_json = type_("token", "new", "ops", "--role", "admin", "-o", "json")
    assert json.loads(as_json.stdout)["role"] == "admin"


def test_names_are_there_once_and_the_file_stays_as_it_was(type_: Type, place: Path) -> None:
    type_("token", "new", "shop", "--role", "read", "--into", "tokens.toml")
    before = (place / "tokens.toml").read_text()
    again = type_("token", "new", "shop", "--role", "admin", "--into", "tokens.toml")
    assert again.exit_code == 2
    assert "there twice" in again.stderr
    assert again.stdout == ""
    assert (place / "tokens.toml").read_text() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-shop-", "--role", "read"], "No such option"),
        (["a b", "--role", "read"], "name must be 1 to 64"),
        (["shop", "--role", "read", "--bucket", "a b"], "no name of a bucket"),
        (["shop", "--role", "read", "--bucket", "*"], "no name of a bucket"),
        (["shop"], "role"),
        (["shop", "--role", "owner"], "owner"),
    ],
)
def test_what_makes_no_sense_is_refused(type_: Type, arguments: list[str], words: str) -> None:
    result = type_("token", "new", *arguments)
    assert result.exit_code == 2
    assert words.lower() in result.stderr.lower()
    assert result.stdout == ""


def test_list_and_revoke_leave_the_rest_of_the_file_as_it_is(type_: Type, place: Path) -> None:
    file = place / "tokens.toml"
    file.write_text("# ours\n")
    for name in ("shop", "ops", "report"):
        type_("token", "new", name, "--role", "read", "--into", "tokens.toml")
    file.write_text(file.read_text() + "# the last line\n")
    file.chmod(0o640)
    listed = json.loads(type_("token", "list", "tokens.toml", "-o", "json").stdout)["tokens"]
    assert [(row["name"], row["buckets"], row["expires"]) for row in listed] == [
        ("shop", "all", "never"), ("ops", "all", "never"), ("report", "all", "never"),
    ]  # fmt: skip
    assert "ops" in type_("token", "list", "tokens.toml").stdout
    before = file.read_text()
    assert type_("token", "revoke", "ops", "tokens.toml").exit_code == 0
    assert [p.name for p in read_tokens(file).values()] == ["shop", "report"]
    start = before.index('[[token]]\nname = "ops"')
    end = before.index('[[token]]\nname = "report"')
    assert file.read_text() == before[:start] + before[end:]
    assert file.stat().st_mode & 0o777 == 0o640
    assert type_("token", "revoke", "ops", "tokens.toml").exit_code == 3


HASH = "ab" * 32
GOOD = f'[[token]]\nname = "shop"\nrole = "read"\nsha256 = "{HASH}"\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x", "is not TOML"),
        ("n = 3", "something else than"),
        ("[token]\nname = 1", "something else than"),
        (GOOD + GOOD, "twice"),
        (GOOD + GOOD.replace("shop", "other"), "twice"),
        (GOOD.replace("read", "root"), "role must be one of read, write, admin"),
        (GOOD.replace(HASH, HASH[:-2]), "sha256 must be 64 hex digits"),
        (GOOD.replace(HASH, HASH.upper()), "sha256 must be 64 hex digits"),
        (GOOD + "token = 'kv_secret'\n", "'token' is none of"),
        (GOOD + "buckets = 'a'\n", "buckets must be a list"),
        (GOOD + "buckets = ['a', 3]\n", "3 is no name of a bucket"),
        (GOOD + "buckets = ['a**']\n", "no name of a bucket"),
        (GOOD + "expires = 3\n", "expires must be a date"),
        (GOOD + "expires = 2027-01-01\n", "expires must be a date with a time"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_the_entry_and_the_remedy(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        parse_tokens(text, "tokens.toml")
    assert words in refusal.value.detail
    assert "kvstore token new" in refusal.value.advice


def test_times_without_a_zone_are_utc() -> None:
    texts = ("2027-01-01T00:00:00", "2027-01-01T00:00:00Z", "2027-01-01T02:00:00+02:00")
    ends = {next(iter(parse_tokens(f"{GOOD}expires = {t}\n", "").values())).expires_at_ms for t in texts}
    assert ends == {1_798_761_600_000}


def test_nodes_refuse_to_start_with_a_wrong_file(type_: Type, place: Path) -> None:
    type_("keygen", "cluster.key")
    (place / "tokens.toml").write_text(GOOD.replace("read", "root"))
    settings = ("config", "check", "--data-dir", "d", "--cluster-key-file", "cluster.key")
    result = type_(*settings, "--client-tokens-file", "tokens.toml")
    assert result.exit_code == 2
    assert "role must be one of" in result.stderr
    assert type_(*settings, "--client-tokens-file", "nowhere.toml").exit_code == 2
    (place / "tokens.toml").write_text(GOOD)
    open_ = type_(*settings, "--client-tokens-file", "tokens.toml", "--http-listen", "192.0.2.1:8001")
    assert open_.exit_code == 0, open_.stderr
