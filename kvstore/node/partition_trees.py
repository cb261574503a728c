"""The Merkle trees of what is held here: built by one scan when first needed, kept up by every write.

One tree per partition and n: keys of a bucket with n homes are compared between these n nodes only, and a
partition's keys of another n would make the roots of equal replicas differ. Trees live in memory; a node
that starts builds them anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from hashlib import blake2b

from kvstore.core.encoding import own_causal_bytes
from kvstore.core.merkle_tree import MerkleTree, item_hash, segment_of
from kvstore.core.ring import PARTITIONS
from kvstore.errors import CorruptRecord, StorageFailed, StorageFull
from kvstore.node.bucket_registry import BucketRegistry
from kvstore.node.pace import BYTES_AT_ONCE, RECORDS_AT_ONCE, Pace
from kvstore.node.ports import Kind, Storage

_EMPTY = MerkleTree()
_CHANGES_MAX = 256  # of one partition, not hashed yet: about 60 KiB
_BUILD_AGAIN_S = 60.0  # after damage that a scan cannot get past


class PartitionTrees:
    """`changed` belongs to whoever applies a change of Kind.DATA, in the same turn of the loop.

    `terms`: digest of what two nodes must agree on before their trees can be compared: every bucket's n.
    `built` counts trees built; `damaged` are the partitions that no scan gets through.
    """

    def __init__(
        self, storage: Storage, buckets: BucketRegistry, pace: Pace, report: Callable[..., None]
    ) -> None:
        self._storage, self._buckets, self._pace, self._report = storage, buckets, pace, report
        self._loop = asyncio.get_running_loop()
        self._trees: list[dict[int, MerkleTree] | None] = [None] * PARTITIONS
        self._ready = [False] * PARTITIONS
        self._changes: list[dict[bytes, tuple[bytes, bytes]]] = [{} for _ in range(PARTITIONS)]
        self._wanted: dict[int, asyncio.Future[bool]] = {}
        self._wake: asyncio.Future[None] | None = None
        self._n_default = 0
        self._n_of_bucket: dict[bytes, int] = {}
        self._classes: list[int] = []
        self._digest: bytes | None = None
        self._terms = b""
        self.built = 0
        self.damaged: dict[int, float] = {}

    # --- what is held -------------------------------------------------------------------------------

    def changed(self, partition: int, key: bytes, old: bytes, new: bytes) -> None:
        """`old` was replaced by `new` (states, or their heads alone); b"" for none.

        Hashed when somebody looks at the tree, or after so many keys: 0.2 µs instead of 2.3 in the put
        that changes a key, and a key that changes again meanwhile is hashed once.
        """
        if self._trees[partition] is None:
            return
        changes = self._changes[partition]
        was = changes.get(key)
        changes[key] = (old if was is None else was[0], new)
        if len(changes) >= _CHANGES_MAX:
            self._settle(partition)

    def _settle(self, partition: int) -> None:
        changes, trees = self._changes[partition], self._trees[partition]
        if not changes or trees is None:
            return
        self._changes[partition] = {}
        try:
            for key, (old, new) in changes.items():
                difference = item_hash(key, own_causal_bytes(old)) if old else 0
                if new:
                    difference ^= item_hash(key, own_causal_bytes(new))
                self._toggle(trees, key, difference)
        except CorruptRecord:
            self.forget(partition)

    def _toggle(self, trees: dict[int, MerkleTree], key: bytes, hashed: int) -> None:
        n = self.n_of(key)
        tree = trees.get(n)
        if tree is None:
            tree = trees[n] = MerkleTree()
        tree.toggle(segment_of(key), hashed)

    def forget(self, partition: int) -> None:
        """A record was replaced that nobody can read: its hash cannot be taken out of the tree."""
        self._trees[partition] = None
        self._ready[partition] = False
        self._changes[partition] = {}

    def tree(self, partition: int, n: int) -> MerkleTree | None:
        """None until it is built."""
        self._heed_buckets()
        self._settle(partition)
        trees = self._trees[partition]
        return trees.get(n, _EMPTY) if trees is not None and self._ready[partition] else None

    # --- buckets ------------------------------------------------------------------------------------

    @property
    def terms(self) -> bytes:
        self._heed_buckets()
        return self._terms

    def n_of(self, key: bytes) -> int:
        """How many homes the key's bucket has."""
        if self._buckets.digest is not self._digest:
            self._heed_buckets()
        if not self._n_of_bucket:
            return self._n_default
        return self._n_of_bucket.get(key.partition(b"\0")[0], self._n_default)

    def classes(self) -> list[int]:
        """Every n that some bucket has."""
        self._heed_buckets()
        return self._classes

    def _heed_buckets(self) -> None:
        """A bucket that got another n moves its keys to another tree: all are built again then."""
        if self._buckets.digest is self._digest:
            return
        self._digest = self._buckets.digest
        default = self._buckets.defaults.n
        special = {
            name.encode(): properties.n
            for name, properties in self._buckets.named().items()
            if properties.n != default
        }
        if (default, special) == (self._n_default, self._n_of_bucket) and self._terms:
            return
        self._n_default, self._n_of_bucket = default, special
        self._classes = sorted({default, *special.values()})
        self._terms = blake2b(repr((default, sorted(special.items()))).encode(), digest_size=8).digest()
        for partition in range(PARTITIONS):
            self.forget(partition)

    # --- building -----------------------------------------------------------------------------------

    def build(self, partition: int) -> asyncio.Future[bool]:
        """Done when the tree is there (True) or could not be made. `run` must run."""
        waiting = self._wanted.get(partition)
        if waiting is None:
            waiting = self._wanted[partition] = self._loop.create_future()
            if self._wake is not None and not self._wake.done():
                self._wake.set_result(None)
        return waiting

    async def run(self) -> None:
        """Builds what is wanted, one partition after the other, until cancelled. Raises StorageFailed."""
        while True:
            while self._wanted:
                partition = next(iter(self._wanted))
                ready = await self._build(partition)
                waiting = self._wanted.pop(partition)
                if not waiting.done():
                    waiting.set_result(ready)
            self._wake = self._loop.create_future()
            await self._wake

    async def _build(self, partition: int) -> bool:
        if self._ready[partition]:
            return True
        if self._loop.time() < self.damaged.get(partition, 0.0):
            return False
        self._heed_buckets()
        trees: dict[int, MerkleTree] = {}
        try:
            # The scan is the partition as of this line, and every later change toggles the same trees:
            # whatever order they come in, both together are what is held.
            records = self._storage.scan(Kind.DATA, partition)
            self._trees[partition], self._ready[partition], self._changes[partition] = trees, False, {}
            count = size_bytes = 0
            for key, state in records:
                if state and (hashed := hash_of(key, state)):
                    self._toggle(trees, key, hashed)
                    size_bytes += len(state)
                count += 1
                if count >= RECORDS_AT_ONCE or size_bytes >= BYTES_AT_ONCE:
                    await self._pace.read(count)
                    count = size_bytes = 0
                if self._trees[partition] is not trees:
                    return False  # forgotten meanwhile
        except StorageFailed:
            raise
        except (CorruptRecord, StorageFull) as error:
            self.forget(partition)
            self.damaged[partition] = self._loop.time() + _BUILD_AGAIN_S
            self._report("partition cannot be scanned", partition=partition, reason=error.detail)
            return False
        await self._pace.read(count)
        if self._trees[partition] is not trees:
            return False
        self.damaged.pop(partition, None)
        self._ready[partition] = True
        self.built += 1
        return True


def hash_of(key: bytes, state: bytes | None) -> int:
    """Of a record as it was read; 0 for one that is unreadable or does not parse."""
    try:
        return item_hash(key, own_causal_bytes(state)) if state else 0
    except CorruptRecord:
        return 0
