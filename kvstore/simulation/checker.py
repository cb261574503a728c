"""Judge a history: what was lost, what came back, what was never written, what a read should have shown.

A store that shows siblings is no register, so a linearizability checker cannot judge it. This one takes it
as a multi-value register with unique write ids, per key. A *get* covers what it saw and all that these
writes cover; a *write* covers what the operation behind its token covers, which is its *past*, and itself.
A write without a token covers only itself. Pasts are bit sets, one bit per write of the key.

Writes are acknowledged (A), failed, that is applied nowhere (F), or unknown (M). Each rule with its reason,
and why it stays silent about a correct store:

At the end, on every home of the key (`History.final`; a home without a record holds nothing):
    lost        an acknowledged put is neither there, nor covered by A, nor by what any home holds, nor by a
                delete of M. A state drops a version only for a context that covers it, contexts come from
                tokens, and the write behind such a token is in the state, or covered in turn. So an unknown
                write excuses nothing by itself: something must be left of it. Only a delete may end the
                chain unseen: its tombstone is collected, or hidden from the harness.
    resurrected something covered by A is there. The states of all homes are equal and hold, or cover,
                every acknowledged write, hence all that its token covered.
    divergent   the homes' fingerprints differ (P3).
    An unknown write joins A only when a read that promised monotonicity (P7) has shown it: R replicas hold
    it then. An ordinary read may show what no disk has yet; a crash takes that back, and brings back
    what it covered, and no promise is broken.

In every read, and in every final state:
    phantom     a write that nobody sent for this key (P5).
    ghost       a write whose answer said that it was applied nowhere.
    corrupt     bytes that this write did not write, or a delete shown as a value (P5).
    twice       one write shown as two siblings.
    antichain   two siblings of which one covers the other. A state that holds a write descends from the
                one in which it was made, whose context covers its token and lacks what that covers.
    future      (reads) a write that began after the read had ended.

Promised to some reads: what is *required* is shown, or covered by what is shown, or a delete hides it:
    stale            P6, a strict read: every strict write acknowledged before it began.
    non-monotonic    P7: all that monotonic reads showed, to anybody, before it began.
    session          P8: all that its client wrote and read before.
    A tombstone may be in an answer where the harness cannot see it. So a delete of A or M that began before
    the read ended explains whatever it covers, unless the read shows something that this delete covers:
    then it is not in the answer. A missing delete is judged the same way, by what should be gone.
    "Before" is strict between clients: two events at one moment have no order.

A write that may have been applied by more than one attempt can have two dots, and a token covers only those
that its reader met. Such a write may therefore stay or return beside what covers it; it is not judged as
the covered one, and counted as `twin-returned`. To be shown twice in one answer is never excused.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

from kvstore.simulation.history import Ended, FinalState, History, Kind, Operation

KINDS = (
    "lost", "resurrected", "divergent", "phantom", "ghost", "corrupt", "twice", "antichain", "future",
    "stale", "non-monotonic", "session",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Violation:
    """`kind`: one of KINDS. `operations`: indices in the history of those involved, the read first."""

    kind: str
    key: bytes
    detail: str
    operations: tuple[int, ...] = ()


@dataclass(slots=True)
class Verdict:
    """`counts`: violations by kind; operations by kind and end ("put ok"); siblings-shown, unavailable,
    stale-not-promised (reads that missed an acknowledged write and were promised nothing), twin-returned.
    """

    violations: list[Violation] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return not self.violations


def judge(history: History, *, homes_of: Callable[[bytes], Sequence[str]] | None = None) -> Verdict:
    """Every violation in `history`. `homes_of`: the nodes that must hold a key at the end; without it
    those that `history.final` names for the key are compared, and a key without any is not judged there.

    Raises ValueError for a history that no harness may write: a write id used twice, an operation out of
    place, a token of another key or of an operation that was not answered.
    """
    verdict = Verdict(counts=dict.fromkeys(KINDS, 0))
    keys: dict[bytes, list[Operation]] = {}
    for position, operation in enumerate(history.operations):
        if operation.index != position:
            raise ValueError(f"operation {operation.index} is at position {position} of the history")
        keys.setdefault(operation.key, []).append(operation)
    final: dict[bytes, dict[str, FinalState]] = {}
    for held in history.final:
        final.setdefault(held.key, {})[held.node] = held
        keys.setdefault(held.key, [])
    for key, operations in keys.items():
        register = _Register(key, operations, history.operations, verdict)
        register.judge_reads()
        there = final.get(key, {})
        nodes = sorted(there) if homes_of is None else homes_of(key)
        if nodes:
            register.judge_end([there.get(node) or FinalState(node, key, ()) for node in nodes])
    ends = Counter(f"{op.kind.value} {op.ended.value}" for op in history.operations)
    verdict.counts.update(ends)
    verdict.counts["unavailable"] = sum(op.ended is not Ended.OK for op in history.operations)
    verdict.counts["siblings-shown"] = sum(len(op.seen) > 1 for op in history.operations)
    verdict.counts.setdefault("stale-not-promised", 0)
    verdict.counts.setdefault("twin-returned", 0)
    return verdict


class _Required:
    """What counts from a certain time on, joined: (time, index of the operation, bits)."""

    __slots__ = ("joined", "since")

    def __init__(self, counting: list[tuple[float, int, int]]) -> None:
        counting.sort()
        self.since = [(time_s, index) for time_s, index, _ in counting]
        self.joined = [0]
        for _, _, bits in counting:
            self.joined.append(self.joined[-1] | bits)

    def before(self, time_s: float, index: int = -1) -> int:
        """Of two at one moment only those with a lower index count, which is what one client can tell."""
        return self.joined[bisect_left(self.since, (time_s, index))]

    def until(self, time_s: float) -> int:
        return self.before(time_s, sys.maxsize)


class _Register:
    """One key: its writes as bits, what each covers, and the rules."""

    def __init__(
        self, key: bytes, operations: list[Operation], everything: list[Operation], verdict: Verdict
    ) -> None:
        self.key, self.everything, self.verdict = key, everything, verdict
        self.writes = [op for op in operations if op.kind is not Kind.GET]
        self.reads = [op for op in operations if op.kind is Kind.GET and op.ended is Ended.OK]
        self.position = {op.write_id: at for at, op in enumerate(self.writes)}
        if len(self.position) < len(self.writes):
            raise ValueError(f"key {key!r}: one write id names two writes")
        self.puts = self._bits(lambda op: op.kind is Kind.PUT)
        self.acknowledged = self._bits(lambda op: op.ended is Ended.OK)
        self.failed = self._bits(lambda op: op.ended is Ended.FAILED)
        self.once = self._bits(lambda op: op.attempts < 2)
        self.covers: dict[int, int] = {}
        """By index of the operation: what its token covers."""
        self.shown: dict[int, int] = {}
        """By index of the read: the writes in its answer."""
        for operation in (*self.writes, *self.reads):
            self._resolve(operation)
        self.cover_of = [self.covers[op.index] for op in self.writes]
        self.hiding = sorted(
            (op for op in self.writes if op.kind is Kind.DELETE and op.ended is not Ended.FAILED),
            key=attrgetter("started_s"),
        )
        self.hidden = _Required([(op.started_s, op.index, self.covers[op.index]) for op in self.hiding])

    # --- pasts ------------------------------------------------------------------------------------------

    def _bits(self, chosen: Callable[[Operation], bool]) -> int:
        return sum(1 << at for at, op in enumerate(self.writes) if chosen(op))

    def _resolve(self, operation: Operation) -> None:
        """Depth first without recursion: chains are as long as histories.

        Only a read from the future can close a circle; what is open already then counts as nothing.
        """
        covers, todo, entered = self.covers, [operation], set()
        while todo:
            current = todo[-1]
            behind = self._behind(current)
            waiting = [op for op in behind if op.index not in covers and op.index not in entered]
            if current.index not in covers and waiting:
                entered.add(current.index)
                todo += waiting
                continue
            todo.pop()
            if current.index not in covers:
                covered = 0 if current.kind is Kind.GET else 1 << self.position[current.write_id]
                for op in behind:
                    covered |= covers.get(op.index, 0)
                covers[current.index] = covered

    def _behind(self, operation: Operation) -> list[Operation]:
        """The operations whose coverage is this one's."""
        if operation.kind is Kind.GET:
            seen = (self.position.get(name) for name in (*operation.seen, *operation.seen_tombstones))
            return [self.writes[at] for at in seen if at is not None]
        if operation.token_from is None:
            return []
        source = self.everything[operation.token_from]
        if source.key != self.key or source.ended is not Ended.OK or source is operation:
            raise ValueError(f"operation {operation.index} cannot have a token of operation {source.index}")
        return [source]

    def _past(self, at: int) -> int:
        return self.cover_of[at] & ~(1 << at)

    def _covered_by(self, bits: int) -> int:
        """The pasts of these writes, joined."""
        covered = 0
        for at in _positions(bits):
            covered |= self._past(at)
        return covered

    # --- reads ------------------------------------------------------------------------------------------

    def judge_reads(self) -> None:
        shown = self.shown
        for op in self.reads:
            shown[op.index] = self._judge_shown(op)
        written = [
            (op.ended_s, op.index, 1 << at) for at, op in enumerate(self.writes) if op.ended is Ended.OK
        ]
        answered = [(op.ended_s, op.index, shown[op.index]) for op in self.reads]
        everything = self.everything
        acknowledged = _Required(written)
        strict = _Required([entry for entry in written if everything[entry[1]].strict])
        monotonic = _Required([entry for entry in answered if everything[entry[1]].monotonic])
        sessions = {
            client: _Required(
                [entry for entry in (*written, *answered) if everything[entry[1]].client == client]
            )
            for client in {op.client for op in self.reads if op.session}
        }
        for op in self.reads:
            begun_s, missed = op.started_s, 0
            if op.strict:
                missed |= self._require("stale", op, strict.before(begun_s))
            if op.monotonic:
                missed |= self._require("non-monotonic", op, monotonic.before(begun_s))
            if op.session:
                missed |= self._require("session", op, sessions[op.client].before(begun_s, op.index))
            if not missed and self._missing(op, acknowledged.before(begun_s)):
                self._count("stale-not-promised")

    def _judge_shown(self, read: Operation) -> int:
        """The bits of the writes in the answer, after all that a single answer can do wrong."""
        where = f"get {read.index}"
        bits = self._judge_state(where, read.seen, read.seen_tombstones, (read.index,))
        if read.seen_values:
            for name, value in zip(read.seen, read.seen_values, strict=True):
                at = self.position.get(name)
                if at is not None and self.writes[at].kind is Kind.PUT and value != self.writes[at].value:
                    detail = f"{where} shows other bytes than {self._name(at)} wrote: {value[:32]!r}"
                    self._object("corrupt", detail, read.index, self.writes[at].index)
        for at in _positions(bits):
            if self.writes[at].started_s > read.ended_s:
                detail = f"{where} ended before {self._name(at)}, which it shows, began"
                self._object("future", detail, read.index, self.writes[at].index)
        return bits

    def _require(self, kind: str, read: Operation, required: int) -> int:
        missing = self._missing(read, required)
        for at in _positions(missing):
            detail = f"get {read.index} neither shows {self._name(at)} nor anything that covers it"
            self._object(kind, detail, read.index, self.writes[at].index)
        return missing

    def _missing(self, read: Operation, required: int) -> int:
        """What is required, and neither in the answer nor explained by it."""
        shown = self.shown[read.index]
        missing = required & ~(shown | self.covers[read.index])
        if not missing:
            return 0
        if not missing & self.hidden.until(read.ended_s):
            return missing
        for delete in self.hiding:
            if delete.started_s > read.ended_s or not missing:
                break
            covered = self.covers[delete.index]
            gone = covered & ~(1 << self.position[delete.write_id])
            if missing & covered and not gone & shown & self.once:
                missing &= ~covered
        return missing

    # --- the end ----------------------------------------------------------------------------------------

    def judge_end(self, homes: list[FinalState]) -> None:
        held = [self._judge_state(home.node, home.live, home.tombstones, ()) for home in homes]
        settled = self.acknowledged
        for read in self.reads:
            if read.monotonic:
                settled |= self.shown[read.index] & ~self.failed
        anywhere = 0
        for bits in held:
            anywhere |= bits
        deletes = sum(1 << self.position[op.write_id] for op in self.hiding)
        superseded = self._covered_by(settled)
        explained = superseded | self._covered_by((anywhere | deletes) & ~self.failed)
        must = settled & self.puts & ~explained
        for home, bits in zip(homes, held, strict=True):
            for at in _positions(must & ~bits):
                self._object("lost", f"{home.node} does not hold {self._name(at)}", self.writes[at].index)
            if bits & superseded & ~self.once:
                self._count("twin-returned")
            for at in _positions(bits & superseded & self.once):
                detail = f"{home.node} holds {self._name(at)}, which an acknowledged write covers"
                self._object("resurrected", detail, self.writes[at].index)
            if home.fingerprint != homes[0].fingerprint:
                detail = f"{homes[0].node} holds {_listed(homes[0])}, {home.node} holds {_listed(home)}"
                self._object("divergent", detail)

    # --- any state ----------------------------------------------------------------------------------------

    def _judge_state(
        self, where: str, live: Sequence[bytes], tombstones: Sequence[bytes], involved: tuple[int, ...]
    ) -> int:
        """The bits of the writes that are there. Their number is small, that of bits is not."""
        bits, found = 0, []
        for name in (*live, *tombstones):
            at = self.position.get(name)
            if at is None:
                self._object("phantom", f"{where} shows {name.hex()}, which nobody wrote here", *involved)
                continue
            write, bit = self.writes[at], 1 << at
            if bits & bit:
                self._object("twice", f"{where} shows {self._name(at)} twice", *involved, write.index)
                continue
            if self.failed & bit:
                detail = f"{where} shows {self._name(at)}, which was applied nowhere"
                self._object("ghost", detail, *involved, write.index)
            if (write.kind is Kind.PUT) != (name in live):
                detail = f"{where} shows {self._name(at)} as a {'value' if name in live else 'tombstone'}"
                self._object("corrupt", detail, *involved, write.index)
            bits |= bit
            found.append(at)
        if len(found) > 1:
            self._judge_siblings(where, found, bits, involved)
        return bits

    def _judge_siblings(self, where: str, found: list[int], bits: int, involved: tuple[int, ...]) -> None:
        for at in found:
            below = self._past(at) & bits
            for under in _positions(below & self.once):
                detail = f"{where} shows {self._name(under)} beside {self._name(at)}, which covers it"
                self._object("antichain", detail, *involved, self.writes[under].index, self.writes[at].index)
            if below & ~self.once:
                self._count("twin-returned")

    def _object(self, kind: str, detail: str, *operations: int) -> None:
        self.verdict.violations.append(Violation(kind, self.key, detail, operations))
        self._count(kind)

    def _count(self, name: str) -> None:
        self.verdict.counts[name] = self.verdict.counts.get(name, 0) + 1

    def _name(self, at: int) -> str:
        write = self.writes[at]
        return f"{write.kind.value} {write.index} ({write.write_id.hex()}, {write.ended.value})"


def _positions(bits: int) -> Iterator[int]:
    while bits:
        low = bits & -bits
        yield low.bit_length() - 1
        bits ^= low


def _listed(home: FinalState) -> str:
    names = [name.hex() for name in home.live] + [f"deleted {name.hex()}" for name in home.tombstones]
    return ", ".join(names) or "nothing"
