"""The other side of a comparison: answers about the trees, the keys and the states that are held here.

Every answer stands for itself; whoever compares keeps the place. What takes a scan or many records runs a
few at a time, and more is refused: the asker comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kvstore.core.key_exchange import UNREADABLE
from kvstore.core.merkle_tree import LEAVES, unpack_hashes, unpack_segments
from kvstore.core.ring import PARTITIONS
from kvstore.core.upkeep_message import (
    CompareTrees,
    FetchStates,
    KeysListed,
    ListKeys,
    StatesFetched,
    StatesStored,
    StoreStates,
    TreesCompared,
)
from kvstore.errors import CorruptRecord, InvalidRequest, NotReady, Overloaded
from kvstore.node.cluster_view import ClusterView
from kvstore.node.exchange import (
    DAMAGED,
    DIFFERENT,
    NO_TREE,
    SAME,
    STATES_BYTES_MAX,
    STATES_MAX,
    list_keys,
)
from kvstore.node.pace import Pace
from kvstore.node.partition_trees import PartitionTrees
from kvstore.node.ports import Storage
from kvstore.node.replica import Replica

AT_ONCE_MAX = 3
_RETRY_S = 0.2


class ExchangeAnswers:
    """`heal(partition, key)` takes note of a record that is unreadable here."""

    def __init__(
        self,
        *,
        view: ClusterView,
        storage: Storage,
        replica: Replica,
        trees: PartitionTrees,
        pace: Pace,
        heal: Callable[[int, bytes], None],
    ) -> None:
        self._view, self._storage, self._replica, self._trees = view, storage, replica, trees
        self._pace, self._heal = pace, heal
        self._working = 0

    def compare(self, request: CompareTrees) -> TreesCompared:
        """Raises NotReady, InvalidRequest. A tree that is not there yet is built from now on."""
        self._check_terms(request.terms)
        positions = request.positions
        if not 0 <= request.level <= LEAVES:
            raise InvalidRequest(f"trees have no level {request.level}")
        if positions and not 0 <= min(positions) <= max(positions) < 32**request.level:
            raise InvalidRequest("a position is outside of its level")
        try:
            theirs = unpack_hashes(request.hashes)
        except ValueError as error:
            raise InvalidRequest(str(error)) from None
        if len(theirs) != len(positions) * len(request.partitions):
            raise InvalidRequest("there is not one hash for each position")
        verdicts = bytearray()
        for at, partition in enumerate(request.partitions):
            tree = self._trees.tree(_checked(partition), request.n)
            if tree is None:
                self._trees.build(partition)
                verdicts += bytes([DAMAGED if partition in self._trees.damaged else NO_TREE]) * len(positions)
                continue
            wanted = theirs[at * len(positions) : (at + 1) * len(positions)]
            mine = tree.hashes(request.level, positions)
            verdicts += bytes(
                SAME if left == right else DIFFERENT for left, right in zip(mine, wanted, strict=True)
            )
        return TreesCompared(bytes(verdicts))

    async def list(self, request: ListKeys) -> KeysListed:
        """Raises NotReady, Overloaded, CorruptRecord."""
        self._check_terms(request.terms)
        try:
            segments = unpack_segments(request.segments)
        except ValueError as error:
            raise InvalidRequest(str(error)) from None
        with self._one_of_a_few():
            page = await list_keys(
                self._storage,
                self._trees,
                self._pace,
                request.n,
                _checked(request.partition),
                segments,
                request.after,
            )
        for key, hashed in page.hashes.items():
            if hashed == UNREADABLE:
                self._heal(request.partition, key)
        return KeysListed(tuple(page.hashes.items()), page.last or b"", page.last is not None)

    async def fetch(self, request: FetchStates) -> StatesFetched:
        states: list[bytes] = []
        size_bytes = 0
        for key in request.keys[:STATES_MAX]:
            try:
                state = self._replica.read(_checked(request.partition), key)
            except CorruptRecord:
                state = b""
                self._heal(request.partition, key)
            if states and size_bytes + len(state) > STATES_BYTES_MAX:
                break
            states.append(state)
            size_bytes += len(state)
        await self._pace.moved(size_bytes)
        return StatesFetched(tuple(states))

    async def store(self, request: StoreStates) -> StatesStored:
        """Only keys that this node is a home of: its table of buckets may be newer than the sender's.

        Raises StorageFull, StorageFailed, CorruptRecord for a state that does not parse.
        """
        partition, me = _checked(request.partition), self._view.me.node_id
        stored = 0
        for key, state in request.items:
            if me in self._view.homes(partition, self._trees.n_of(key)):
                self._replica.store(partition, key, state)
                stored += 1
        await self._pace.moved(sum(len(key) + len(state) for key, state in request.items))
        await self._replica.sync()
        return StatesStored(stored)

    @contextmanager
    def _one_of_a_few(self) -> Iterator[None]:
        if self._working >= AT_ONCE_MAX:
            raise Overloaded("enough comparisons for now", retry_after_s=_RETRY_S)
        self._working += 1
        try:
            yield
        finally:
            self._working -= 1

    def _check_terms(self, terms: bytes) -> None:
        if terms != self._trees.terms:
            raise NotReady("the properties of buckets differ: gossip makes them equal soon")


def _checked(partition: int) -> int:
    if not 0 <= partition < PARTITIONS:
        raise InvalidRequest(f"there is no partition {partition}")
    return partition
