"""What the documents say exists, exists: commands, routes, files, figures, links."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from kvstore.cli.app import VERBS, App
from kvstore.httpapi.metrics import Metrics
from kvstore.testing import LocalCluster

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()


def shell_lines(text: str) -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def test_make_targets_that_are_named_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    named = set(re.findall(r"`?make ([a-z][a-z-]+)`?", README))
    assert {"up", "test", "down"} <= named
    assert named <= targets
    assert {
        "help", "up", "down", "logs", "demo", "test", "check", "lint", "types", "bench",
        "compose-up", "compose-down", "clean",
    } <= targets  # fmt: skip
    assert ".DEFAULT_GOAL := help" in MAKEFILE


def test_commands_that_are_shown_exist() -> None:
    shown = [line for line in shell_lines(README) if line.startswith("kvstore ")]
    shown += re.findall(r"`(kvstore [a-z][^`]*)`", README)
    assert len(shown) >= 4
    for line in shown:
        command: click.Command = App("kvstore")
        for word in shlex.split(line.split("#")[0])[1:]:
            if not isinstance(command, click.Group):
                break
            found = command.get_command(click.Context(command), word)
            assert found is not None, f"{line!r}: no verb {word!r}"
            command = found


def verbs() -> dict[str, click.Command]:
    """By what one types, with the verbs of a group in place of the group."""
    app, found = App("kvstore"), {}
    for name in VERBS:
        command = app.get_command(click.Context(app), name)
        assert command is not None
        if isinstance(command, click.Group):
            found.update({f"{name} {inner}": each for inner, each in command.commands.items()})
        else:
            found[name] = command
    return found


@pytest.mark.parametrize(("verb", "command"), verbs().items(), ids=list(verbs()))
def test_every_verb_has_an_example_in_its_help(verb: str, command: click.Command) -> None:
    with click.Context(command, info_name=f"kvstore {verb}") as context:
        usage, _, text = command.get_help(context).partition("\n")
    assert usage.startswith("Usage:")
    assert f"kvstore {verb}" in text


async def test_routes_of_the_readme_are_the_routes_of_a_node() -> None:
    import aiohttp

    async with (
        LocalCluster(nodes=1) as cluster,
        aiohttp.ClientSession() as session,
        session.get(f"{cluster.endpoints[0]}/openapi.json") as answer,
    ):
        described = await answer.json()
    there = {(method.upper(), path) for path, item in described["paths"].items() for method in item}
    said = set()
    for row in re.findall(r"^\| ((?:GET|PUT|POST|HEAD|DELETE)[^|]*)\|", README, re.MULTILINE):
        for part in re.split(r"(?=\b(?:GET|PUT|POST|HEAD|DELETE)\b)", row):
            methods = re.findall(r"GET|PUT|POST|HEAD|DELETE", part)
            paths = re.findall(r"`(/[^`]*)`", part)
            said |= {(method, path) for method in methods for path in paths}
    # A row such as "GET, HEAD `/path`" gives its paths to all methods that stand before them.
    for first, second, path in re.findall(r"(GET|PUT), (HEAD|PUT|DELETE) `(/[^`]*)`", README):
        said |= {(first, path), (second, path)}
    assert said <= there, said - there
    assert {path for _, path in there} == {path for _, path in said}


def test_files_that_are_named_exist() -> None:
    for text in (README, ARCHITECTURE):
        for path in re.findall(r"`((?:tests|deploy|benchmarks|examples|kvstore)/[\w./-]*)`", text):
            assert (ROOT / path).exists(), path
    for path in re.findall(r"\]\(([\w./-]+\.md)\)", README):
        assert (ROOT / path).exists(), path


def test_rooms_of_the_architecture_are_those_of_the_package() -> None:
    drawn = set(re.findall(r"^  (\w+)(?:/|\.py)\s", ARCHITECTURE.split("```")[1], re.MULTILINE))
    package = ROOT / "kvstore"
    there = {p.stem for p in package.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert there - drawn <= {"__init__", "__main__", "logs"}
    assert drawn <= there
    core = set(re.findall(r"\b(\w+\.py)\b", ARCHITECTURE.split("core/ ")[1].split("storage/ ")[0]))
    for name in core:
        assert (package / "core" / name).exists() or (package / "node" / name).exists(), name


def test_the_tour_and_glossary_of_the_package_name_real_files() -> None:
    import kvstore

    named = re.findall(r"\b((?:core|node|client|storage|rpc|httpapi)/\w+\.py)", kvstore.__doc__ or "")
    assert len(named) > 15
    for path in named:
        assert (ROOT / "kvstore" / path).exists(), path


def test_python_of_the_readme_parses() -> None:
    import ast

    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        ast.parse(block)


def test_names_that_the_readme_imports_are_public() -> None:
    import kvstore

    for names in re.findall(r"from kvstore import (.+)", README):
        for name in names.split(", "):
            assert name in kvstore.__all__


def test_metrics_have_the_prefix_and_base_units() -> None:
    families = list(Metrics().registry.collect())
    assert len(families) >= 5
    for family in families:
        assert family.name.startswith("kvstore_"), family.name
        assert not family.name.endswith(("_ms", "_millis", "_kb", "_mb")), family.name
