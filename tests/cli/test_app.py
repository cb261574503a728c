"""The frame of the command line: help, unknown verbs, what an error looks like, life without click."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from kvstore import errors
from kvstore.cli import NO_CLICK
from kvstore.cli.app import VERBS, app
from kvstore.cli.output import Exit, exit_code_of, shown_key, table
from tests.cli.conftest import Type


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


@pytest.mark.parametrize("path", list(commands(app)), ids=" ".join)
def test_every_verb_has_an_example_in_its_help(path: tuple[str, ...], type_: Type) -> None:
    result = type_(*path, "--help")
    assert result.exit_code == 0
    examples = [line for line in result.stdout.splitlines() if line.strip().startswith("kvstore ")]
    assert path == ("config",) or examples or path == ("healthcheck",)


def test_the_help_lists_every_verb(type_: Type) -> None:
    text = type_("--help").stdout
    for verb in VERBS:
        assert f"\n  {verb} " in text


def test_an_unknown_verb_is_refused_with_the_nearest_one(type_: Type) -> None:
    result = type_("helthcheck")
    assert result.exit_code == 2
    assert "did you mean 'healthcheck'?" in result.stderr.lower()


@pytest.mark.parametrize(
    ("error", "read", "write"),
    [
        (errors.ConfigError("x"), Exit.USAGE, Exit.USAGE),
        (errors.NotFound("x"), Exit.NOT_FOUND, Exit.NOT_FOUND),
        (errors.SiblingsError("x"), Exit.CONFLICT, Exit.CONFLICT),
        (errors.PreconditionFailed("x"), Exit.CONFLICT, Exit.CONFLICT),
        (errors.ConnectError("x"), Exit.UNAVAILABLE, Exit.UNAVAILABLE),
        (errors.Overloaded("x"), Exit.UNAVAILABLE, Exit.UNAVAILABLE),
        (errors.QuorumNotMet("x", outcome="unknown"), Exit.UNAVAILABLE, Exit.UNKNOWN),
        (errors.RequestTimeout("x", outcome="unknown"), Exit.UNAVAILABLE, Exit.UNKNOWN),
        (errors.QuorumUnavailable("x", outcome="failed"), Exit.UNAVAILABLE, Exit.UNAVAILABLE),
        (errors.TooLarge("x"), Exit.ERROR, Exit.ERROR),
        (errors.Unauthorized("x"), Exit.ERROR, Exit.ERROR),
        (errors.BatchError("x"), Exit.ERROR, Exit.ERROR),
    ],
)
def test_one_exit_code_per_kind_of_end(error: errors.KVStoreError, read: Exit, write: Exit) -> None:
    assert exit_code_of(error, writes=False) == read
    assert exit_code_of(error, writes=True) == write


def test_the_codes_are_those_of_the_documentation(type_: Type) -> None:
    said = type_("--help").stdout
    for code, words in enumerate(
        ("ok", "error", "usage", "not found", "conflict", "unavailable", "outcome unknown")
    ):
        assert f"{code} {words}" in said
        assert words.endswith(Exit(code).name.lower().replace("_", " "))


def test_an_error_is_a_line_and_a_hint_and_with_debug_a_traceback(place: Path) -> None:
    command = [sys.executable, "-m", "kvstore", "dev", "kill", "n1"]
    plain = subprocess.run(command, capture_output=True, text=True)
    assert plain.returncode == Exit.NOT_FOUND
    assert plain.stderr == "error: no cluster in .dev\nhint: start one: kvstore dev up\n"
    debug = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "KVSTORE_DEBUG": "1"})
    assert "Traceback" in debug.stderr
    assert "NotFound" in debug.stderr


def test_an_error_of_the_system_is_one_line_too(type_: Type, place: Path) -> None:
    result = type_("keygen", "no-such-directory/cluster.key")
    assert result.exit_code == Exit.ERROR
    assert result.stderr == "error: no-such-directory/cluster.key: No such file or directory\n"


def test_without_click_one_line_says_what_to_install(place: Path) -> None:
    """A module of that name that cannot be imported stands for one that is not installed."""
    (place / "click.py").write_text("raise ModuleNotFoundError('click')")
    result = subprocess.run(
        [sys.executable, "-m", "kvstore", "get", "b", "k"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{place}{os.pathsep}{Path(__file__).parents[2]}"},
    )
    assert (result.returncode, result.stderr, result.stdout) == (2, NO_CLICK + "\n", "")


def test_a_reader_that_has_enough_is_no_error(place: Path) -> None:
    """kvstore config show | head -1"""
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "kvstore", "config", "show", "--all", "--describe"],
        stdout=writing,
        stderr=subprocess.PIPE,
    )
    os.close(writing)
    os.close(reading)
    _, complaints = process.communicate(timeout=20)
    assert (process.returncode, complaints) == (0, b"")


def test_the_health_check_imports_nothing_heavy(place: Path) -> None:
    """It runs every few seconds beside the node."""
    script = (
        "import sys, kvstore\nbefore = set(sys.modules)\nfrom kvstore.cli.app import app\n"
        "try: app(['healthcheck', '--url', 'http://127.0.0.1:1'])\n"
        "except SystemExit as end: print(end.code)\n"
        "heavy = {'aiohttp', 'asyncio', 'msgpack', 'prometheus_client', 'rocksdict', 'structlog'}\n"
        "print(sorted(heavy & (set(sys.modules) - before)))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stdout.splitlines()[1:] == ["1", "[]"]


def test_keys_are_shown_on_one_line() -> None:
    assert shown_key(b"caf\xc3\xa9\n\xff") == "café\\n\\xff"


def test_tables_are_aligned() -> None:
    assert table([["a", "bb"], ["ccc", 1]]) == ["a    bb", "ccc  1"]
    assert table([]) == []
