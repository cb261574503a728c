"""A dumb store that is correct, or wrong in one named way: it makes histories to try the checkers on.

Nodes hold sets of dots, written out; contexts are sets. One event at a time, all chance from one seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple

from kvstore.simulation.history import Ended, FinalState, History, Kind, Operation

Dot = int
N, R, W = 3, 2, 2
KEYS = (b"a", b"b")

MUTANTS = (
    "acknowledge before sync", "acknowledge one short", "merge keeps the newest", "merge without context",
    "token ignored", "token covers all", "token of a put covers the coordinator's context",
    "read one short", "monotonic read without repair", "session not waited for", "failed but applied",
    "wrong bytes", "not converged", "retry shown twice", "repair writes nothing", "deletes collected early",
    "value from nowhere",
)  # fmt: skip


class State(NamedTuple):
    live: frozenset[Dot] = frozenset()
    known: frozenset[Dot] = frozenset()


@dataclass
class Going:
    """An operation on its way. `need` answers; what it has and whom it may still ask."""

    operation: Operation
    token: frozenset[Dot] = frozenset()
    acks: set[int] = field(default_factory=set)
    state: State = field(default_factory=State)
    asked: list[int] = field(default_factory=list)
    dot: Dot = 0
    repairing: bool = False


class Message(NamedTuple):
    target: int
    key: bytes
    state: State
    going: Going | None


class ModelStore:
    """`sets`: nothing is deleted, and a put writes what its token came from, and one element more."""

    def __init__(self, seed: int, *, mutant: str = "", black_box: bool = False, sets: bool = False) -> None:
        assert not mutant or mutant in MUTANTS
        self.random, self.mutant, self.black_box = random.Random(seed), mutant, black_box
        self.sets = sets
        self.history = History()
        self.now_s = 0.0
        self.dots = count(1)
        self.write_of: dict[Dot, Operation] = {}
        self.nodes: list[dict[bytes, State]] = [{} for _ in range(N)]
        self.durable: list[dict[bytes, State]] = [{} for _ in range(N)]
        self.acks_due: list[list[Going]] = [[] for _ in range(N)]
        self.messages: list[Message] = []
        self.going: dict[int, Going] = {}
        self.tokens: dict[int, frozenset[Dot]] = {}  # by operation that was answered
        self.sessions: dict[tuple[int, bytes], frozenset[Dot]] = {}

    def run(self, steps: int = 150, clients: int = 4) -> History:
        events: list[tuple[int, Callable[[], None]]] = [
            (7, self.deliver), (6, self.sync), (4, self.ask), (4, self.lose), (1, self.give_up),
            (2, self.collect), (2, self.crash), (6, lambda: self.begin(self.random.randrange(clients))),
        ]  # fmt: skip
        weights = [weight for weight, _ in events]
        for _ in range(steps):
            if self.random.random() < 0.7:  # several things may happen at one moment
                self.now_s += 1.0
            self.random.choices(events, weights)[0][1]()
        self.end()
        return self.history

    # --- clients ------------------------------------------------------------------------------------

    def begin(self, client: int) -> None:
        if client in self.going:
            return
        chance, key = self.random, self.random.choice(KEYS)
        kind = chance.choices([Kind.GET, Kind.PUT, Kind.DELETE], [5, 5, 0 if self.sets else 2])[0]
        operation = Operation(len(self.history.operations), client, kind, key, self.now_s)
        operation.strict = chance.random() < 0.6
        self.history.operations.append(operation)
        going = Going(operation)
        if kind is Kind.GET:
            operation.session = chance.random() < 0.5
            operation.monotonic = operation.strict and chance.random() < 0.5
            going.asked = chance.sample(range(N), N)
            self.going[client] = going
            return
        operation.write_id = operation.index.to_bytes(4, "big")
        answered = [i for i in self.tokens if self.history.operations[i].key == key]
        if answered and chance.random() < 0.8:
            operation.token_from = chance.choice(answered[-6:])
            going.token = self.tokens[operation.token_from]
        operation.value = self.value(operation) if kind is Kind.PUT else b""
        refused = chance.random() < 0.05
        if refused:
            operation.ended, operation.ended_s = Ended.FAILED, self.now_s
        if not refused or self.mutant == "failed but applied":
            self.mint(going)
            if not refused and chance.random() < 0.1:
                operation.attempts = 2
                self.mint(going)
        if not refused:
            self.going[client] = going

    def value(self, operation: Operation) -> bytes:
        if not self.sets:
            return b"v" + operation.write_id
        elements = {b"%d" % operation.index}
        if operation.token_from is not None:
            source = self.history.operations[operation.token_from]
            elements.update(*(value.split() for value in (source.value, *source.seen_values)))
        return b" ".join(sorted(elements))

    def mint(self, going: Going) -> None:
        operation, token = going.operation, going.token
        node = self.random.randrange(N)
        held, dot = self.held(node, operation.key), next(self.dots)
        self.write_of[dot] = operation
        if self.mutant == "token ignored":
            token = frozenset()
        if self.mutant == "token covers all":
            token = held.known
        state = State(held.live - token | {dot}, held.known | token | {dot})
        going.dot = dot
        self.nodes[node][operation.key] = state
        if self.mutant == "token of a put covers the coordinator's context":
            going.token = held.known
        self.acks_due[node].append(going)
        self.messages += [Message(n, operation.key, state, going) for n in range(N) if n != node]

    def give_up(self) -> None:
        if self.going:
            client = self.random.choice(sorted(self.going))
            operation = self.going.pop(client).operation
            operation.ended_s = self.now_s

    def answered(self, going: Going, token: frozenset[Dot]) -> None:
        operation = going.operation
        if self.going.get(operation.client) is not going:
            return  # given up
        del self.going[operation.client]
        operation.ended, operation.ended_s = Ended.OK, self.now_s
        self.tokens[operation.index] = token
        seat = operation.client, operation.key
        self.sessions[seat] = self.sessions.get(seat, frozenset()) | token

    # --- reads --------------------------------------------------------------------------------------

    def ask(self) -> None:
        reads = [g for _, g in sorted(self.going.items()) if g.asked and not g.repairing]
        if not reads:
            return
        going = self.random.choice(reads)
        operation = going.operation
        node = going.asked.pop()
        going.state = self.merge(going.state, self.held(node, operation.key))
        going.acks.add(node)
        session = self.sessions.get((operation.client, operation.key), frozenset())
        fresh = session <= going.state.known or self.mutant == "session not waited for"
        need = R if operation.strict and self.mutant != "read one short" else R - 1
        if len(going.acks) < need or (operation.session and not fresh):
            if not going.asked:
                del self.going[operation.client]
                operation.ended_s = self.now_s
            return
        if operation.monotonic and self.mutant != "monotonic read without repair":
            going.repairing, going.acks = True, set()
            self.messages += [Message(n, operation.key, going.state, going) for n in range(N)]
            return
        self.show(going)

    def show(self, going: Going) -> None:
        operation = going.operation
        shown: list[Operation] = []
        deleted: list[Operation] = []
        twice = self.mutant == "retry shown twice"
        for dot in sorted(going.state.live):
            write = self.write_of[dot]
            names = shown if write.kind is Kind.PUT else deleted
            if write not in names or twice:
                names.append(write)
        operation.seen = tuple(write.write_id for write in shown)
        operation.seen_values = tuple(write.value for write in shown)
        if self.mutant == "wrong bytes" and shown and self.random.random() < 0.1:
            operation.seen_values = (b"rot", *operation.seen_values[1:])
        if self.mutant == "value from nowhere" and not shown and self.random.random() < 0.1:
            operation.seen, operation.seen_values = (b"????",), (b"",)
        if not self.black_box:
            operation.seen_tombstones = tuple(write.write_id for write in deleted)
        self.answered(going, going.state.known)

    # --- nodes --------------------------------------------------------------------------------------

    def held(self, node: int, key: bytes) -> State:
        return self.nodes[node].get(key, State())

    def merge(self, a: State, b: State) -> State:
        if self.mutant == "merge without context":
            return State(a.live | b.live, a.known | b.known)
        live = (a.live & b.live) | (a.live - b.known) | (b.live - a.known)
        if self.mutant == "merge keeps the newest":
            live = frozenset(sorted(live)[-1:])
        return State(live, a.known | b.known)

    def deliver(self) -> None:
        if not self.messages:
            return
        message = self.messages.pop(self.random.randrange(len(self.messages)))
        held = self.held(message.target, message.key)
        merged = self.merge(held, message.state)
        if self.mutant == "repair writes nothing" and message.going and message.going.repairing:
            merged = State(message.state.live & held.live, held.known | message.state.known)
        self.nodes[message.target][message.key] = merged
        if message.going is None:
            return
        self.acks_due[message.target].append(message.going)
        if self.mutant == "acknowledge before sync":
            self.acknowledge(message.target)

    def sync(self) -> None:
        node = self.random.randrange(N)
        self.durable[node] = dict(self.nodes[node])
        self.acknowledge(node)

    def acknowledge(self, node: int) -> None:
        due, self.acks_due[node] = self.acks_due[node], []
        for going in due:
            going.acks.add(node)
            strict = going.operation.strict and self.mutant != "acknowledge one short"
            if len(going.acks) < (W if strict else W - 1):
                continue
            if going.repairing:
                self.show(going)
            elif going.operation.kind is not Kind.GET:
                self.answered(going, going.token | {going.dot})

    def crash(self) -> None:
        node = self.random.randrange(N)
        self.nodes[node] = dict(self.durable[node])
        self.acks_due[node] = []

    def lose(self) -> None:
        if self.messages:
            self.messages.pop(self.random.randrange(len(self.messages)))

    def collect(self) -> None:
        """Tombstones that all homes hold durably, with nothing on its way."""
        key = self.random.choice(KEYS)
        early = self.mutant == "deletes collected early"
        states = {held.get(key, State()) for held in (*self.nodes, *self.durable)}
        busy = any(m.key == key for m in self.messages)
        busy = busy or any(g.operation.key == key for g in self.going.values())
        if (len(states) > 1 or busy) and not early:
            return
        for held in (*self.nodes, *self.durable):
            live, known = held.get(key, State())
            kept = frozenset(dot for dot in live if self.write_of[dot].kind is Kind.PUT)
            if not kept:
                held[key] = State(kept, frozenset() if early else known)

    def end(self) -> None:
        while self.messages:
            self.deliver()
        rounds = range(N) if self.mutant != "not converged" else range(1)
        for key in KEYS:
            for _ in rounds:
                for node in range(N):
                    other = (node + 1) % N
                    self.nodes[node][key] = self.merge(self.held(node, key), self.held(other, key))
            for node in range(N):
                state = self.held(node, key)
                writes = [self.write_of[dot] for dot in sorted(state.live)]
                ids = {
                    kind: tuple(dict.fromkeys(w.write_id for w in writes if w.kind is kind))
                    for kind in (Kind.PUT, Kind.DELETE)
                }
                deleted = () if self.black_box else ids[Kind.DELETE]
                fingerprint = repr((sorted(state.live), sorted(state.known))).encode()
                self.history.final.append(FinalState(f"n{node}", key, ids[Kind.PUT], deleted, fingerprint))
