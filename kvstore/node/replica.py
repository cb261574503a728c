"""What this node does with its own copies: read, write, merge.

Each partition held here is one *copy* with a replica id of its own (dotted version vectors name
writers this way). The id is renewed whenever the copy may have forgotten a dot it made: after an
unclean stop, with an unreadable record, or when a message shows a counter of ours above our own
(B3 to B7). A renewed copy is simply a new writer; its old dots are those of somebody else.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple, Protocol

from kvstore.core.encoding import (
    Causal,
    decode_causal,
    decode_state,
    digest,
    encode_single,
    encode_state,
    has_known_format,
    head_of,
    merge_encoded,
    open_head,
    open_own,
    read_own,
)
from kvstore.core.limits import Limits
from kvstore.core.message import CopyHeld
from kvstore.core.ring import PARTITIONS
from kvstore.core.sibling import EMPTY_STATE, KeyState, Version, find_operation, write
from kvstore.core.tombstone import buried, has_expired
from kvstore.core.vector_clock import EMPTY_CONTEXT, CausalContext, Dot
from kvstore.errors import ContextRequired, CorruptRecord, InvalidRequest, NotReady, StorageFailed, TooLarge
from kvstore.node.hybrid_time import HybridTime
from kvstore.node.ports import Kind, Random, Storage, Write

_DATA = Kind.DATA  # as core.quorum.MET: a look-up on an Enum is not for the way of every request
_ID_BYTES = 8
_FRAME_OVERHEAD_BYTES = 4096  # key, context and the frame itself around a state
_BASE_BYTES_MAX = 512  # a larger head costs more to send than a replica saves
_STOPPED = "this node is stopping"
_NOTHING = Causal(EMPTY_CONTEXT, ())


class _Copy:
    """Replica id of one partition here, and the counter of the last dot it made.

    On disk only while the node is cleanly stopped. After any other stop the id is given up, so a counter
    written with each dot would never be read, and made a put's batch 1.7 µs dearer.
    """

    __slots__ = ("counter", "replica_id")

    def __init__(self, replica_id: int, counter: int) -> None:
        self.replica_id, self.counter = replica_id, counter

    @property
    def encoded(self) -> bytes:
        return self.replica_id.to_bytes(_ID_BYTES, "big") + self.counter.to_bytes(8, "big")


class Minted(NamedTuple):
    """A write that is in the engine here, not yet durable. `base`: as in core.message.Store."""

    state: bytes
    siblings: tuple[Dot, ...]
    dot: Dot
    hlc_time: int
    base: bytes = b""


class Trees(Protocol):
    """Hashes of what is held (node/partition_trees.py); told of every change in the turn that applies it."""

    def changed(self, partition: int, key: bytes, old: bytes, new: bytes, /) -> None: ...

    def forget(self, partition: int, /) -> None:
        """What is about to be replaced there is unreadable."""


class _NoTrees:
    def changed(self, *change: object) -> None: ...

    def forget(self, partition: int) -> None: ...


_NO_TREES = _NoTrees()


class Replica:
    """`renewed` counts replica ids given up; `corrupt` records found unreadable; `changes` states written.

    `recovering`: partitions whose copy may have lost what it acknowledged (node/recovery.py); `abstained`
    counts reads that were refused for it.
    `on_failed` is called with the error of a sync or a write that failed.
    """

    def __init__(
        self,
        storage: Storage,
        random: Random,
        time: HybridTime,
        limits: Limits,
        on_failed: Callable[[BaseException], None] = lambda error: None,
        trees: Trees = _NO_TREES,
    ) -> None:
        self._storage, self._random, self._time, self._limits = storage, random, time, limits
        self._on_failed, self._trees = on_failed, trees
        self._group: asyncio.Future[None] | None = None
        self._stopped = False
        self._state_bytes_max = min(limits.state_bytes_max, limits.frame_bytes_max - _FRAME_OVERHEAD_BYTES)
        self._copies: dict[int, _Copy] = {}
        # key -> head of the state held, b"" for none; the latest ones. Not a dict: the first key of one whose
        # first ones were deleted is looked for behind all of their places, which took 40 µs of each write.
        self._heads: OrderedDict[bytes, bytes] = OrderedDict()
        self.recovering: dict[int, None] = {}
        self.renewed = 0
        self.corrupt = 0
        self.changes = 0
        self.abstained = 0

    def start(self) -> None:
        """Take the ids and counters of a clean stop off the disk: what is found there was never used since.

        After an unclean stop there are none, so every copy here is a new writer: it may have forgotten
        dots that others have seen.
        """
        found = {p: self._stored_copy(p) for p in range(PARTITIONS)} if self._storage.was_clean else {}
        self._copies = {partition: copy for partition, copy in found.items() if copy is not None}
        self._storage.apply([(Kind.COPY, p, b"", None) for p in range(PARTITIONS)])

    def _stored_copy(self, partition: int) -> _Copy | None:
        try:
            stored = self._storage.get(Kind.COPY, partition, b"")
        except CorruptRecord:
            self.corrupt += 1
            return None
        if stored is None:
            return None
        return _Copy(int.from_bytes(stored[:_ID_BYTES], "big"), int.from_bytes(stored[_ID_BYTES:], "big"))

    def stop(self) -> None:
        """To be followed by a clean close of the storage: the copies keep their ids over that.

        Nothing is written any more: a later dot would not be in the counters on disk.
        """
        self._stopped = True
        if self._copies:
            copies = sorted(self._copies.items())
            self._storage.apply([(Kind.COPY, partition, b"", copy.encoded) for partition, copy in copies])

    def resume(self, partition: int, last: Dot) -> None:
        """This copy's last dot was `last`, and it has forgotten none."""
        self._copies[partition] = _Copy(*last)

    def renew_all(self) -> None:
        """Give up every replica id."""
        self._copies.clear()
        self.renewed += 1

    def read(self, partition: int, key: bytes) -> bytes:
        """The encoded state held here, b"" for nothing. Raises CorruptRecord: that is "don't know"."""
        try:
            return self._storage.get(_DATA, partition, key) or b""
        except CorruptRecord:
            self.corrupt += 1
            raise

    def copy_held(self, partition: int) -> CopyHeld:
        """Every dot that the copy here has made under the id that it has now."""
        copy = self._copies.get(partition)
        return CopyHeld(copy.replica_id, copy.counter) if copy else CopyHeld(0, 0)

    def witness(self, partition: int, key: bytes) -> bytes:
        """`read`, as a vote for what there is. Raises NotReady where "nothing" could be what was lost."""
        if partition in self.recovering:
            self.abstained += 1
            raise NotReady("this copy lost its data and was not compared with all other homes yet")
        return self.read(partition, key)

    def sync(self) -> asyncio.Future[None]:
        """Done when all that was written so far is durable; shared by all who ask in the same group."""
        group = self._storage.sync()
        if group is not self._group:
            self._group = group
            group.add_done_callback(self._synced)
        return group

    def _synced(self, group: asyncio.Future[None]) -> None:
        error = group.exception()
        if error is not None:
            self._on_failed(error)

    def write(
        self,
        partition: int,
        key: bytes,
        version: Version,
        *,
        context: CausalContext | None,
        blind: str,
        timed: bool = False,
    ) -> Minted:
        """Supersede what `context` covers, mint a dot, write. `version.hlc_time` is set here.

        Without a context `blind` says what the writer is taken to have seen. `timed`: time decides in
        this bucket, so the new version must be later than all that is held. An operation id that is
        among the siblings already is the same write, sent again: nothing new is minted. Raises
        ContextRequired, InvalidRequest, StorageFull.
        """
        try:
            return self._write(partition, key, version, context, blind, timed)
        except CorruptRecord:
            # The siblings' values are needed and unreadable, although their causal part is in memory.
            self._heads.pop(key, None)
            return self._write(partition, key, version, context, blind, timed)

    def _write(
        self,
        partition: int,
        key: bytes,
        version: Version,
        context: CausalContext | None,
        blind: str,
        timed: bool,
    ) -> Minted:
        head, causal, copy = self._head_and_copy(partition, key, context)
        if version.operation_id and causal.dots:
            held = self.read(partition, key)
            if version.operation_id in held:
                state = read_own(held)
                if found := find_operation(state, version.operation_id):
                    return self._sent_again(state, *found, version)
        known = causal.context
        if context is None:
            if blind == "reject":
                raise ContextRequired(
                    "this bucket takes no write without a causal context",
                    advice="get the key first and send its KV-Context with the write",
                )
            superseded = blind == "overwrite" or not causal.dots
            seen = known if superseded else EMPTY_CONTEXT
        else:
            superseded = all(map(context.covers, causal.dots))
            seen = context
        nothing_new = context is None or known.includes(context)
        base = head if nothing_new and len(head) <= _BASE_BYTES_MAX else b""
        dot = (copy.replica_id, copy.counter + 1)
        if superseded and not timed:
            hlc_time = self._time.now()
            joined = known if nothing_new else known.join(seen)
            encoded = encode_single(joined.advance(dot), dot, version, hlc_time)
            siblings: tuple[Dot, ...] = (dot,)
        else:
            state = read_own(self.read(partition, key)) if head else EMPTY_STATE
            for sibling in state.siblings.values():
                self._time.seen(sibling.hlc_time)
            hlc_time = self._time.now()
            written = write(state, seen, version._replace(hlc_time=hlc_time), dot)
            siblings = tuple(written.siblings)
            if len(siblings) > 1:
                self._refuse_explosion(len(causal.dots), len(siblings))
            encoded = encode_state(written)
        if len(encoded) > self._state_bytes_max:
            raise TooLarge(
                f"with this value the key's siblings would have {len(encoded)} bytes together,"
                f" the limit is {self._state_bytes_max}",
                advice="get the key, resolve its siblings, and write with the KV-Context of that answer",
            )
        self._put(partition, key, head, encoded)
        copy.counter = dot[1]
        return Minted(encoded, siblings, dot, hlc_time, base)

    def store(self, partition: int, key: bytes, incoming: bytes, base: bytes = b"", writer: int = 0) -> None:
        """Merge a state that another replica sent. Raises StorageFull, CorruptRecord for `incoming`.

        `base`, `writer`: as in core.message.Store. An unreadable record here is replaced: what it held
        is with the other homes, and anti-entropy or the next read brings it back.
        """
        copy = self._copy(partition)
        if self._stopped:
            raise NotReady(_STOPPED)
        if base and writer != copy.replica_id and has_known_format(incoming):
            # Nothing in it about dots of ours that our own record does not say already, so there is
            # nothing to compare: 4 µs instead of 13. A writer with our id is a clone: see below.
            try:
                head = self._head(partition, key)
            except CorruptRecord:
                head = b""
            if head == base:
                self._put(partition, key, head, incoming)
                return
        theirs: Causal | None = decode_causal(incoming)
        assert theirs is not None
        if theirs.context.highest(copy.replica_id) > copy.counter:
            copy = self._renew(partition)
        try:
            mine = self._storage.get(_DATA, partition, key)
            if any(dot[0] == copy.replica_id for dot in theirs.dots):
                incoming, theirs = _without_forgotten(incoming, copy.replica_id, mine), None
            merged = incoming if mine is None else merge_encoded(mine, incoming, theirs)
        except CorruptRecord:
            decode_state(incoming)  # raises if it is the sender's record that does not parse
            self.corrupt += 1
            self._trees.forget(partition)
            self._renew(partition)
            mine, merged = None, incoming
        if merged != mine:
            self._put(partition, key, head_of(mine) if mine else b"", merged)

    def drop(self, partition: int, key: bytes, expected: bytes, is_over: Callable[[bytes], bool]) -> bool:
        """Forget a state with this digest, if it `is_over`; True if no record is left. Not yet synced.

        The copy keeps its id, and its counter goes on: what it writes next is not covered by what is
        forgotten, should that come back (B6). Raises CorruptRecord, StorageFull, NotReady.
        """
        if self._stopped:
            raise NotReady(_STOPPED)
        held = self.read(partition, key)
        if not held:
            return True
        if digest(held) != expected or not is_over(held):
            return False
        self._apply((_DATA, partition, key, None))
        self._heads.pop(key, None)
        self._trees.changed(partition, key, head_of(held), b"")
        return True

    def bury(self, partition: int, key: bytes, now_ms: int, skew_ms: int) -> bool:
        """Tombstones in place of values that expired; True if there were any. Not yet synced.

        Head and hash of the record stay as they are. Raises CorruptRecord, StorageFull, NotReady.
        """
        if self._stopped:
            raise NotReady(_STOPPED)
        held = self.read(partition, key)
        if not held or not has_expired(held, now_ms, skew_ms):
            return False
        self._apply((_DATA, partition, key, buried(held, now_ms, skew_ms)))
        return True

    def _put(self, partition: int, key: bytes, held_head: bytes, state: bytes) -> None:
        """Raises CorruptRecord, and writes nothing, if `state` does not begin as one."""
        head = head_of(state)
        self._apply((_DATA, partition, key, state))
        self._remember(key, head)
        self._trees.changed(partition, key, held_head, head)

    def _apply(self, write: Write) -> None:
        """After a failed write nothing gets as far as a sync, so it is told here that the disk has failed."""
        try:
            self._storage.apply([write])
        except StorageFailed as error:
            self._on_failed(error)
            raise
        self.changes += 1

    def _head(self, partition: int, key: bytes) -> bytes:
        """Of the state held, b"" for none. Raises CorruptRecord."""
        head = self._heads.get(key)
        if head is None:
            held = self._storage.get(_DATA, partition, key)
            head = head_of(held) if held else b""
            self._remember(key, head)
        return head

    def _remember(self, key: bytes, head: bytes) -> None:
        heads = self._heads
        if len(heads) >= self._limits.heads_max and key not in heads:
            if not heads:
                return
            heads.popitem(last=False)
        heads[key] = head

    def _head_and_copy(
        self, partition: int, key: bytes, context: CausalContext | None
    ) -> tuple[bytes, Causal, _Copy]:
        """What is held, and the copy that may mint on it: one that has forgotten no dot of its own."""
        copy = self._copy(partition)
        if self._stopped:
            raise NotReady(_STOPPED)
        try:
            head = self._head(partition, key)
            causal = open_head(head) if head else _NOTHING
        except CorruptRecord:
            # Taking "don't know" for "empty" with the old id would dominate acknowledged dots (B3).
            self.corrupt += 1
            self._trees.forget(partition)
            return b"", _NOTHING, self._renew(partition)
        highest = causal.context.highest(copy.replica_id)
        if context is not None:
            highest = max(highest, context.highest(copy.replica_id))
        return head, causal, self._renew(partition) if highest > copy.counter else copy

    def _copy(self, partition: int) -> _Copy:
        return self._copies.get(partition) or self._renew(partition)

    def _renew(self, partition: int) -> _Copy:
        """A fresh id."""
        self.renewed += partition in self._copies
        copy = self._copies[partition] = _Copy(self._random.bits("replica-id", 63) + 1, 0)
        return copy

    def _sent_again(self, state: KeyState, dot: Dot, held: Version, version: Version) -> Minted:
        expired = held.tombstone and held.expires_at_ms
        if not expired and (held.value, held.tombstone) != (version.value, version.tombstone):
            raise InvalidRequest(
                "this operation id (Idempotency-Key) was used for another write of this key",
                advice="use a new id for a new write, and the old one only to send the same write again",
            )
        return Minted(encode_state(state), tuple(state.siblings), dot, held.hlc_time)

    def _refuse_explosion(self, before: int, after: int) -> None:
        if after > self._limits.siblings_max and after > before:
            raise ContextRequired(
                f"this key has {before} siblings, the limit is {self._limits.siblings_max}",
                advice="get the key, resolve its siblings, and write with the KV-Context of that answer",
            )


def _without_forgotten(incoming: bytes, replica_id: int, mine: bytes | None) -> bytes:
    """A home knows every dot it made on this key: one that its record lacks was superseded and collected.

    So a late message that still carries one does not bring it back (B6, "doomstone"), neither to a key
    without a record nor to one that somebody has written since.
    """
    held = open_own(mine)[0].dots if mine is not None else ()
    state = decode_state(incoming)
    kept = {dot: version for dot, version in state.siblings.items() if dot[0] != replica_id or dot in held}
    return encode_state(KeyState(kept, state.context))
