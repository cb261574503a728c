"""Copies that may have lost what they acknowledged: which they are, and when they may speak again.

The directory was empty, or from the past. Such a copy takes writes, and its vote for them counts; but that it
lacks a key says nothing, so it answers no read (`Replica.witness`) until it was compared with every other
home of the partition. A quorum of reads is then made of the others, and meets all that was acknowledged:
of the W that had a write W-1 are left, of the N that may answer N-1, and W - 1 + R > N - 1.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from kvstore.core.membership import NodeId
from kvstore.core.ring import PARTITIONS
from kvstore.errors import CorruptRecord, StorageFull
from kvstore.node.cluster_view import RECOVERING, ClusterView, recovering
from kvstore.node.partition_trees import PartitionTrees
from kvstore.node.ports import Kind, Storage
from kvstore.node.replica import Replica


class Recovery:
    """`urgent(partition, peer)` asks for a comparison; `compared` is told of every one that ended."""

    def __init__(
        self,
        *,
        storage: Storage,
        view: ClusterView,
        replica: Replica,
        trees: PartitionTrees,
        urgent: Callable[[int, NodeId], None],
        report: Callable[..., None],
    ) -> None:
        self._storage, self._view, self._trees = storage, view, trees
        self._urgent, self._report = urgent, report
        self._left = replica.recovering
        self._compared: dict[int, set[NodeId]] = {}
        self._left.update(dict.fromkeys(_stored(storage)))

    def begin(self) -> None:
        """Every copy here may have lost something. Whoever found that out has written it down."""
        self._left.update(dict.fromkeys(range(PARTITIONS)))
        self._compared.clear()

    def ask(self) -> None:
        """Have what is left compared before all else. There is a layout."""
        for partition in list(self._left):
            waiting = self._waits_for(partition)
            for peer in waiting:
                self._urgent(partition, peer)
            if not waiting:
                self._done(partition)

    def compared(self, partition: int, peer: NodeId) -> None:
        """This copy has all that `peer` holds of the partition."""
        if partition in self._left:
            self._compared.setdefault(partition, set()).add(peer)
            if not self._waits_for(partition):
                self._done(partition)

    def _waits_for(self, partition: int) -> list[NodeId]:
        """The other homes, for the largest n, that it was not compared with; none if it is not owned here."""
        me, homes = self._view.me.node_id, self._view.homes(partition, max(self._trees.classes()))
        compared = self._compared.get(partition, ())
        return [home for home in homes if home not in compared and home != me] if me in homes else []

    def _done(self, partition: int) -> None:
        """What was received is in the log before this record: a crash never loses only that.

        A record that a full disk does not take says too much, which costs comparisons after the next start.
        """
        del self._left[partition]
        self._compared.pop(partition, None)
        with suppress(StorageFull):
            self._storage.apply([recovering(self._left)])
        if not self._left:
            self._report("recovered: every copy here was compared with all its other homes")


def _stored(storage: Storage) -> list[int]:
    try:
        record = storage.get(Kind.META, 0, RECOVERING)
    except CorruptRecord:
        return list(range(PARTITIONS))
    bits = int.from_bytes(record or b"", "big")
    return [partition for partition in range(PARTITIONS) if bits >> partition & 1]
