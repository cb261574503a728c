"""Faults, clusters and timelines in the words of a command line.

n2@5s                   at 5 s          (a kill: back after 3 s; with n2@5s+10s after 10 s)
n1@3s+2s                from 3 s on for 2 s
n1,n2:n3@8s+4s          between these two groups, both ways
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from kvstore.errors import ConfigError
from kvstore.simulation.plan import Fault, Machine
from kvstore.simulation.world import Run

FOR_S = 3.0
"""How long a fault lasts that does not say it."""

_FORM = re.compile(r"(?P<nodes>[^@:]+)(:(?P<others>[^@:]+))?@(?P<at>[0-9.]+)s?(\+(?P<for>[0-9.]+)s?)?")
_COUNTS = {"n", "r", "w"}
_TABLE = {*_COUNTS, "nodes"}
_NODE = {"name", "zone", "host"}
_OPERATIONS_MAX = 80


def fault_of(kind: str, text: str) -> Fault:
    """Raises ConfigError with the form that is meant."""
    two_sides = kind == "split"
    found = _FORM.fullmatch(text)
    if found is None or two_sides is not bool(found["others"]):
        form = "n1,n2:n3@8s+4s" if two_sides else "n2@5s+3s"
        raise ConfigError(f"{text!r} is not of the form {form}", advice="names, then when, then for how long")
    try:
        at_s, for_s = float(found["at"]), float(found["for"] or FOR_S)
    except ValueError:
        raise ConfigError(f"{text!r}: times are seconds, as in 5s or 0.5s") from None
    return Fault(kind, at_s, for_s, _names(found["nodes"]), _names(found["others"] or ""))


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for part in text.split(",") if (name := part.strip()))


def cluster_of(path: Path) -> tuple[tuple[Machine, ...], dict[str, int]]:
    """(machines, counts among n, r and w) of a TOML file. Raises ConfigError.

    n = 3
    [[nodes]]
    name = "n1"
    zone = "a"
    host = "rack-7"
    """
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None
    _refuse_unknown(path, table, _TABLE)
    nodes = table.get("nodes")
    if not isinstance(nodes, list) or not nodes:
        raise ConfigError(f"{path} names no nodes", advice='add tables: [[nodes]] name = "n1" zone = "a"')
    machines = []
    for node in nodes:
        _refuse_unknown(path, node, _NODE)
        if not all(isinstance(value, str) for value in node.values()) or not node.get("name"):
            raise ConfigError(f"{path}: a node needs a name; name, zone and host are text")
        machines.append(Machine(node["name"], node.get("zone", ""), node.get("host", "")))
    counts: dict[str, Any] = {name: value for name, value in table.items() if name in _COUNTS}
    if not all(type(count) is int and count > 0 for count in counts.values()):
        raise ConfigError(f"{path}: n, r and w are counts of nodes")
    return tuple(machines), counts


def _refuse_unknown(path: Path, table: object, known: set[str]) -> None:
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: nodes are tables, [[nodes]]")
    if unknown := sorted(table.keys() - known):
        raise ConfigError(f"{path}: unknown name {unknown[0]!r}", advice=f"known: {', '.join(sorted(known))}")


def timeline_of(run: Run, keys: Collection[str]) -> list[str]:
    """The faults of a run, and the operations on these keys; only the newest of these where they are many."""
    lines = []
    operations = [at for at, (_, what, f) in enumerate(run.timeline) if what == "operation" and f[3] in keys]
    told = set(operations[-_OPERATIONS_MAX:])
    for at, (time_s, what, fields) in enumerate(run.timeline):
        if what != "operation":
            text = " ".join([what, *(str(f) for f in fields if f not in ((), ""))])
        elif at in told:
            client, number, kind, key, ended, error, seen = fields
            shown = f" saw {', '.join(name.decode() for name in seen)}" if seen else ""
            text = f"client {client}: {kind} {key} (w{number}) {ended}{f' {error}' if error else ''}{shown}"
        else:
            continue
        lines.append(f"{time_s:9.3f} s  {text}")
    if len(operations) > len(told):
        lines.insert(0, f"({len(operations) - len(told)} operations before these are left out)")
    return lines
