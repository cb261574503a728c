"""One comparison with one other home, by the side that begins it: root, level, segments, keys, states.

Source: Dynamo §4.7. Every message is bounded, and where one ends the next goes on, so that a call that
fails loses one page of work. Both directions are healed: what they lack is sent, what we lack is fetched,
and all of it is merged by the rules of a replica.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import cast

from kvstore.core.key_exchange import UNREADABLE, Page, Plan, plan_exchange
from kvstore.core.limits import KIB, MIB
from kvstore.core.membership import NodeId
from kvstore.core.merkle_tree import (
    FAN_OUT,
    HASH_BYTES,
    INNER,
    LEAVES,
    ROOT,
    SEGMENTS,
    children,
    pack_hashes,
    pack_segments,
    segment_of,
)
from kvstore.core.message import Reply, Request
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
from kvstore.errors import CorruptRecord, NotReady, PeerError, PeerRefused
from kvstore.node.grace import Grace
from kvstore.node.pace import BYTES_AT_ONCE, RECORDS_AT_ONCE, Pace
from kvstore.node.partition_trees import PartitionTrees, hash_of
from kvstore.node.ports import Kind, Peers, Storage
from kvstore.node.reach import Reach
from kvstore.node.replica import Replica

CALL_S = 10.0
SAME, DIFFERENT, NO_TREE, DAMAGED = range(4)
LISTED_KEYS_MAX = 2048
LISTED_BYTES_MAX = 256 * KIB
LISTING_S = 2.0  # for one page; what it found by then is a page, too
STATES_MAX = 64
STATES_BYTES_MAX = 1 * MIB  # or one state that is larger


class Counts:
    """What all comparisons that this node began have done since it started."""

    def __init__(self) -> None:
        self.compared = 0  # partitions, once for each peer and n
        self.different = 0  # of these
        self.sent = self.received = 0  # states
        self.tree_bytes = 0  # of hashes and keys, both directions
        self.state_bytes = 0


class Exchange:
    """`heal(partition, key)` takes note of a record that is unreadable here."""

    def __init__(
        self,
        *,
        storage: Storage,
        replica: Replica,
        trees: PartitionTrees,
        peers: Peers,
        reach: Reach,
        pace: Pace,
        grace: Grace,
        heal: Callable[[int, bytes], None],
    ) -> None:
        self._storage, self._replica, self._trees, self._peers = storage, replica, trees, peers
        self._reach, self._pace, self._grace, self._heal = reach, pace, grace, heal
        self.counts = Counts()

    async def compare_roots(self, peer: NodeId, n: int, partitions: Sequence[int]) -> bytes:
        """One verdict for each partition; all of them have a tree here. Raises PeerError, NotReady."""
        verdicts = await self._compare(peer, n, partitions, ROOT, (0,))
        self.counts.compared += verdicts.count(SAME) + verdicts.count(DIFFERENT)
        self.counts.different += verdicts.count(DIFFERENT)
        return verdicts

    async def differing(self, peer: NodeId, n: int, partition: int) -> frozenset[int]:
        """The segments in which a partition differs now. Raises PeerError, NotReady."""
        inner = await self._differing(peer, n, partition, INNER, range(FAN_OUT))
        return frozenset(await self._differing(peer, n, partition, LEAVES, children(inner)))

    async def heal(self, peer: NodeId, n: int, partition: int, segments: frozenset[int]) -> None:
        """Make these segments equal on both sides. Raises PeerError, NotReady, StorageFull, StorageFailed.

        Those that became equal by themselves cost no listing: a write was on its way to one side.
        """
        still = await self._differing(peer, n, partition, LEAVES, sorted(segments))
        if still:
            await self._heal_segments(peer, n, partition, frozenset(still))
            await self._replica.sync()

    async def _differing(
        self, peer: NodeId, n: int, partition: int, level: int, positions: Sequence[int]
    ) -> list[int]:
        if not positions:
            return []
        verdicts = await self._compare(peer, n, (partition,), level, positions)
        if NO_TREE in verdicts or DAMAGED in verdicts:
            raise NotReady("the peer has given its tree up")
        return [at for at, verdict in zip(positions, verdicts, strict=True) if verdict == DIFFERENT]

    async def _compare(
        self, peer: NodeId, n: int, partitions: Sequence[int], level: int, positions: Sequence[int]
    ) -> bytes:
        hashes: list[int] = []
        for partition in partitions:
            tree = self._trees.tree(partition, n)
            if tree is None:
                raise NotReady("the tree was given up")
            hashes += tree.hashes(level, positions)
        request = CompareTrees(
            self._trees.terms, n, tuple(partitions), level, tuple(positions), pack_hashes(hashes)
        )
        reply = cast(TreesCompared, await self.call(peer, request))
        if len(reply.verdicts) != len(hashes):
            raise NotReady("the peer answered for other hashes than it was asked")
        self.counts.tree_bytes += len(hashes) * (HASH_BYTES + 1)
        return reply.verdicts

    # --- segments -----------------------------------------------------------------------------------

    async def _heal_segments(self, peer: NodeId, n: int, partition: int, segments: frozenset[int]) -> None:
        packed, after = pack_segments(segments), b""
        while True:
            listed = cast(
                KeysListed,
                await self.call(peer, ListKeys(self._trees.terms, n, partition, packed, after)),
            )
            there = Page(dict(listed.items), listed.last if listed.more else None)
            here = await list_keys(self._storage, self._trees, self._pace, n, partition, segments, after)
            self.counts.tree_bytes += len(packed) + sum(len(key) + HASH_BYTES for key, _ in listed.items)
            plan = plan_exchange(here, there)
            await self._carry_out(peer, partition, plan)
            if plan.last is None:
                return
            if plan.last <= after:
                raise NotReady("the peer's list does not go on")
            after = plan.last

    async def refill(self, peer: NodeId, n: int, partition: int) -> None:
        """For a partition that no scan gets through: look up one by one what the peer has.

        A key inside of the damage is unreadable and gets healed, one that is missing is fetched.
        """
        packed, after = pack_segments(range(SEGMENTS)), b""
        while True:
            request = ListKeys(self._trees.terms, n, partition, packed, after)
            listed = cast(KeysListed, await self.call(peer, request))
            here = Page({}, None)
            for key, _ in listed.items:
                await self._pace.read(1)
                try:
                    hashed = hash_of(key, self._replica.read(partition, key))
                    here.hashes[key] = hashed.to_bytes(HASH_BYTES, "big")
                except CorruptRecord:
                    here.hashes[key] = UNREADABLE
            await self._carry_out(peer, partition, plan_exchange(here, Page(dict(listed.items), None)))
            if not listed.more or listed.last <= after:
                return
            after = listed.last

    async def _carry_out(self, peer: NodeId, partition: int, plan: Plan) -> None:
        for key in plan.heal:
            self._heal(partition, key)
        send = plan.send
        epoch = self._grace.enter()
        try:
            for start in range(0, len(plan.fetch), STATES_MAX):
                send += await self._fetch(peer, partition, plan.fetch[start : start + STATES_MAX])
            await self._send(peer, partition, send)
        finally:
            self._grace.leave(epoch)

    async def _fetch(self, peer: NodeId, partition: int, keys: Sequence[bytes]) -> list[bytes]:
        """Merges what the peer has; the keys of which this node now knows more than came."""
        richer: list[bytes] = []
        while keys:
            reply = cast(StatesFetched, await self.call(peer, FetchStates(partition, tuple(keys))))
            if not reply.states:
                raise NotReady("the peer sent nothing of what it was asked")
            size_bytes = 0
            for key, state in zip(keys, reply.states, strict=False):
                size_bytes += len(key) + len(state)
                if state and self._merge(partition, key, state):
                    richer.append(key)
            keys = keys[len(reply.states) :]
            self.counts.state_bytes += size_bytes
            await self._pace.moved(size_bytes)
        return richer

    def _merge(self, partition: int, key: bytes, state: bytes) -> bool:
        """Whether what is held afterwards is more than `state`."""
        try:
            self._replica.store(partition, key, state)
            self.counts.received += 1
            return self._replica.read(partition, key) != state
        except CorruptRecord:
            return False  # the peer's bytes do not parse; its scrub finds them

    async def _send(self, peer: NodeId, partition: int, keys: Sequence[bytes]) -> None:
        items: list[tuple[bytes, bytes]] = []
        size_bytes = 0
        for key in keys:
            try:
                state = self._replica.read(partition, key)
            except CorruptRecord:
                self._heal(partition, key)
                continue
            if not state:
                continue
            if items and (len(items) == STATES_MAX or size_bytes + len(state) > STATES_BYTES_MAX):
                await self._store_there(peer, partition, items, size_bytes)
                items, size_bytes = [], 0
            items.append((key, state))
            size_bytes += len(key) + len(state)
        if items:
            await self._store_there(peer, partition, items, size_bytes)

    async def _store_there(
        self, peer: NodeId, partition: int, items: list[tuple[bytes, bytes]], size_bytes: int
    ) -> None:
        reply = cast(StatesStored, await self.call(peer, StoreStates(partition, tuple(items))))
        self.counts.sent += reply.stored
        self.counts.state_bytes += size_bytes
        await self._pace.moved(size_bytes)

    async def call(self, peer: NodeId, request: Request, deadline_s: float = CALL_S) -> Reply:
        """Raises PeerError."""
        self._reach.asked(peer)
        try:
            reply = await self._peers.call(peer, request, deadline_s, background=True)
        except PeerRefused:
            self._reach.succeeded(peer)
            raise
        except PeerError as error:
            self._reach.failed(peer, hard=not error.sent)
            raise
        self._reach.succeeded(peer)
        return reply


async def list_keys(
    storage: Storage,
    trees: PartitionTrees,
    pace: Pace,
    n: int,
    partition: int,
    segments: frozenset[int],
    after: bytes,
) -> Page:
    """One page of what is held in these segments: either side of an exchange lists by this.

    Bounded in keys, bytes and time, and in any case a bit further than `after`. Raises CorruptRecord for
    a partition that no scan gets through.
    """
    loop = asyncio.get_running_loop()
    until_s = loop.time() + LISTING_S
    hashes: dict[bytes, bytes] = {}
    size_bytes = read_bytes = read = 0
    for key, state in storage.scan(Kind.DATA, partition, after + b"\0" if after else b""):
        read += 1
        read_bytes += len(state or b"")
        if trees.n_of(key) == n and segment_of(key) in segments:
            hashed = hash_of(key, state)
            hashes[key] = hashed.to_bytes(HASH_BYTES, "big") if hashed else UNREADABLE
            size_bytes += len(key) + HASH_BYTES
        if len(hashes) >= LISTED_KEYS_MAX or size_bytes >= LISTED_BYTES_MAX:
            await pace.read(read)
            return Page(hashes, key)
        if read >= RECORDS_AT_ONCE or read_bytes >= BYTES_AT_ONCE:
            await pace.read(read)
            read = read_bytes = 0
            if loop.time() > until_s:
                return Page(hashes, key)
    await pace.read(read)
    return Page(hashes, None)
