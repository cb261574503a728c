"""Invariants of every step, seen from inside: what disks hold and what answers carry.

    I1  a dot names one write, ever: one key, one version, on every node and across restarts.
    I2  contexts are sound. Ground truth: when a dot is first seen on a disk, its write is made; what its
        token covered is superseded by it. A context that covers a dot must also cover a write that
        superseded it, or the state must hold the dot. An answer to a write covers its token and the new
        dot: of the dots it covers, exactly one is not superseded by another of them.
        A dot that nobody has made yet is covered by nobody.
    I4  nothing superseded returns: a copy that has covered a dot and dropped it never holds it again, and
        its context never shrinks, unless the disk under it was lost, or a crash took the drop back.
    I5  only tombstones are collected, and what is collected may come back as the same tombstones only.
    I6  at the moment of an acknowledgement, W nodes hold the write, or what covers it, in the durable part
        of their disk; as a home or as a stand-in.
    I9  what is written to a disk parses.
    votes  as many as a read asked for, of distinct homes, and those of stand-ins apart from these.

What disks do is told by `MemoryDisk.observer`, see `Invariants.of`; `asked`, `answered` and `acked` by
whoever plays the clients. Without `asked` a write is taken to supersede whatever its first state covers and
does not hold, which makes I2 weaker and never wrong.

Sets of dots are bit sets per key, one bit per dot in order of birth; a state is read once, however many
nodes store it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from kvstore.core.encoding import decode_context, decode_state
from kvstore.core.message import Receipt
from kvstore.core.sibling import Version
from kvstore.core.vector_clock import CausalContext, Dot
from kvstore.errors import KVStoreError
from kvstore.node.ports import Kind, Write
from kvstore.simulation.known_writes import HeldState, KnownKey
from kvstore.storage.memory import DiskObserver

_HOME = b""
_BREACHES_MAX = 100
_MEMO_MAX = 512  # states of one key that are remembered by their bytes

ReadHint = Callable[[bytes, bytes], tuple[bytes, bytes]]
"""(record key, record value) of a Kind.HINT -> (full key, encoded state). The value may be b""."""


class Breach(NamedTuple):
    """`invariant`: "I1" … "I9". `node`: "" for an answer to a client."""

    invariant: str
    key: bytes
    node: str
    detail: str
    at_s: float


_Slot = tuple[bytes, bytes]
"""(full key, _HOME or the record key of a hint)."""

_Held = dict[bytes, HeldState]
"""What one node holds of one key, by _HOME or record key of the hint."""


class _Disk:
    """One node's records, now and after a crash. `pending`: batches not yet durable, oldest first.

    `before_loss`: what was durable on each disk that is gone, and is damaged: an acknowledgement on its way
    may count it.
    """

    __slots__ = ("before_loss", "durable", "now", "pending")

    def __init__(self) -> None:
        self.now: dict[bytes, _Held] = {}
        self.durable: dict[bytes, _Held] = {}
        self.before_loss: list[dict[bytes, _Held]] = [{}]
        self.pending: deque[list[tuple[_Slot, HeldState | None]]] = deque()


class Invariants:
    """Collects breaches; `first` is the one to look at. Hooks as the module says.

    `hint_reader`: how a hint's record is read, see ReadHint. `now`: seconds, for the report only.
    """

    def __init__(
        self, *, hint_reader: ReadHint | None = None, now: Callable[[], float] = lambda: 0.0
    ) -> None:
        self.breaches: list[Breach] = []
        self.counts: Counter[str] = Counter()
        self.checked: Counter[str] = Counter()
        """How often each hook had something to check: a run that checked nothing proves nothing."""
        self._read_hint, self.now = hint_reader, now
        self._disks: dict[str, _Disk] = {}
        self._keys: dict[bytes, KnownKey] = {}
        self._key_of: dict[Dot, bytes] = {}
        self._tokens: dict[bytes, CausalContext] = {}

    @property
    def first(self) -> Breach | None:
        return self.breaches[0] if self.breaches else None

    # --- clients --------------------------------------------------------------------------------------

    def asked(self, operation_id: bytes, context: bytes | None) -> None:
        """A write is sent for the first time. `context`: encoded; None for a write beside what is there.

        Not for writes whose token the node makes itself: with a precondition, or blind and overwriting.
        """
        self._tokens[operation_id] = decode_context(context) if context else CausalContext()

    def answered(self, key: bytes, state: bytes) -> None:
        """A get's answer: the merge of what replicas held, encoded; b"" for nothing."""
        if state:
            self.checked["answers"] += 1
            self._check(key, "", self._read(key, state, "", minted=False))

    def counted(self, key: bytes, node: str, receipt: Receipt) -> None:
        """The votes behind a get's answer."""
        homes = [home for home, _, what in receipt.replicas if what != "hinted"]
        if len(set(homes)) < len(homes):
            self._breach("votes", key, node, f"one home has two of the {len(homes)} votes of a read")
        if (answered := len(receipt.replicas)) < receipt.required:
            self._breach("votes", key, node, f"{answered} answered a read of {receipt.required}")

    def acked(self, key: bytes, context: bytes, w: int) -> None:
        """A synced write was acknowledged, now, with this encoded context."""
        self.durable(key, context, w)
        wanted = decode_context(context)
        known = self._keys.setdefault(key, KnownKey())
        bits = known.bits_of(wanted)
        newest = bits & ~known.superseded_within(bits)
        if newest.bit_count() != 1:
            dots = self._dots(known, newest)
            self._breach(
                "I2", key, "", f"the answer to a write covers {dots}: it should add one to its token"
            )

    def durable(self, key: bytes, context: bytes, w: int) -> None:
        """A client was told, now, that a write of this encoded context is done."""
        self.checked["acknowledgements"] += 1
        wanted = decode_context(context)
        holders = [name for name, disk in self._disks.items() if _holds(disk, key, wanted)]
        if len(holders) < w:
            where = ", ".join(holders) or "nobody"
            self._breach("I6", key, "", f"acknowledged with w={w}, durable at {where}")

    # --- disks ----------------------------------------------------------------------------------------

    def of(self, node: str) -> DiskObserver:
        """What tells here what happens to the disk of this node."""
        return _Watched(self, node)

    def applied(self, node: str, batch: Sequence[Write]) -> None:
        disk = self._disk(node)
        changes: list[tuple[_Slot, HeldState | None]] = []
        for kind, _, record_key, value in batch:
            if kind is Kind.DATA:
                key, where, state = record_key, _HOME, value
            elif kind is Kind.HINT and self._read_hint is not None:
                where = record_key
                key, state = self._read_hint(record_key, value or b"")
                state = None if value is None else state
            else:
                continue
            changes.append(((key, where), self._apply(node, disk, key, where, state)))
        disk.pending.append(changes)

    def synced(self, node: str, batches: int) -> None:
        """So many more batches are durable, oldest first."""
        disk = self._disk(node)
        for _ in range(min(batches, len(disk.pending))):
            self._settle(disk)

    def crashed(self, node: str, lost_batches: int) -> None:
        """The newest `lost_batches` are gone; what was kept is durable."""
        disk = self._disk(node)
        lost = [disk.pending.pop() for _ in range(min(lost_batches, len(disk.pending)))]
        while disk.pending:
            self._settle(disk)
        for changes in lost:
            for (key, where), _ in changes:
                held = disk.now.setdefault(key, {})
                before = disk.durable.get(key, {}).get(where)
                if before is None:
                    held.pop(where, None)
                else:
                    held[where] = before

    def wiped(self, node: str, records: Iterable[Write] = ()) -> None:
        """Another disk is in place of this one: empty, or with these records, all durable."""
        lost = self._disks.pop(node, None)
        disk = self._disk(node)
        self.applied(node, list(records))
        self._settle(disk)
        if lost is not None:
            disk.before_loss = [*lost.before_loss, lost.durable]

    def damaged(self, node: str, kind: Kind, record_key: bytes) -> None:
        """A record is unreadable there: the copy may start again from what others have."""
        key, where = record_key, _HOME
        if kind is Kind.HINT and self._read_hint is not None:
            (key, _), where = self._read_hint(record_key, b""), record_key
        elif kind is not Kind.DATA:
            return
        disk = self._disk(node)
        for held in (disk.now, disk.durable):
            if lost := held.get(key, {}).pop(where, None):
                disk.before_loss[0].setdefault(key, {})[where] = lost

    # --- rules ----------------------------------------------------------------------------------------

    def _disk(self, node: str) -> _Disk:
        disk = self._disks.get(node)
        if disk is None:
            disk = self._disks[node] = _Disk()
        return disk

    def _settle(self, disk: _Disk) -> None:
        for (key, where), state in disk.pending.popleft():
            held = disk.durable.setdefault(key, {})
            if state is None:
                held.pop(where, None)
            else:
                held[where] = state

    def _apply(
        self, node: str, disk: _Disk, key: bytes, where: bytes, encoded: bytes | None
    ) -> HeldState | None:
        self.checked["states"] += 1
        held = disk.now.setdefault(key, {})
        before = held.get(where)
        if encoded is None:
            held.pop(where, None)
            if where != _HOME or before is None:
                return None
            known = self._keys[key]
            known.collected |= before.known
            versions = {at: known.versions[at] for at in _positions(before.live)}
            if alive := sum(1 << at for at, version in versions.items() if not version.tombstone):
                self._breach("I5", key, node, f"collected {self._dots(known, alive)}, which is no tombstone")
            state = before._replace(live=0, unexplained=0, collected=True)
            held[where] = state
            return state
        read = self._read(key, encoded, node, minted=True)
        if read is None:
            return before
        self._check(key, node, read)
        if where == _HOME and before is not None:
            self._check_succession(key, node, before, read)
            if collected := before.dropped & ~read.known:
                read = read._replace(dropped=read.dropped | collected)
        held[where] = read
        return read

    def _check_succession(self, key: bytes, node: str, before: HeldState, after: HeldState) -> None:
        known = self._keys[key]
        if returned := after.live & before.dropped:
            why = "collected" if before.collected else "dropped"
            self._breach("I4", key, node, f"holds {self._dots(known, returned)} again, {why} before")
        forgotten = before.known & ~after.known
        if forgotten and not before.collected:
            self._breach("I4", key, node, f"has forgotten {self._dots(known, forgotten)}")

    def _check(self, key: bytes, node: str, state: HeldState | None) -> None:
        """A dot that some home has collected was superseded by what is gone with it."""
        if state is not None and state.unexplained:
            known = self._keys[key]
            if wrong := state.unexplained & ~known.collected:
                dots = self._dots(known, wrong)
                self._breach("I2", key, node, f"covers {dots}, neither held nor superseded by what it covers")

    def _read(self, key: bytes, encoded: bytes, node: str, *, minted: bool) -> HeldState | None:
        """None for what does not parse."""
        known = self._keys.get(key)
        if known is None:
            known = self._keys[key] = KnownKey()
        state = known.states.get(encoded)
        if state is not None:
            return state
        try:
            siblings, context = decode_state(encoded)
        except KVStoreError as error:
            self._breach("I9", key, node, str(error))
            return None
        live = 0
        for dot in sorted(siblings):
            at = known.at.get(dot)
            if at is None:
                if not minted:
                    self._breach("I1", key, node, f"shows dot {dot}, which was on no disk")
                at = self._born(key, known, dot, siblings[dot], siblings, context, node)
            elif known.versions[at] != siblings[dot]:
                ours, theirs = known.versions[at].operation_id, siblings[dot].operation_id
                self._breach("I1", key, node, f"dot {dot} names {ours!r} and {theirs!r}")
            live |= 1 << at
        bits = known.bits_of(context)
        dropped = bits & ~live
        unexplained = dropped
        for at in _positions(live):
            unexplained &= ~known.covers[at]
        if unexplained:
            unexplained &= ~known.superseded_within(bits)
        if len(known.states) >= _MEMO_MAX:
            known.states.clear()
        state = known.states[encoded] = HeldState(live, bits, dropped, unexplained, context)
        return state

    def _born(
        self,
        key: bytes,
        known: KnownKey,
        dot: Dot,
        version: Version,
        siblings: Iterable[Dot],
        context: CausalContext,
        node: str,
    ) -> int:
        """A dot is seen for the first time: it is made by this write."""
        self.checked["dots"] += 1
        other = self._key_of.setdefault(dot, key)
        if other != key:
            self._breach("I1", key, node, f"dot {dot} names a write of key {other!r} too")
        for name, disk in self._disks.items():
            for state in disk.now.get(key, {}).values():
                if state.context.covers(dot):
                    self._breach("I2", key, name, f"covered dot {dot} before it was made on {node}")
        token = self._tokens.get(version.operation_id) if version.operation_id else None
        covered = known.bits_of(context if token is None else token)
        if token is None:
            for sibling in siblings:
                if (held := known.at.get(sibling)) is not None:
                    covered &= ~(1 << held)
        at = known.add(dot, version)
        known.covers[at] = covered & ~(1 << at)
        return at

    def _dots(self, known: KnownKey, bits: int) -> str:
        named = [f"{known.names[at]} ({known.versions[at].operation_id!r})" for at in _positions(bits)]
        return ", ".join(named) or "no dot"

    def _breach(self, invariant: str, key: bytes, node: str, detail: str) -> None:
        self.counts[invariant] += 1
        if len(self.breaches) < _BREACHES_MAX:
            self.breaches.append(Breach(invariant, key, node, detail, self.now()))


class _Watched:
    """DiskObserver of one node."""

    def __init__(self, invariants: Invariants, node: str) -> None:
        self._node, self._invariants = node, invariants

    def applied(self, batch: Sequence[Write]) -> None:
        self._invariants.applied(self._node, batch)

    def synced(self, batches: int) -> None:
        self._invariants.synced(self._node, batches)

    def crashed(self, lost_batches: int) -> None:
        self._invariants.crashed(self._node, lost_batches)

    def wiped(self) -> None:
        self._invariants.wiped(self._node)

    def damaged(self, kind: Kind, partition: int, key: bytes) -> None:
        self._invariants.damaged(self._node, kind, key)


def _holds(disk: _Disk, key: bytes, wanted: CausalContext) -> bool:
    return any(
        state.context.includes(wanted)
        for held in (disk.durable, *disk.before_loss)
        for state in held.get(key, {}).values()
    )


def _positions(bits: int) -> Iterable[int]:
    while bits:
        low = bits & -bits
        yield low.bit_length() - 1
        bits ^= low
