"""What this node knows of its cluster: itself, the members, the layout. Kept on disk, merged from gossip."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

from kvstore.core.layout import Layout
from kvstore.core.membership import Member, NodeId, merge_members
from kvstore.core.ring import PARTITIONS
from kvstore.errors import ConfigError, NotReady
from kvstore.node.ports import Kind, Storage, Write

_IDENTITY, _LAYOUT, _MEMBERS = b"identity", b"layout", b"members"
RECOVERING = b"recovering"
"""Partitions whose copy may have lost something (node/recovery.py), one bit each."""


class ClusterView:
    """`me` is this node as it describes itself to others.

    `homes(partition, n)` is looked up by every request and cached per layout. `on_members` is called when
    `members` has changed, whoever told of the change: gossip, or a layout. `is_empty`: the directory was;
    `is_new`: and this identity was never used before. `progress`: of the directory as this run found it.
    """

    def __init__(self, storage: Storage, me: Member) -> None:
        self._storage = storage
        self.me = me
        self.is_new = self.is_empty = False
        self.progress = 0
        self.members: dict[NodeId, Member] = {me.node_id: me}
        self.layout: Layout | None = None
        self._homes: dict[int, list[tuple[NodeId, ...]]] = {}
        self.on_members: Callable[[], None] = lambda: None

    @classmethod
    def open(cls, storage: Storage, describe: Member, recover_as: NodeId = "") -> ClusterView:
        """Reads the identity in the data directory, or writes a new one: `recover_as`, or that of `describe`.

        Counts this start: the incarnation on disk goes up by one, durably with the next sync. An empty
        directory that is to recover as a member knows of none of its writes. Raises ConfigError.
        """
        stored = storage.get(Kind.META, 0, _IDENTITY)
        if stored and recover_as and _has_no_part(storage, json.loads(stored)[0]):
            stored = None  # somebody started here before it was known whose place this is
        found = json.loads(stored) if stored else [recover_as or describe.node_id, 0]
        node_id, incarnation, progress = (*found, 0)[:3]
        if recover_as and node_id != recover_as:
            raise ConfigError(
                f"recover_as={recover_as}, but the data directory is that of node {node_id}",
                advice="leave recover_as out, or name an empty directory",
            )
        view = cls(storage, describe._replace(node_id=node_id, incarnation=incarnation + 1))
        view.is_new, view.is_empty, view.progress = not (stored or recover_as), not stored, progress
        lost = [recovering(range(PARTITIONS))] if view.is_empty and recover_as else []
        storage.apply([view.identified(incarnation + 1, progress), *lost])
        members = storage.get(Kind.META, 0, _MEMBERS)
        view.merge(Member(*fields) for fields in json.loads(members or b"[]"))
        layout = storage.get(Kind.META, 0, _LAYOUT)
        if layout:
            view._use(_layout_from(json.loads(layout)))
        return view

    @property
    def cluster_id(self) -> str:
        return self.layout.cluster_id if self.layout else ""

    def homes(self, partition: int, n: int) -> tuple[NodeId, ...]:
        """Raises NotReady while there is no layout."""
        table = self._homes.get(n)
        if table is None:
            if self.layout is None:
                raise NotReady(
                    "this node belongs to no cluster yet",
                    advice="it waits for the other nodes: see /readyz?verbose, seeds and bootstrap_expect",
                )
            layout = self.layout
            table = self._homes[n] = [layout.homes(p, n) for p in range(PARTITIONS)]
        return table[partition]

    def merge(self, members: Iterable[Member]) -> None:
        """Take what is newer about others. What is said about us is ours to say.

        A stranger at the address of a member of the layout is no member: its directory was lost, and it ends.
        """
        others = [m for m in members if m.node_id != self.me.node_id]
        if self.layout is not None and any(m.node_id not in self.members for m in others):
            placed = {m.node_id: self.members.get(m.node_id, m).rpc_address for m in self.layout.members}
            known, taken = placed.keys() | self.members.keys(), set(placed.values())
            others = [m for m in others if m.node_id in known or m.rpc_address not in taken]
        merged = merge_members(self.members, others)
        if merged == self.members:
            return
        self.members = merged
        others = [m for m in merged.values() if m.node_id != self.me.node_id]
        self._storage.apply([(Kind.META, 0, _MEMBERS, json.dumps(sorted(others)).encode())])
        self.on_members()

    def announce(self, rpc_address: str, http_address: str) -> None:
        """Where this node is to be found; known once its sockets are bound."""
        self.me = self.me._replace(rpc_address=rpc_address, http_address=http_address)
        self.members[self.me.node_id] = self.me

    def renew_incarnation(self, incarnation: int) -> None:
        """Somebody remembered a later start of ours than we did: this one is newer."""
        self.me = self.me._replace(incarnation=incarnation)
        self.members[self.me.node_id] = self.me

    def identified(self, incarnation: int, progress: int) -> Write:
        """The record of who this directory is, and how far it has come."""
        identity = json.dumps([self.me.node_id, incarnation, progress]).encode()
        return Kind.META, 0, _IDENTITY, identity

    def adopt(self, layout: Layout) -> bool:
        """Use a layout if it is newer than ours; True if it was. Written, not yet synced.

        Raises ConfigError for a layout of another cluster.
        """
        held = self.layout
        if held is not None:
            if held.cluster_id != layout.cluster_id:
                raise ConfigError(
                    f"this data directory is of cluster {held.cluster_id}, the peers are {layout.cluster_id}",
                    advice="correct the seeds, or give this node an empty data directory",
                )
            if held.version >= layout.version:
                return False
        self._storage.apply([(Kind.META, 0, _LAYOUT, json.dumps(layout).encode())])
        self._use(layout)
        return True

    def name_of(self, node: NodeId) -> str:
        member = self.members.get(node)
        return member.name if member else node[:8]

    def _use(self, layout: Layout) -> None:
        self.layout = layout
        self._homes = {}
        self.merge(layout.members)


def _has_no_part(storage: Storage, node_id: NodeId) -> bool:
    """Whether there is a layout, and this node is none of its members."""
    layout = storage.get(Kind.META, 0, _LAYOUT)
    members = _layout_from(json.loads(layout)).members if layout else ()
    return bool(members) and all(member.node_id != node_id for member in members)


def recovering(partitions: Iterable[int]) -> Write:
    bits = sum(1 << partition for partition in partitions)
    record = bits.to_bytes(PARTITIONS // 8, "big") if bits else None
    return Kind.META, 0, RECOVERING, record


def _layout_from(fields: list[object]) -> Layout:
    version, members, walks, cluster_id = fields
    assert isinstance(version, int)
    assert isinstance(members, list)
    assert isinstance(walks, list)
    assert isinstance(cluster_id, str)
    return Layout(version, tuple(Member(*m) for m in members), tuple(tuple(w) for w in walks), cluster_id)
