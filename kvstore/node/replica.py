"""What this node does with its own copies: read, write, merge.

Each partition held here is one *copy* with a replica id of its own (dotted version vectors name
writers this way). The id is renewed whenever the copy may have forgotten a dot it made: after an
unclean stop, with an unreadable record, or when a message shows a counter of ours above our own
(B3 to B7). A renewed copy is simply a new writer; its old dots are those of somebody else.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple, Protocol

from kvstore.core.encoding import (
    Causal,
    decode_causal,
    decode_state,
    encode_state,
    merge_encoded,
    open_own,
)
from kvstore.core.limits import Limits
from kvstore.core.ring import PARTITIONS
from kvstore.core.sibling import KeyState, Version, find_operation, write
from kvstore.core.vector_clock import EMPTY_CONTEXT, CausalContext, Dot
from kvstore.errors import ContextRequired, CorruptRecord, InvalidRequest, TooLarge
from kvstore.node.hybrid_time import HybridTime
from kvstore.node.ports import Kind, Random, Storage

_ID_BYTES = 8
_FRAME_OVERHEAD_BYTES = 4096  # key, context and the frame itself around a state
_NOTHING = (Causal(EMPTY_CONTEXT, ()), b"")


class _Copy:
    """Replica id of one partition here, and the counter of the last dot it made."""

    __slots__ = ("counter", "replica_id")

    def __init__(self, replica_id: int, counter: int) -> None:
        self.replica_id, self.counter = replica_id, counter


class Minted(NamedTuple):
    """A write that is in the engine here, not yet durable."""

    state: bytes
    siblings: tuple[Dot, ...]
    dot: Dot
    hlc_time: int


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
    """`renewed` counts replica ids given up; `corrupt` records found unreadable."""

    def __init__(
        self, storage: Storage, random: Random, time: HybridTime, limits: Limits, trees: Trees = _NO_TREES
    ) -> None:
        self._storage, self._random, self._time, self._limits = storage, random, time, limits
        self._trees = trees
        self._state_bytes_max = min(limits.state_bytes_max, limits.frame_bytes_max - _FRAME_OVERHEAD_BYTES)
        self._copies: dict[int, _Copy] = {}
        self.renewed = 0
        self.corrupt = 0

    def start(self) -> None:
        """After an unclean stop every copy here may have forgotten dots that others have seen."""
        if not self._storage.was_clean:
            self.renew_all()

    def renew_all(self) -> None:
        """Give up every replica id, durably before the next dot: the deletion precedes it in the log."""
        self._storage.apply([(Kind.COPY, p, b"", None) for p in range(PARTITIONS)])
        self._copies.clear()
        self.renewed += 1

    def read(self, partition: int, key: bytes) -> bytes:
        """The encoded state held here, b"" for nothing. Raises CorruptRecord: that is "don't know"."""
        try:
            return self._storage.get(Kind.DATA, partition, key) or b""
        except CorruptRecord:
            self.corrupt += 1
            raise

    def sync(self) -> asyncio.Future[None]:
        """Done when all that was written so far is durable."""
        return self._storage.sync()

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
        held, copy = self._held_and_copy(partition, key, context)
        causal, contents = open_own(held) if held else _NOTHING
        if version.operation_id and version.operation_id in contents:
            state = decode_state(held)
            if found := find_operation(state, version.operation_id):
                return self._sent_again(state, *found, version)
        seen = context
        if seen is None:
            if blind == "reject":
                raise ContextRequired(
                    "this bucket takes no write without a causal context",
                    advice="get the key first and send its KV-Context with the write",
                )
            seen = causal.context if blind == "overwrite" else EMPTY_CONTEXT
        superseded = all(map(seen.covers, causal.dots))
        # Versions that nobody will see again need not be read; their times count only where time decides.
        state = KeyState({}, causal.context)
        if not superseded or (timed and held):
            state = decode_state(held)
        for sibling in state.siblings.values():
            self._time.seen(sibling.hlc_time)
        version = version._replace(hlc_time=self._time.now())
        dot = (copy.replica_id, copy.counter + 1)
        written = write(state, seen, version, dot)
        if len(written.siblings) > 1:
            self._refuse_explosion(len(causal.dots), len(written.siblings))
        encoded = encode_state(written)
        if len(encoded) > self._state_bytes_max:
            raise TooLarge(
                f"with this value the key's siblings would have {len(encoded)} bytes together,"
                f" the limit is {self._state_bytes_max}",
                advice="get the key, resolve its siblings, and write with the KV-Context of that answer",
            )
        self._storage.apply(
            [
                (Kind.DATA, partition, key, encoded),
                (Kind.COPY, partition, b"", _copy_bytes(dot)),
            ]
        )
        copy.counter = dot[1]
        self._trees.changed(partition, key, held, encoded)
        return Minted(encoded, tuple(written.siblings), dot, version.hlc_time)

    def store(self, partition: int, key: bytes, incoming: bytes) -> None:
        """Merge a state that another replica sent. Raises StorageFull, CorruptRecord for `incoming`.

        An unreadable record here is replaced: what it held is with the other homes, and anti-entropy
        or the next read brings it back.
        """
        theirs: Causal | None = decode_causal(incoming)
        assert theirs is not None
        copy = self._copy(partition)
        if theirs.context.highest(copy.replica_id) > copy.counter:
            copy = self._renew(partition)
        try:
            mine = self._storage.get(Kind.DATA, partition, key)
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
            self._storage.apply([(Kind.DATA, partition, key, merged)])
            self._trees.changed(partition, key, mine or b"", merged)

    def _held_and_copy(
        self, partition: int, key: bytes, context: CausalContext | None
    ) -> tuple[bytes, _Copy]:
        """What is held, and the copy that may mint on it: one that has forgotten no dot of its own."""
        copy = self._copy(partition)
        try:
            held = self._storage.get(Kind.DATA, partition, key) or b""
            highest = open_own(held)[0].context.highest(copy.replica_id) if held else 0
        except CorruptRecord:
            # Taking "don't know" for "empty" with the old id would dominate acknowledged dots (B3).
            self.corrupt += 1
            self._trees.forget(partition)
            return b"", self._renew(partition)
        if context is not None:
            highest = max(highest, context.highest(copy.replica_id))
        return held, self._renew(partition) if highest > copy.counter else copy

    def _copy(self, partition: int) -> _Copy:
        copy = self._copies.get(partition)
        if copy is not None:
            return copy
        try:
            stored = self._storage.get(Kind.COPY, partition, b"")
        except CorruptRecord:
            self.corrupt += 1
            stored = None
        if stored is None:
            return self._renew(partition)
        copy = _Copy(int.from_bytes(stored[:_ID_BYTES], "big"), int.from_bytes(stored[_ID_BYTES:], "big"))
        self._copies[partition] = copy
        return copy

    def _renew(self, partition: int) -> _Copy:
        """A fresh id. It reaches the disk with the first dot it mints; until then nobody has seen it."""
        self.renewed += partition in self._copies
        copy = self._copies[partition] = _Copy(self._random.bits("replica-id", 63) + 1, 0)
        return copy

    def _sent_again(self, state: KeyState, dot: Dot, held: Version, version: Version) -> Minted:
        if (held.value, held.tombstone) != (version.value, version.tombstone):
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


def _copy_bytes(dot: Dot) -> bytes:
    return dot[0].to_bytes(_ID_BYTES, "big") + dot[1].to_bytes(8, "big")


def _without_forgotten(incoming: bytes, replica_id: int, mine: bytes | None) -> bytes:
    """A home knows every dot it made on this key: one that its record lacks was superseded and collected.

    So a late message that still carries one does not bring it back (B6, "doomstone"), neither to a key
    without a record nor to one that somebody has written since.
    """
    held = open_own(mine)[0].dots if mine is not None else ()
    state = decode_state(incoming)
    kept = {dot: version for dot, version in state.siblings.items() if dot[0] != replica_id or dot in held}
    return encode_state(KeyState(kept, state.context))
