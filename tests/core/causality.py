"""Several copies of one key, and beside each a dumb model of what it must hold.

The model knows no dots, vectors or contexts. It numbers the writes and keeps, for every copy, message
and token, the full set of writes that it covers. `World` moves both in step and objects when they
differ, so each of these is checked after every step:

    lost         a write that nothing known to the copy supersedes is not among its siblings
    resurrected  a sibling that something known to the copy supersedes
    unsound      a context covers a write that its holder neither saw nor knows to be superseded
    forgetful    a context fails to cover what its holder has seen
    reused       one dot for two writes

`Rules` holds what is under test; a mutant overrides one rule.
"""

from __future__ import annotations

from itertools import count
from random import Random
from typing import NamedTuple

from kvstore.core.encoding import encode_state
from kvstore.core.sibling import EMPTY_STATE, KeyState, Version, collapse, find_operation, merge, write
from kvstore.core.vector_clock import EMPTY_CONTEXT, CausalContext, Dot

Writes = frozenset[int]
"""Numbers of writes, in order of their making."""

NONE: Writes = frozenset()


class Violation(AssertionError):
    """The copies and the model differ. `kind` is one of those above."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind


class Model(NamedTuple):
    """What somebody has learned: writes met, and writes that one of those supersedes."""

    learned: Writes = NONE
    superseded: Writes = NONE

    @property
    def survivors(self) -> Writes:
        return self.learned - self.superseded

    @property
    def covered(self) -> Writes:
        return self.learned | self.superseded

    def merged(self, other: Model) -> Model:
        return Model(self.learned | other.learned, self.superseded | other.superseded)

    def wrote(self, number: int, past: Writes) -> Model:
        return Model(self.learned | {number}, self.superseded | past)


class Held(NamedTuple):
    """A state, and what the model says it holds."""

    state: KeyState = EMPTY_STATE
    model: Model = Model()


class Token(NamedTuple):
    """What a client was given, and the writes it may cover."""

    context: CausalContext = EMPTY_CONTEXT
    seen: Writes = NONE


class Message(NamedTuple):
    target: int
    held: Held


class Put(NamedTuple):
    """What a client sends; `token` None overwrites blindly what the coordinator holds."""

    token: Token | None
    operation_id: bytes
    tombstone: bool = False


class Copy:
    """One home's copy. The counter is shared with all its other keys."""

    def __init__(self, replica_id: int) -> None:
        self.replica_id, self.counter = replica_id, 0
        self.held = Held()
        self.snapshots: list[tuple[Held, int]] = []


class Rules:
    """The rules as the project has them; each method is one that a mutant can break."""

    def __init__(self) -> None:
        self._ids = count(1)

    def fresh_id(self) -> int:
        return next(self._ids)

    def renew(self, copy: Copy) -> None:
        """A copy that may have forgotten something is a new writer."""
        copy.replica_id, copy.counter = self.fresh_id(), 0

    def rolled_back(self, copy: Copy, counter: int) -> None:
        self.renew(copy)

    def wiped(self, copy: Copy) -> None:
        self.renew(copy)

    def unreadable(self, copy: Copy) -> None:
        self.renew(copy)

    def stand_in(self) -> Copy:
        """The id of a stand-in lives in the hinted state of one key and is gone with it."""
        return Copy(self.fresh_id())

    def dot(self, copy: Copy) -> Dot:
        copy.counter += 1
        return copy.replica_id, copy.counter

    def write(self, state: KeyState, seen: CausalContext, version: Version, dot: Dot) -> KeyState:
        return write(state, seen, version, dot)

    def merge(self, a: KeyState, b: KeyState) -> KeyState:
        return merge(a, b)

    def receive(self, copy: Copy, incoming: KeyState) -> KeyState:
        """Merge, where a copy knows all its own dots up to its counter: what it lacks was collected."""
        mine = copy.held.state
        own = [d for d in incoming.siblings if d[0] == copy.replica_id and d not in mine.siblings]
        kept = {d: v for d, v in incoming.siblings.items() if d not in own}
        return self.merge(mine, KeyState(kept, incoming.context))

    def reply(self, token: CausalContext, dot: Dot, state: KeyState) -> CausalContext:
        """The client has seen what it sent and what it wrote, not what else lies there."""
        return token.add(dot)


