"""What clients do: YCSB's core workloads A to F, and mixes of one's own. Pure.

    A   50 % reads, 50 % updates            zipfian     a session store
    B   95 % reads, 5 % updates             zipfian     tags of photos
    C   reads                               zipfian     a cache of profiles
    D   95 % reads, 5 % inserts             latest      status updates
    E   95 % scans of 1 to 100, 5 % inserts zipfian     threads of a conversation
    F   50 % reads, 50 % read-modify-write  zipfian     a database of users

`get` and `put` are nothing but that, over all keys alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import NamedTuple

from kvstore.bench.keys import DISTRIBUTIONS, Keys
from kvstore.errors import InvalidRequest

SCAN_ITEMS_MAX = 100


class Kind(Enum):
    READ = "read"
    UPDATE = "update"
    INSERT = "insert"
    SCAN = "scan"
    MODIFY = "modify"  # a read, and a write that carries what was read


class Operation(NamedTuple):
    """`key` is a number; `items` how many keys a scan asks for."""

    kind: Kind
    key: int
    items: int = 0


@dataclass(frozen=True, slots=True)
class Workload:
    """`mix`: shares of operations, 1 together. `keys`: a name of DISTRIBUTIONS."""

    name: str
    mix: Mapping[Kind, float]
    keys: str


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("A", {Kind.READ: 0.5, Kind.UPDATE: 0.5}, "zipfian"),
        Workload("B", {Kind.READ: 0.95, Kind.UPDATE: 0.05}, "zipfian"),
        Workload("C", {Kind.READ: 1.0}, "zipfian"),
        Workload("D", {Kind.READ: 0.95, Kind.INSERT: 0.05}, "latest"),
        Workload("E", {Kind.SCAN: 0.95, Kind.INSERT: 0.05}, "zipfian"),
        Workload("F", {Kind.READ: 0.5, Kind.MODIFY: 0.5}, "zipfian"),
        Workload("get", {Kind.READ: 1.0}, "uniform"),
        Workload("put", {Kind.UPDATE: 1.0}, "uniform"),
        Workload("insert", {Kind.INSERT: 1.0}, "uniform"),
    )
}


def workload_named(name: str) -> Workload:
    """Raises InvalidRequest."""
    try:
        return WORKLOADS[name]
    except KeyError:
        raise InvalidRequest(f"no workload {name!r}", advice=f"one of {', '.join(WORKLOADS)}") from None


class Operations:
    """The operations of one process of the load, without end.

    `first`, `step`: which new keys are its own, so that several processes insert without meeting:
    `keys` + `first`, `keys` + `first` + `step`, and so on. Reads take keys of the initial ones and of its
    own acknowledged inserts only, or a slow insert would look like a lost key.
    """

    def __init__(
        self, workload: Workload, keys: int, random: Random, *, first: int = 0, step: int = 1
    ) -> None:
        self._random, self._keys = random, keys
        self._first, self._step = first, step
        self._choice: Keys = DISTRIBUTIONS[workload.keys]()
        self._kinds, total = [], 0.0
        for kind, share in workload.mix.items():
            total += share
            self._kinds.append((total, kind))
        self._kinds[-1] = (1.0, self._kinds[-1][1])
        self._inserted = self._known = 0
        self._early: set[int] = set()

    def next(self) -> Operation:
        luck = self._random.random()
        kind = next(kind for share, kind in self._kinds if luck < share)
        if kind is Kind.INSERT:
            self._inserted += 1
            return Operation(kind, self._keys + self._first + (self._inserted - 1) * self._step)
        number = self._choice.draw(self._random, max(1, self._keys + self._known))
        if number >= self._keys:
            number = self._keys + self._first + (number - self._keys) * self._step
        items = self._random.randint(1, SCAN_ITEMS_MAX) if kind is Kind.SCAN else 0
        return Operation(kind, number, items)

    def acknowledged(self, key: int) -> None:
        """An insert is done: later reads may ask for it, once all before it are done as well."""
        self._early.add((key - self._keys - self._first) // self._step)
        while self._known in self._early:
            self._early.discard(self._known)
            self._known += 1


def key_text(number: int) -> str:
    """Of one length, so that keys sort as their numbers do."""
    return f"user{number:012d}"


def value_of(value_bytes: int, random: Random) -> bytes:
    """Letters by chance: nothing that an engine could compress away, and text for stores that want text."""
    return bytes(
        random.choices(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", k=value_bytes)
    )
