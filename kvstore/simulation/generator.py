"""From a seed to a plan: sizes, counts, what clients do and what breaks, all by chance.

Faults of one machine's process or disk do not overlap, so that each can be seen to have hit; those of
links and clocks overlap with everything. The promise survives the loss of W-1 copies, so one machine of a run
loses what it had, and only where W is at least 2: whatever was acknowledged is on another one then, however
often that happens and whether or not the copy was filled again in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kvstore.core.layout import first_layout
from kvstore.core.membership import Member
from kvstore.core.ring import full_key, partition_of
from kvstore.errors import ConfigError
from kvstore.simulation.chance import Chance
from kvstore.simulation.faults import KINDS
from kvstore.simulation.machine import node_id
from kvstore.simulation.plan import BUCKET, SET_PREFIX, Action, Fault, Machine, Plan

WEIGHTS: dict[str, float] = {
    "crash": 3.0,
    "kill-all": 0.5,
    "restart": 1.0,
    "pause": 2.0,
    "cut": 1.5,
    "split": 2.0,
    "isolate": 2.0,
    "bridge": 1.0,
    "flap": 1.0,
    "loss": 1.5,
    "duplicates": 1.0,
    "latency": 1.5,
    "slow": 1.0,
    "clock-jump": 1.0,
    "clock-drift": 0.5,
    "disk-full": 1.0,
    "read-errors": 1.0,
    "failed-sync": 1.0,
    "write-errors": 0.7,
    "bit-flips": 1.0,
    "wipe": 0.8,
    "restore": 0.8,
    "clone": 0.8,
}
"""How often each kind is chosen beside the others."""

LOSSY = ("bit-flips", "wipe", "restore", "clone")
"""Kinds after which a copy may lack what it has acknowledged."""

UNORDERED = ("bit-flips", "restore", "clone")
"""Those after which it may say so for a while; one that was wiped knows it from the start."""

FAULTS_PER_S = 18 / 120
KINDS_SHARE = 0.7  # of the kinds that may be, one run uses about so many
RESTING = ("rest0", "rest1", "rest2")
"""Keys that are mostly deleted, and then left alone for long enough to be collected, again and again."""

REST_PERIOD_S, REST_USED_S = 24.0, 4.0
START_S = 3.0  # before that the cluster forms
QUIET_S = 2.0  # between two faults of one machine

_OWN = ("crash", "restart", "pause", "disk-full", "read-errors", "failed-sync", "write-errors", *LOSSY)
_ON_HOMES = ("disk-full", "read-errors", "failed-sync", "write-errors", "slow")
_SECONDS: dict[str, tuple[float, float]] = {
    "crash": (0.2, 8.0),
    "kill-all": (0.2, 4.0),
    "restart": (0.2, 4.0),
    "pause": (0.3, 8.0),
    "flap": (3.0, 10.0),
    "slow": (3.0, 25.0),
    "clock-jump": (3.0, 30.0),
    "clock-drift": (3.0, 30.0),
    "disk-full": (2.0, 8.0),
    "read-errors": (1.0, 4.0),
    "failed-sync": (1.0, 4.0),
    "write-errors": (1.0, 4.0),
    "wipe": (0.2, 8.0),
    "restore": (5.0, 40.0),
    "clone": (3.0, 15.0),
}
_LINK_SECONDS = (1.5, 8.0)


@dataclass(frozen=True, slots=True)
class Shape:
    """What is not left to chance. None and empty: left to chance.

    `operations_per_s`: of all clients together. `kinds`: of faults.
    """

    duration_s: float = 120.0
    machines: tuple[Machine, ...] = ()
    nodes: int | None = None
    n: int | None = None
    r: int | None = None
    w: int | None = None
    kinds: tuple[str, ...] | None = None
    faults: tuple[Fault, ...] = ()
    operations_per_s: float = 15.0

    def __post_init__(self) -> None:
        for kind in self.kinds or ():
            if kind not in KINDS:
                raise ConfigError(f"no fault is called {kind!r}", advice=f"known: {', '.join(KINDS)}")


def plan_of(seed: int, shape: Shape | None = None) -> Plan:
    """The plan of a seed: the same for the same shape, on any machine."""
    shape = shape or Shape()
    chance = Chance(seed, "plan")
    machines = shape.machines or _machines(chance, shape)
    most = min(3, len(machines))
    n = shape.n or (most if chance.happens("n", 0.9) else chance.pick("n", range(1, most + 1)))
    r = shape.r or chance.pick("r", range(1, n + 1))
    w = shape.w or chance.pick("w", range(1, n + 1))
    keys = _keys(chance)
    holders = _holders(seed, machines, keys, n)
    faults = (*shape.faults, *_Faults(chance, shape, machines, holders, w).planned())
    unordered = any(fault.kind in UNORDERED for fault in faults)
    strict = not unordered and r + w > n and chance.happens("strict", 0.4)
    return Plan(
        seed,
        shape.duration_s,
        machines,
        n=n,
        r=r,
        w=w,
        pr=r if strict else 0,
        pw=w if strict else 0,
        sloppy=chance.happens("sloppy", 0.7),
        monotonic=not unordered and chance.happens("monotonic", 0.3),
        latency_s=chance.pick("latency", (0.0001, 0.0005, 0.002, 0.01)),
        jitter_s=chance.pick("jitter", (0.0001, 0.0005, 0.003, 0.01)),
        loss=chance.pick("loss", (0.0, 0.0, 0.0, 0.001, 0.01)),
        duplicates=chance.pick("duplicates", (0.0, 0.0, 0.001, 0.01)),
        sync_delay_s=chance.pick("sync", (0.0002, 0.001, 0.005, 0.02, 0.1)),
        faults=tuple(sorted(faults, key=lambda fault: fault.at_s)),
        clients=_clients(chance, shape, keys, len(machines)),
    )


def _machines(chance: Chance, shape: Shape) -> tuple[Machine, ...]:
    count = shape.nodes or chance.pick("nodes", (3, 4, 5, 5, 5, 5, 5, 6, 7))
    zones = chance.pick("zones", (1, 3, count))
    shared = chance.happens("shared-hosts", 0.2)
    return tuple(
        Machine(f"n{i + 1}", f"z{i % zones + 1}", f"h{i // 2 + 1}" if shared else "") for i in range(count)
    )


def _keys(chance: Chance) -> list[str]:
    keys = [f"k{i}" for i in range(chance.pick("keys", (2, 4, 8)))]
    keys += [f"{SET_PREFIX}{i}" for i in range(chance.pick("sets", (1, 2)))]
    return keys + list(RESTING)


def _holders(seed: int, machines: Sequence[Machine], keys: Sequence[str], n: int) -> list[str]:
    """Machines that are a home of any key: nobody would notice what happens to the disk of another one."""
    members = [
        Member(node_id(seed, m.name), m.name, "", "", zone=m.zone, host=m.host or m.name) for m in machines
    ]
    layout = first_layout(members)
    names = {member.node_id: member.name for member in members}
    found = {
        names[home] for key in keys for home in layout.homes(partition_of(full_key(BUCKET, key.encode())), n)
    }
    return sorted(found)


# --- what clients do ------------------------------------------------------------------------------------


def _clients(
    chance: Chance, shape: Shape, keys: Sequence[str], machines: int
) -> tuple[tuple[Action, ...], ...]:
    count = chance.pick("clients", (3, 5, 8))
    active_s = shape.duration_s - START_S
    each = max(1, int(active_s * shape.operations_per_s / count))
    clients = []
    for client in range(count):
        mine = chance.sub("client", client)
        home = mine.below("home", machines) if mine.happens("loyal", 0.5) else None
        times = sorted(START_S + mine.uniform("at", 0.0, active_s) for _ in range(each))
        clients.append(
            tuple(
                _action(mine, client * each + i, round(at_s, 3), keys, machines, home)
                for i, at_s in enumerate(times)
            )
        )
    deletes = _deletes(chance.sub("deletes"), shape, count * each, machines)
    return (*clients, *([deletes] if deletes else []))


def _deletes(chance: Chance, shape: Shape, number: int, machines: int) -> tuple[Action, ...]:
    """One more client: whenever a key begins to rest, it reads the key and deletes what it saw."""
    begins = [(_first_used_s(key) + REST_USED_S, key) for key in RESTING]
    times = []
    for first_s, key in begins:
        at_s = first_s
        while at_s < shape.duration_s - REST_USED_S:
            times.append((round(at_s, 3), key))
            at_s += REST_PERIOD_S
    actions = []
    for at_s, key in sorted(times):
        node = chance.below("node", machines)
        actions += [Action(number, at_s, "get", key, node), Action(number + 1, at_s, "delete", key, node)]
        number += 2
    return tuple(actions)


def _action(
    chance: Chance, number: int, at_s: float, keys: Sequence[str], machines: int, home: int | None
) -> Action:
    key = chance.pick("key", [key for key in keys if not _rests(key, at_s)])
    deletes = 0.4 if key in RESTING else 0.1
    kind = chance.weighted("kind", {"get": 0.45, "put": 0.55 - deletes, "delete": deletes})
    if kind == "delete" and key.startswith(SET_PREFIX):
        kind = "get"
    elsewhere = chance.below("node", machines)
    return Action(
        number,
        at_s,
        kind,
        key,
        elsewhere if home is None or chance.happens("elsewhere", 0.1) else home,
        token=chance.happens("token", 0.85),
        retry=chance.happens("retry", 0.5),
        session=kind == "get" and chance.happens("session", 0.3),
        value_bytes=chance.pick("bytes", (0, 0, 100, 1000)) if kind == "put" else 0,
        ask=kind != "get" and chance.happens("ask", 0.5),
    )


def _rests(key: str, at_s: float) -> bool:
    """They take turns, so that there is always one that has rested for some time."""
    return key in RESTING and (at_s - _first_used_s(key)) % REST_PERIOD_S >= REST_USED_S


def _first_used_s(key: str) -> float:
    return START_S + REST_PERIOD_S * RESTING.index(key) / len(RESTING)


# --- what breaks ----------------------------------------------------------------------------------------


class _Faults:
    def __init__(
        self, chance: Chance, shape: Shape, machines: Sequence[Machine], holders: Sequence[str], w: int
    ) -> None:
        self._chance, self._shape, self._holders = chance, shape, holders
        self._names = [machine.name for machine in machines]
        self._busy: dict[str, list[tuple[float, float]]] = {name: [] for name in self._names}
        for fault in shape.faults:
            for name in fault.nodes or self._names:
                if name in self._busy:
                    self._busy[name].append((fault.at_s, fault.at_s + fault.for_s))
        self._lossy = chance.pick("lossy", holders) if w > 1 else None
        self._weights = self._chosen_kinds()

    def planned(self) -> list[Fault]:
        if not self._weights:
            return []
        rate = FAULTS_PER_S * self._chance.uniform("rate", 0.8, 1.5)
        count = max(1, round((self._shape.duration_s - START_S - 4.0) * rate))
        planned = []
        for number in range(count):
            fault = self._one(self._chance.sub("fault", number))
            if fault is not None:
                planned.append(fault)
        return planned

    def _chosen_kinds(self) -> dict[str, float]:
        shape, chance = self._shape, self._chance
        if shape.kinds is not None:
            kinds = [kind for kind in KINDS if kind in shape.kinds]
        else:
            kinds = [k for k in WEIGHTS if chance.happens(f"use-{k}", KINDS_SHARE)]
        if self._lossy is None:
            kinds = [kind for kind in kinds if kind not in LOSSY]
        if len(self._names) < 2:
            kinds = [k for k in kinds if k not in ("cut", "split", "isolate", "bridge", "flap")]
        return {kind: WEIGHTS.get(kind, 1.0) for kind in kinds}

    def _one(self, chance: Chance) -> Fault | None:
        """None if the machines it would need are never free together."""
        kind = chance.weighted("kind", self._weights)
        low, high = _SECONDS.get(kind, _LINK_SECONDS)
        for _ in range(8):
            for_s = round(chance.uniform("for", low, high), 3)
            latest = max(START_S + 1.0, self._shape.duration_s - for_s - 2.0)
            at_s = round(chance.uniform("at", START_S + 1.0, latest), 3)
            nodes, others, amount = self._targets(chance, kind)
            if kind not in _OWN and kind != "kill-all":
                return Fault(kind, at_s, for_s, nodes, others, amount)
            if self._take(nodes or tuple(self._names), at_s, at_s + for_s):
                return Fault(kind, at_s, for_s, nodes, others, amount)
        return None

    def _take(self, names: Sequence[str], from_s: float, to_s: float) -> bool:
        for name in names:
            if any(
                from_s < end_s + QUIET_S and begin_s - QUIET_S < to_s for begin_s, end_s in self._busy[name]
            ):
                return False
        for name in names:
            self._busy[name].append((from_s, to_s))
        return True

    def _targets(self, chance: Chance, kind: str) -> tuple[tuple[str, ...], tuple[str, ...], float]:
        """(nodes, others, amount) as faults.py reads them."""
        names = self._names
        if kind == "kill-all":
            return (), (), 0.0
        if kind in LOSSY:
            assert self._lossy is not None, "this run may damage nothing"
            return (self._lossy,), (), float(1 + chance.below("records", 4))
        if kind in ("cut", "split", "flap", "bridge"):
            mixed = chance.sample("sides", names, len(names))
            between = 1 if kind == "bridge" and len(mixed) > 2 else 0
            at = 1 + chance.below("at-side", len(mixed) - between - 1)
            period_s = round(chance.uniform("period", 0.1, 1.0), 3) if kind == "flap" else 0.0
            return tuple(sorted(mixed[:at])), tuple(sorted(mixed[at : len(mixed) - between])), period_s
        if kind in ("loss", "duplicates", "latency"):
            few = tuple(sorted(chance.sample("few", names, 1 + chance.below("count", 2))))
            low, high = {"loss": (0.02, 0.3), "duplicates": (0.05, 0.5), "latency": (0.05, 1.0)}[kind]
            amount = round(chance.uniform("amount", low, high), 3)
            return few if chance.happens("few", 0.5) else (), (), amount
        one = (chance.pick("node", self._holders if kind in _ON_HOMES else names),)
        if kind == "slow":
            return one, (), round(chance.uniform("amount", 0.05, 1.0), 3)
        if kind == "clock-jump":
            far = chance.pick("far", (1.0, 60.0, 3600.0, 86_400.0))
            return one, (), round(chance.uniform("amount", -far, far), 3)
        if kind == "clock-drift":
            return one, (), round(chance.uniform("amount", 0.9, 1.1), 4)
        return one, (), 0.0
