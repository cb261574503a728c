"""A run as data: who is there, what clients do, what breaks, and when. Made before the run.

A plan is written as JSON lines: one for the settings, one per fault, one per client. Taking a line
out, or an action out of a client's line, leaves a plan that runs; this is what shrinking does.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from kvstore.core.bucket import BucketProperties
from kvstore.errors import ConfigError, InvalidRequest

BUCKET = "b"
SET_PREFIX = "set"
"""Keys that begin so hold sets: clients write what they saw and one element more, and delete nothing."""


@dataclass(frozen=True, slots=True)
class Machine:
    name: str
    zone: str = ""
    host: str = ""


class Action(NamedTuple):
    """One operation of a client, not before `at_s`.

    `number` names it in the whole plan; its write id follows from it. `node`: position of the machine
    asked first. `token`: with what the client last learned of the key; without, a put or delete sits
    beside what is there. `retry`: sent again, as the same write, if its outcome is unknown. `ask`: if it is
    unknown in the end, the nodes are asked what became of it.
    """

    number: int
    at_s: float
    kind: str
    key: str
    node: int
    token: bool = True
    retry: bool = False
    session: bool = False
    value_bytes: int = 0
    ask: bool = False


class Fault(NamedTuple):
    """From `at_s` on for `for_s`. What `nodes`, `others` and `amount` mean is in faults.py, kind by kind."""

    kind: str
    at_s: float
    for_s: float = 0.0
    nodes: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    amount: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """`settle_s`: how long the replicas may take to become equal after all faults are over.

    `read_at_end`: reads through every node may help them to. `monotonic`: reads make durable what they
    show. `conflict`: of the bucket; "last-write-wins" loses concurrent writes by definition. Links:
    seconds and probabilities per message.
    """

    seed: int
    duration_s: float
    machines: tuple[Machine, ...]
    n: int = 3
    r: int = 2
    w: int = 2
    pr: int = 0
    pw: int = 0
    sloppy: bool = True
    monotonic: bool = False
    latency_s: float = 0.0005
    jitter_s: float = 0.0005
    loss: float = 0.0
    duplicates: float = 0.0
    sync_delay_s: float = 0.001
    settle_s: float = 30.0
    read_at_end: bool = False
    conflict: str = "siblings"
    faults: tuple[Fault, ...] = ()
    clients: tuple[tuple[Action, ...], ...] = ()

    def __post_init__(self) -> None:
        known = {machine.name for machine in self.machines}
        if not known or len(known) < len(self.machines):
            raise ConfigError("a plan needs machines, each with a name of its own")
        for fault in self.faults:
            if missing := {*fault.nodes, *fault.others} - known:
                raise ConfigError(f"fault {fault.kind} names {', '.join(sorted(missing))}: no such node")
        if self.n > len(self.machines):
            raise ConfigError(f"n={self.n} needs {self.n} nodes, the plan has {len(self.machines)}")
        try:
            self.properties()
        except InvalidRequest as error:
            raise ConfigError(error.detail) from None

    @property
    def strict(self) -> bool:
        """Whether reads with pr meet writes with pw."""
        return self.pr > 0 and self.pw > 0 and self.pr + self.pw > self.n

    def properties(self) -> BucketProperties:
        values: dict[str, Any] = {"n": self.n, "r": self.r, "w": self.w, "pr": self.pr, "pw": self.pw}
        return BucketProperties(**values, sloppy=self.sloppy, conflict=self.conflict)

    def without(
        self, *, faults: Iterable[Fault] | None = None, clients: Iterable[Iterable[Action]] | None = None
    ) -> Plan:
        """The same run with these faults and clients instead."""
        kept_faults = self.faults if faults is None else tuple(faults)
        kept_clients = self.clients if clients is None else tuple(tuple(c) for c in clients if c)
        return replace(self, faults=kept_faults, clients=kept_clients)

    # --- as text ------------------------------------------------------------------------------------

    def lines(self) -> list[str]:
        settings = asdict(self)
        del settings["faults"], settings["clients"]
        settings["machines"] = [list(machine.values()) for machine in settings["machines"]]
        lines = [json.dumps({"plan": settings})]
        lines += [json.dumps({"fault": fault}) for fault in self.faults]
        lines += [json.dumps({"client": client}) for client in self.clients]
        return lines

    @classmethod
    def from_lines(cls, lines: Iterable[str]) -> Plan:
        """Raises ConfigError for what is not a plan."""
        settings: dict[str, Any] = {}
        faults: list[Fault] = []
        clients: list[tuple[Action, ...]] = []
        try:
            for line in lines:
                if not line.strip():
                    continue
                ((what, value),) = json.loads(line).items()
                if what == "plan":
                    settings = value
                elif what == "fault":
                    kind, at_s, for_s, nodes, others, amount = value
                    faults.append(Fault(kind, at_s, for_s, tuple(nodes), tuple(others), amount))
                elif what == "client":
                    clients.append(tuple(Action(*fields) for fields in value))
                else:
                    raise ValueError(f"a line of kind {what!r:.40}")
            settings["machines"] = tuple(Machine(*fields) for fields in settings["machines"])
            return cls(**settings, faults=tuple(faults), clients=tuple(clients))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(f"this is no plan of a simulation: {error}") from None


def write_id_of(action: Action) -> bytes:
    return b"w%d" % action.number