class World:
    """Copies of one key, clients with tokens, messages on their way."""

    def __init__(self, rules: Rules, copies: int = 3) -> None:
        self.rules = rules
        self.copies = [Copy(rules.fresh_id()) for _ in range(copies)]
        self.dots: list[Dot] = []  # of each write
        self.operations: list[bytes] = []  # of each write
        self.tokens = [Token()]
        self.messages: list[Message] = []
        self.puts: list[Put] = []
        self.collected: Writes = NONE
        self.states: list[KeyState] = [EMPTY_STATE]

    # --- clients ---------------------------------------------------------------------------------

    def get(self, copies: list[int]) -> None:
        """Merge what these copies hold; the token covers exactly that."""
        held = Held()
        for index in copies:
            other = self.copies[index].held
            held = Held(self.rules.merge(held.state, other.state), held.model.merged(other.model))
        self._check("get", held)
        self._give(Token(held.state.context, held.model.covered))

    def put(self, at: int, token: Token | None, *, tombstone: bool = False) -> None:
        put = Put(token, b"operation %d" % len(self.puts), tombstone)
        self.puts.append(put)
        self._apply(self.copies[at], put, f"put at {at}")

    def retry(self, put: Put, at: int) -> None:
        """The client did not hear of its put and sends it again, through another copy."""
        self._apply(self.copies[at], put, f"retry at {at}")

    def stand_in(self, token: Token, target: int) -> None:
        """No home is in reach: another node takes the write for one of them and hands it off later."""
        guest = self.rules.stand_in()
        put = Put(token, b"operation %d" % len(self.puts))
        self.puts.append(put)
        self._apply(guest, put, "put at a stand-in")
        self.messages.append(Message(target, guest.held))

    def _apply(self, copy: Copy, put: Put, where: str) -> None:
        state, model = copy.held
        token = put.token or Token()
        if found := find_operation(state, put.operation_id):
            number = int(found[1].value)
            self._give(Token(self.rules.reply(token.context, found[0], state), token.seen | {number}))
            return
        past, seen = (model.covered, state.context) if put.token is None else (token.seen, token.context)
        number = len(self.dots)
        dot = self.rules.dot(copy)
        self.dots.append(dot)
        self.operations.append(put.operation_id)
        version = Version(b"%d" % number, put.tombstone, operation_id=put.operation_id)
        copy.held = Held(self.rules.write(state, seen, version, dot), model.wrote(number, past))
        self._check(where, copy.held)
        self._give(Token(self.rules.reply(token.context, dot, copy.held.state), token.seen | {number}))

    def _give(self, token: Token) -> None:
        self._check_context("token", token.context, token.seen)
        self.tokens.append(token)

    # --- messages --------------------------------------------------------------------------------

    def send(self, source: int, target: int) -> None:
        """From now on this state may arrive at any time, several times, or never."""
        self.messages.append(Message(target, self.copies[source].held))

    def deliver(self, index: int, *, again: bool = False) -> None:
        """`again`: a duplicate stays on its way."""
        message = self.messages[index] if again else self.messages.pop(index)
        if self._may_arrive(message):
            self._receive(message.target, message.held)

    def lose(self, index: int) -> None:
        self.messages.pop(index)

    def _receive(self, target: int, held: Held) -> None:
        copy = self.copies[target]
        copy.held = Held(self.rules.receive(copy, held.state), copy.held.model.merged(held.model))
        self._check(f"delivery to {target}", copy.held)

    # --- copies that forget ----------------------------------------------------------------------

    def snapshot(self, at: int) -> None:
        copy = self.copies[at]
        copy.snapshots.append((copy.held, copy.counter))

    def roll_back(self, at: int, which: int) -> None:
        """A stop that lost unsynced writes, or an old disk put back."""
        copy = self.copies[at]
        copy.held, counter = copy.snapshots[which]
        self.rules.rolled_back(copy, counter)

    def wipe(self, at: int) -> None:
        copy = self.copies[at]
        copy.held, copy.snapshots = Held(), []
        self.rules.wiped(copy)

    def unreadable(self, at: int) -> None:
        """One record does not read back; the copy and its counter do."""
        self.copies[at].held = Held()
        self.rules.unreadable(self.copies[at])

    def write_other_key(self, at: int) -> None:
        self.copies[at].counter += 1

    def collect(self) -> bool:
        """Drop the record everywhere, if all copies hold one state of nothing but tombstones."""
        states = [copy.held.state for copy in self.copies]
        tombstones = all(v.tombstone for v in states[0].siblings.values())
        if not states[0].siblings or not tombstones or any(s != states[0] for s in states):
            return False
        for copy in self.copies:
            self.collected |= copy.held.model.covered
            copy.held, copy.snapshots = Held(), []
        return True

    def _may_arrive(self, message: Message) -> bool:
        """Collected writes must not be on their way any more, except to the copy that made them.

        That one knows them without a record, as long as it keeps its id.
        """
        target = self.copies[message.target].replica_id
        dead = message.held.model.survivors & self.collected
        return all(self.dots[number][0] == target for number in dead)

    # --- checks ----------------------------------------------------------------------------------

    def settle(self, chance: Random) -> None:
        """All copies exchange all they have; then they must be equal, and hold exactly the maximal writes."""
        everything = Model()
        for copy in self.copies:
            everything = everything.merged(copy.held.model)
        for _ in range(2):  # the first round brings all to one of them, the second back to the rest
            pairs = [(a, b) for a in range(len(self.copies)) for b in range(len(self.copies)) if a != b]
            chance.shuffle(pairs)
            for source, target in pairs:
                self._receive(target, self.copies[source].held)
        encoded = {encode_state(copy.held.state) for copy in self.copies}
        if len(encoded) > 1:
            raise Violation("diverged", f"{len(encoded)} different states after a full exchange")
        state = self.copies[0].held.state
        self._compare_siblings("end", state, everything.survivors - self.collected)
        operations = [v.operation_id for v in collapse(state.siblings).values()]
        wanted = {self.operations[n] for n in everything.survivors - self.collected}
        if sorted(operations) != sorted(wanted):
            raise Violation("lost", f"operations shown: {operations}, wanted once each: {wanted}")
        if len(set(self.dots)) < len(self.dots):
            raise Violation("reused", f"{len(self.dots)} writes, {len(set(self.dots))} dots")

    def _check(self, where: str, held: Held) -> None:
        self.states.append(held.state)
        self._compare_siblings(where, held.state, held.model.survivors - self.collected)
        self._check_context(where, held.state.context, held.model.covered)
        for dot in held.state.siblings:
            if not held.state.context.covers(dot):
                raise Violation("forgetful", f"{where}: sibling {dot} is not in the context")

    def _compare_siblings(self, where: str, state: KeyState, wanted: Writes) -> None:
        found = frozenset(int(version.value) for version in state.siblings.values())
        if wanted - found:
            raise Violation("lost", f"{where}: writes {sorted(wanted - found)}")
        if found - wanted:
            raise Violation("resurrected", f"{where}: writes {sorted(found - wanted)}")

    def _check_context(self, where: str, context: CausalContext, wanted: Writes) -> None:
        covered = frozenset(number for number, dot in enumerate(self.dots) if context.covers(dot))
        if unsound := covered - wanted - self.collected:
            raise Violation("unsound", f"{where}: covers writes {sorted(unsound)}")
        if forgotten := wanted - covered - self.collected:
            raise Violation("forgetful", f"{where}: does not cover {sorted(forgotten)}")
