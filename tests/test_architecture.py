"""House rules: which room may know which, what rules may not call, how large things may get.

The sizes are ratchets: they may be lowered, and raised only with a reason beside the number.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "kvstore"

# Left may import right, and its own files. `errors` is open to all.
ARROWS: dict[str, set[str]] = {
    "core": set(),
    "node": {"core"},
    "storage": {"core", "node.ports"},  # ports: the shape it adapts to
    "rpc": {"core"},
    "httpapi": {"node", "core"},
    "config": {"core"},
    "server": {"httpapi", "rpc", "storage", "node", "config", "core", "logs", "machine"},
    "machine": {"core"},
    "logs": set(),
    "client": set(),
    "testing": {"server", "client", "config", "core"},
    "simulation": {"node", "core", "storage.memory"},  # a disk in memory is part of the simulated world
    "bench": {"client"},  # a load knows a cluster as its users do
    "cli": {"client", "server", "config", "core", "logs", "simulation", "bench"},
    "__main__": {"cli"},
    "__init__": {"client"},
    "errors": set(),
}

CORE_MAY_IMPORT = {
    "__future__", "array", "base64", "bisect", "collections", "dataclasses", "difflib", "enum", "functools",
    "hashlib", "heapq", "hmac", "itertools", "math", "re", "struct", "typing", "kvstore",
}  # fmt: skip
MSGPACK_IN_CORE = {"encoding.py"}  # the bytes that every hop passes on; see its docstring

# Time and chance are arguments of a rule and ports of a loop.
BANNED_CALLS = {
    "time.time", "time.monotonic", "time.perf_counter", "time.sleep", "datetime.now", "datetime.utcnow",
    "random.random", "random.choice", "random.randint", "random.uniform", "random.shuffle", "uuid.uuid4",
    "uuid.uuid1", "os.urandom", "secrets.token_bytes", "secrets.token_hex", "asyncio.wait_for",
    "asyncio.as_completed", "asyncio.wait", "asyncio.TaskGroup", "print", "open", "input", "hash",
}  # fmt: skip
BANNED_IN_CORE = {"await", "async def", "yield from asyncio"}

FILE_LINES_MAX = 450
FUNCTION_LINES_MAX = 70

# Every term of the field that the code uses has one file that says what it is.
GLOSSARY = {
    "admission": "core/admission.py",
    "anti entropy": "node/anti_entropy.py",
    "backoff": "core/backoff.py",
    "bucket": "core/bucket.py",
    "causal context": "core/vector_clock.py",
    "circuit breaker": "core/circuit_breaker.py",
    "coordinator": "node/coordinator.py",
    "credential": "core/credential.py",
    "degradation": "core/degradation.py",
    "dot": "core/vector_clock.py",
    "gossip": "node/gossip.py",
    "gray failure": "core/circuit_breaker.py",
    "hedge": "core/hedging.py",
    "hint": "core/hint.py",
    "hinted handoff": "node/hinted_handoff.py",
    "hybrid": "core/hybrid_clock.py",
    "layout": "core/layout.py",
    "member": "core/membership.py",
    "merkle tree": "core/merkle_tree.py",
    "outcome": "core/outcome.py",
    "partition": "core/ring.py",
    "preference list": "core/preference_list.py",
    "progress": "core/generation.py",
    "quorum": "core/quorum.py",
    "read repair": "core/read_repair.py",
    "recognition": "node/recognition.py",
    "recovery": "node/recovery.py",
    "replica": "node/replica.py",
    "scrub": "node/scrub.py",
    "sibling": "core/sibling.py",
    "sloppy quorum": "node/stand_ins.py",
    "stand in": "node/stand_ins.py",
    "token": "core/token.py",
    "token bucket": "core/token_bucket.py",
    "tombstone": "core/sibling.py",
    "watermark": "core/watermarks.py",
}


@cache
def modules() -> tuple[tuple[Path, ast.Module], ...]:
    return tuple((path, ast.parse(path.read_text())) for path in sorted(PACKAGE.rglob("*.py")))


def room_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0].removesuffix(".py")


def imports_of(tree: ast.Module, *, only_at_start: bool = False) -> Iterator[str]:
    """Full names of imported modules; with `only_at_start` those that an import of the file runs."""
    nodes: Iterator[ast.AST] = iter(tree.body) if only_at_start else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "kvstore":
                yield from (f"kvstore.{alias.name}" for alias in node.names)
            else:
                yield node.module


def test_the_walk_sees_every_room() -> None:
    rooms = {room_of(path) for path, _ in modules()}
    assert rooms >= {"core", "node", "storage", "rpc", "httpapi", "client", "cli", "errors", "server"}
    assert rooms <= ARROWS.keys(), f"rooms without arrows: {rooms - ARROWS.keys()}"


def test_arrows() -> None:
    wrong = []
    for path, tree in modules():
        room = room_of(path)
        for name in imports_of(tree):
            if not name.startswith("kvstore."):
                continue
            target = name.removeprefix("kvstore.")
            allowed = ARROWS[room] | {room, "errors"}
            if not any(target == a or target.startswith(f"{a}.") for a in allowed):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_core_imports_nothing_that_waits_talks_or_draws() -> None:
    wrong = []
    for path, tree in modules():
        if room_of(path) != "core":
            continue
        allowed = CORE_MAY_IMPORT | ({"msgpack"} if path.name in MSGPACK_IN_CORE else set())
        wrong += [f"{path.name} imports {n}" for n in imports_of(tree) if n.split(".")[0] not in allowed]
        wrong += [
            f"{path.name}:{node.lineno} waits"
            for node in ast.walk(tree)
            if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith)
        ]
    assert not wrong


def test_rules_and_motion_take_time_and_chance_from_their_ports() -> None:
    wrong = []
    for path, tree in modules():
        if room_of(path) not in ("core", "node"):
            continue
        wrong += [
            f"{path.relative_to(ROOT)}:{node.lineno} calls {ast.unparse(node.func)}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and ast.unparse(node.func) in BANNED_CALLS
        ]
    assert not wrong


def test_node_knows_no_adapter_library() -> None:
    libraries = {
        "aiohttp",
        "msgpack",
        "rocksdict",
        "click",
        "structlog",
        "prometheus_client",
        "socket",
        "ssl",
    }
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path, tree in modules()
        if room_of(path) == "node"
        for name in imports_of(tree)
        if name.split(".")[0] in libraries
    ]
    assert not wrong


@pytest.mark.parametrize(
    ("first", "rooms"),
    [("kvstore", set()), ("kvstore.KVStoreError", {"errors"}), ("kvstore.Client", {"client", "errors"})],
)
def test_importing_kvstore_loads_what_is_used_and_no_server_code(first: str, rooms: set[str]) -> None:
    code = f"import sys, kvstore; {first}; print(*(m for m in sys.modules if m.startswith('kvstore.')))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert {name.split(".")[1] for name in loaded.split()} == rooms


def test_all_public_names_are_there() -> None:
    import kvstore

    for name in kvstore.__all__:
        assert getattr(kvstore, name) is not None
        assert name in dir(kvstore)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        kvstore.Nothing  # noqa: B018


def test_every_module_says_what_it_is() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path, tree in modules()
        if tree.body and not ast.get_docstring(tree) and path.name != "__init__.py"
    ]
    assert not silent


def test_files_and_functions_stay_readable() -> None:
    large = []
    for path, tree in modules():
        lines = path.read_text().count("\n")
        if lines > FILE_LINES_MAX:
            large.append(f"{path.relative_to(ROOT)}: {lines} lines")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
                length = node.end_lineno - node.lineno + 1
                if length > FUNCTION_LINES_MAX:
                    large.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {length} lines")
    assert not large


@pytest.mark.parametrize(("term", "home"), GLOSSARY.items())
def test_every_term_has_its_file(term: str, home: str) -> None:
    docstring = ast.get_docstring(ast.parse((PACKAGE / home).read_text())) or ""
    text = (PACKAGE / home).read_text().lower()
    assert docstring
    assert term.replace(" ", "").rstrip("s") in re.sub(r"[\s_-]", "", text), (
        f"{home} does not speak of {term}"
    )


def test_errors_are_drawn_at_the_top_of_their_file() -> None:
    from kvstore import errors

    drawn = set(re.findall(r"^[\s|+]*\+ (\w+)", errors.__doc__ or "", re.MULTILINE))
    defined = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.KVStoreError) and name != "KVStoreError"
    }
    assert drawn == defined


def test_nothing_names_the_machine_it_was_written_on() -> None:
    """No private path, no private document: what a reader cannot open, no file may cite."""
    suspicious = re.compile(r"/work/|\bdesign \d|[Ii]ssue \d|farm-|\.library")
    tracked = [
        path
        for folder in ("kvstore", "tests", "benchmarks", "examples", "deploy")
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in {".py", ".md", ".toml", ".yml", ".sh", ""} and path.is_file()
    ]
    assert len(tracked) > 50
    hits = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in tracked
        if path != Path(__file__) and (match := suspicious.search(path.read_text(errors="ignore")))
    ]
    assert not hits
