"""The hints this node keeps for others: stored, counted, capped.

What is pending is counted by scanning the records, never from memory of an earlier run (B10). A hint
that is refused, or that nobody could be found for, is counted and its (partition, target) marked on
disk: anti-entropy has to bring what nobody kept.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

from kvstore.core.encoding import merge_encoded
from kvstore.core.hint import (
    Hint,
    answer_delay_s,
    decode_hint,
    encode_hint,
    hint_key,
    merge_hints,
    split_hint_key,
)
from kvstore.core.limits import Limits
from kvstore.core.membership import NodeId
from kvstore.core.ring import PARTITIONS
from kvstore.core.vector_clock import Dot
from kvstore.errors import CorruptRecord, Overloaded, StorageFull, TooLarge
from kvstore.node.ports import Kind, Storage, WallClock

_MARK = b"hint-mark\0"
_PARTITION_BYTES = 2
_DOTS_MAX = 4096  # keys whose replica id is remembered; a fresh one is always right, only longer


class Pending(NamedTuple):
    """`oldest_ms`: when the oldest was kept, Unix time; one that is gone meanwhile may still count."""

    hints: int
    size_bytes: int
    oldest_ms: int


_NONE_PENDING = Pending(0, 0, 0)


class HintStore:
    """`delivered` counts hints that reached their owners, `dropped` copies that nobody keeps.

    `on_missed(partition, target)` is called with every mark that is left.
    """

    def __init__(self, storage: Storage, wall: WallClock, limits: Limits) -> None:
        self._storage, self._wall, self._limits = storage, wall, limits
        self._pending: dict[int, dict[NodeId, Pending]] = {}
        self._marks: dict[tuple[int, NodeId], None] = {}
        self._last_dots: OrderedDict[bytes, tuple[Dot, NodeId]] = OrderedDict()
        self.on_missed: Callable[[int, NodeId], None] = lambda partition, target: None
        self.count = self.bytes = self.delivered = self.dropped = 0

    async def start(self) -> None:
        """Count what an earlier run left. A partition that is asked about before its turn is counted then."""
        for key, _ in self._storage.scan(Kind.META, 0, _MARK):
            if not key.startswith(_MARK):
                break
            mark = key[len(_MARK) :]
            self._marks[int.from_bytes(mark[:_PARTITION_BYTES], "big"), mark[_PARTITION_BYTES:].hex()] = None
        for partition in range(PARTITIONS):
            self.pending(partition)
            await asyncio.sleep(0)

    # --- keep ---------------------------------------------------------------------------------------

    def keep(self, partition: int, key: bytes, target: NodeId, state: bytes, hlc_time: int = 0) -> None:
        """Merge into what is kept of this key for `target`. Applied, not yet synced.

        Raises Overloaded at the cap, TooLarge, StorageFull, CorruptRecord for a state that does not parse.
        """
        self.pending(partition)
        record_key = hint_key(target, key)
        held = self._record(partition, record_key)
        incoming = Hint(state, hlc_time, self._wall.now_ms())
        try:
            merged = merge_hints(decode_hint(held) if held else None, incoming)
        except CorruptRecord:
            merged = merge_hints(None, incoming)  # raises again if it is the incoming one
            self.give_up(partition, record_key)
            held = b""
        if len(merged.state) > self._limits.state_bytes_max:
            self.missed(partition, target)
            raise TooLarge("the hint would hold more siblings than a frame can carry")
        record = encode_hint(merged)
        if record == held:
            return
        growth = len(record) - len(held) if held else len(record_key) + len(record)
        if growth > 0 and self._is_full(growth, new=not held):
            self.missed(partition, target)
            raise Overloaded(
                f"{self.count} hints of {self.bytes} bytes together are kept here already",
                advice="bring back the nodes that are away, or raise hint_bytes_max and hints_max",
            )
        self._storage.apply([(Kind.HINT, partition, record_key, record)])
        self._count(partition, target, int(not held), growth, incoming.kept_ms)

    def _is_full(self, growth: int, *, new: bool) -> bool:
        limits = self._limits
        return self.bytes + growth > limits.hint_bytes_max or (new and self.count >= limits.hints_max)

    def _record(self, partition: int, record_key: bytes) -> bytes:
        """b"" for none. One that is unreadable is given up: nobody can tell what it knew."""
        try:
            record = self._storage.get(Kind.HINT, partition, record_key) or b""
            if record:
                decode_hint(record)
            return record
        except CorruptRecord:
            self.give_up(partition, record_key)
            return b""

    def delay_s(self) -> float:
        """How long to wait before a hint is acknowledged. A slow stand-in must not look like a dead one."""
        limits, longest_s = self._limits, self._limits.peer_deadline_s / 2
        return max(
            answer_delay_s(self.bytes, limits.hint_bytes_max, longest_s),
            answer_delay_s(self.count, limits.hints_max, longest_s),
        )

    # --- look ---------------------------------------------------------------------------------------

    def held(self, partition: int, key: bytes) -> tuple[bytes, tuple[NodeId, ...]]:
        """(merge of all hints of this key, for whom they are); b"" says nothing about the key."""
        state, targets = b"", []
        for target in list(self.pending(partition)):
            record_key = hint_key(target, key)
            record = self._record(partition, record_key)
            if not record:
                continue
            try:
                state = merge_encoded(state, decode_hint(record).state)
            except CorruptRecord:
                self.give_up(partition, record_key)
            else:
                targets.append(target)
        return state, tuple(targets)

    def scan(self, partition: int, target: NodeId, after: bytes) -> Iterator[tuple[bytes, bytes]]:
        """(record key, record) of one target, in order, strictly after the record key `after`."""
        prefix = hint_key(target, b"")
        for record_key, record in self._storage.scan(Kind.HINT, partition, max(prefix, after)):
            if not record_key.startswith(prefix):
                return
            if record is None:
                self.give_up(partition, record_key)
            elif record_key != after:
                yield record_key, record

    def pending(self, partition: int) -> dict[NodeId, Pending]:
        """What is kept there, by target."""
        found = self._pending.get(partition)
        if found is None:
            found = self._pending[partition] = {}
            for record_key, record in self._storage.scan(Kind.HINT, partition):
                target, _ = split_hint_key(record_key)
                self._count(partition, target, 1, len(record_key) + len(record or b""), _kept_ms(record))
        return found

    def by_target(self) -> dict[NodeId, Pending]:
        """Of all partitions together, in order of targets."""
        found: dict[NodeId, Pending] = {}
        for partition in range(PARTITIONS):
            for target, each in self.pending(partition).items():
                found[target] = _sum(found.get(target, _NONE_PENDING), each)
        return {target: found[target] for target in sorted(found)}

    def _count(self, partition: int, target: NodeId, count: int, size: int, kept_ms: int) -> None:
        pending = self._pending[partition]
        now = _sum(pending.get(target, _NONE_PENDING), Pending(count, size, kept_ms))
        if now.hints:
            pending[target] = now
        else:
            del pending[target]
        self.count += count
        self.bytes += size

    # --- let go -------------------------------------------------------------------------------------

    def delivered_to_owners(self, partition: int, record_key: bytes, sent: bytes) -> bool:
        """Forget a hint that its owners hold durably, unless it has grown since it was sent."""
        if self._record(partition, record_key) != sent:
            return False
        target, key = split_hint_key(record_key)
        self._storage.apply([(Kind.HINT, partition, record_key, None)])
        self._count(partition, target, -1, -len(record_key) - len(sent), 0)
        self._forget_dot(key, target)
        self.delivered += 1
        return True

    def give_up(self, partition: int, record_key: bytes) -> None:
        """Forget a record that can never be delivered; anti-entropy has to bring what it held."""
        target, key = split_hint_key(record_key)
        self._storage.apply([_mark(partition, target), (Kind.HINT, partition, record_key, None)])
        self._marks[partition, target] = None
        self.on_missed(partition, target)
        self.dropped += 1
        self._forget_dot(key, target)
        for each in self._pending.pop(partition, {}).values():  # its size is unknown: count again
            self.count -= each.hints
            self.bytes -= each.size_bytes
        self.pending(partition)

    def _forget_dot(self, key: bytes, target: NodeId) -> None:
        if key in self._last_dots and self._last_dots[key][1] == target:
            del self._last_dots[key]

    # --- marks --------------------------------------------------------------------------------------

    def missed(self, partition: int, target: NodeId) -> None:
        """Nobody keeps a copy that `target` lacks: count it, and leave a mark for anti-entropy."""
        self.dropped += 1
        if (partition, target) in self._marks:
            return
        self._marks[partition, target] = None
        self.on_missed(partition, target)
        with suppress(StorageFull):  # then the mark lasts as long as this run
            self._storage.apply([_mark(partition, target)])
            self._storage.sync()

    def marks(self) -> list[tuple[int, NodeId]]:
        """(partition, node) pairs that anti-entropy has to compare."""
        return sorted(self._marks)

    def is_marked(self, partition: int) -> bool:
        """Whether any node is known to lack something there that nobody keeps."""
        return any(marked == partition for marked, _ in self._marks)

    def unmark(self, partition: int, target: NodeId) -> None:
        """They have been compared."""
        if self._marks.pop((partition, target), 0) is None:
            self._storage.apply([(Kind.META, 0, _mark(partition, target)[2], None)])

    # --- writing as a stand-in ----------------------------------------------------------------------

    def last_dot(self, key: bytes) -> tuple[Dot, NodeId] | None:
        """The dot this node made last as a stand-in for the key, and the target whose hint holds it."""
        return self._last_dots.get(key)

    def made(self, key: bytes, dot: Dot, target: NodeId) -> None:
        """Remembered while that hint lives, and in this run only: a longer-lived replica id would cover
        dots that it has forgotten (B4, B7)."""
        self._last_dots.pop(key, None)
        if len(self._last_dots) >= _DOTS_MAX:
            self._last_dots.popitem(last=False)
        self._last_dots[key] = dot, target


def _kept_ms(record: bytes | None) -> int:
    try:
        return decode_hint(record or b"").kept_ms
    except CorruptRecord:
        return 0


def _sum(a: Pending, b: Pending) -> Pending:
    ages = [ms for ms in (a.oldest_ms, b.oldest_ms) if ms]
    return Pending(a.hints + b.hints, a.size_bytes + b.size_bytes, min(ages, default=0))


def _mark(partition: int, target: NodeId) -> tuple[Kind, int, bytes, bytes]:
    name = _MARK + partition.to_bytes(_PARTITION_BYTES, "big") + bytes.fromhex(target)
    return Kind.META, 0, name, b"1"
