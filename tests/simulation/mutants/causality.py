"""Dots that are used twice, contexts that cover too much or too little, merges that drop or revive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kvstore.core import encoding, vector_clock
from kvstore.core.encoding import Causal, decode_causal, decode_state, encode_context, encode_state
from kvstore.core.hybrid_clock import wall_ms_of
from kvstore.core.message import Put, Written
from kvstore.core.ring import PARTITIONS, full_key, partition_of
from kvstore.core.sibling import KeyState, merge
from kvstore.core.vector_clock import EMPTY_CONTEXT, CausalContext, Dot
from kvstore.node import coordinator
from kvstore.node.coordinator import Coordinator
from kvstore.node.ports import Kind
from kvstore.node.replica import Replica, _Copy
from kvstore.storage.memory import MemoryDisk, MemoryStorage
from tests.simulation.mutants import Patch, mutant

# --- ids and dots ---------------------------------------------------------------------------------------


def keep_ids(patch: Patch, *, on: Callable[[MemoryDisk], bool] = lambda disk: True) -> None:
    """Who would take a new id begins to count again under the first one of its disk and partition."""
    original = Replica._renew
    ids: dict[tuple[int, int], int] = {}
    disks: list[object] = []  # kept alive, so that no other disk gets the same id()

    def renew(self: Replica, partition: int) -> _Copy:
        if not isinstance(self._storage, MemoryStorage):  # a stand-in's id lives in its hint
            return original(self, partition)
        disk = self._storage.disk
        disks.append(disk)
        name = id(disk), partition
        if name in ids and not on(disk):
            return original(self, partition)
        copy = self._copies[partition] = _Copy(ids.setdefault(name, len(ids) + 1), 0)
        return copy

    patch.setattr(Replica, "_renew", renew)


@mutant()
def id_kept_after_an_unclean_stop(patch: Patch) -> None:
    """B3 to B7: a copy that lost its last dots makes them again, for other writes."""
    write = Replica.write

    def start(self: Replica) -> None:
        found = {p: self._stored_copy(p) for p in range(PARTITIONS)}
        self._copies = {partition: copy for partition, copy in found.items() if copy is not None}

    def remembering(self: Replica, partition: int, *arguments: Any, **options: Any) -> Any:
        minted = write(self, partition, *arguments, **options)
        if isinstance(self._storage, MemoryStorage):  # a stand-in has one key and no such record
            self._storage.apply([(Kind.COPY, partition, b"", self._copies[partition].encoded)])
        return minted

    patch.setattr(Replica, "start", start)
    patch.setattr(Replica, "write", remembering)


@mutant(quick=True)
def id_is_that_of_the_node(patch: Patch) -> None:
    """B4: after a restart, or with a record lost, the counter begins again under the same id."""
    keep_ids(patch)


# --- contexts -------------------------------------------------------------------------------------------


def maximal(vector: Any, cloud: frozenset[Dot]) -> CausalContext:
    reached = dict(vector)
    for replica_id, counter in cloud:
        reached[replica_id] = max(reached.get(replica_id, 0), counter)
    return CausalContext(reached, frozenset())


@mutant(quick=True)
def token_of_maximal_counters(patch: Patch) -> None:
    """One counter per id: covers the dots in between, which nobody has seen."""
    patch.setattr(vector_clock, "compacted", maximal)
    patch.setattr(encoding, "compacted", maximal)
    patch.setattr(coordinator, "encode_context_of", lambda dot: encode_context(maximal({}, frozenset([dot]))))


@mutant()
def put_answers_with_all_that_is_known(patch: Patch) -> None:
    """The token of a put covers the siblings at its coordinator, which the client has not seen."""
    put = Coordinator.put

    async def generous(self: Coordinator, request: Put) -> Written:
        written = await put(self, request)
        key = full_key(request.bucket, request.key)
        held = self._replica.read(partition_of(key), key)
        return written._replace(context=encode_context(decode_causal(held).context)) if held else written

    patch.setattr(Coordinator, "put", generous)


@mutant()
def context_comparison_ignores_single_dots(patch: Patch) -> None:
    def includes(self: CausalContext, other: CausalContext) -> bool:
        return all(self.vector.get(i, 0) >= counter for i, counter in other.vector.items())

    patch.setattr(CausalContext, "includes", includes)


@mutant()
def repair_forgets_contexts(patch: Patch) -> None:
    """A state is stored with the dots it holds, and without those it has superseded."""
    store = Replica.store

    def bare(self: Replica, partition: int, key: bytes, incoming: bytes, *rest: Any) -> None:
        siblings = decode_state(incoming).siblings
        store(self, partition, key, encode_state(KeyState(siblings, vector_clock.context_of(siblings))))

    patch.setattr(Replica, "store", bare)


# --- writes ---------------------------------------------------------------------------------------------


@mutant()
def write_ignores_its_token(patch: Patch) -> None:
    write = Replica.write

    def beside(self: Replica, *arguments: Any, context: Any, **options: Any) -> Any:
        return write(self, *arguments, context=None if context is None else EMPTY_CONTEXT, **options)

    patch.setattr(Replica, "write", beside)


@mutant(quick=True)
def write_supersedes_all_that_is_held(patch: Patch) -> None:
    """B1: the last write at a replica wins, whatever its writer has seen."""
    write = Replica.write

    def over(self: Replica, partition: int, key: bytes, version: Any, *, context: Any, **options: Any) -> Any:
        held = self._storage.get(Kind.DATA, partition, key)
        known = decode_causal(held).context if held else EMPTY_CONTEXT
        return write(self, partition, key, version, context=known.join(context or EMPTY_CONTEXT), **options)

    patch.setattr(Replica, "write", over)


@mutant()
def blind_write_counts_as_one_that_has_seen(patch: Patch) -> None:
    write = Replica.write

    def seeing(self: Replica, *arguments: Any, blind: str, **options: Any) -> Any:
        return write(self, *arguments, blind="overwrite", **options)

    patch.setattr(Replica, "write", seeing)


# --- merges ---------------------------------------------------------------------------------------------


@mutant(quick=True)
def merge_keeps_the_last_write(patch: Patch) -> None:
    """B1, B2: of concurrent writes the one with the latest time stays."""

    def last(a: KeyState, b: KeyState) -> KeyState:
        joined = merge(a, b)
        newest = max(joined.siblings, key=lambda dot: (joined.siblings[dot].hlc_time, dot), default=None)
        kept = {} if newest is None else {newest: joined.siblings[newest]}
        return KeyState(kept, joined.context)

    patch.setattr(encoding, "merge", last)


@mutant()
def wall_clock_supersedes(patch: Patch) -> None:
    """B2: what is a second older than its sibling must have been seen by it."""

    def recent(a: KeyState, b: KeyState) -> KeyState:
        joined = merge(a, b)
        times = [wall_ms_of(version.hlc_time) for version in joined.siblings.values()]
        kept = {d: v for d, v in joined.siblings.items() if wall_ms_of(v.hlc_time) >= max(times) - 1000}
        return KeyState(kept, joined.context)

    patch.setattr(encoding, "merge", recent)


@mutant()
def merge_without_contexts(patch: Patch) -> None:
    """Everything that either side holds: what one of them has dropped returns."""

    def union(mine: bytes, theirs: bytes, _causal: Causal | None = None) -> bytes:
        if not mine or not theirs or mine == theirs:
            return mine or theirs
        a, b = decode_state(mine), decode_state(theirs)
        return encode_state(KeyState({**a.siblings, **b.siblings}, a.context.join(b.context)))

    patch.setattr(encoding, "merge_encoded", union)
    patch.setattr("kvstore.node.replica.merge_encoded", union)
    patch.setattr("kvstore.core.read_repair.merge_encoded", union)
