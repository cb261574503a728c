"""Who is in the cluster, and where: members and the merging of what two nodes know of them.

Identity is a uuid on disk, never an address; an address is a claim that a newer incarnation of the
same node overrides (SWIM §4.2 uses incarnations the same way for liveness). Being down is no part of
this table: down never means removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

NodeId = str
"""32 hex digits, minted once per data directory."""


class Member(NamedTuple):
    """One node as it describes itself.

    `host` is the failure domain that takes several nodes down at once, `zone` a larger one.
    `incarnation` is the node's start counter (generation): the higher one knows its address better.
    `weight` says how many partitions it takes relative to others.
    """

    node_id: NodeId
    name: str
    rpc_address: str
    http_address: str
    zone: str = ""
    host: str = ""
    weight: int = 1
    incarnation: int = 1


def merge_members(mine: Mapping[NodeId, Member], theirs: Iterable[Member]) -> dict[NodeId, Member]:
    """For each node the description of its highest incarnation; on a tie the greater value.

    Commutative, associative, idempotent, so gossip in any order ends in the same table.
    """
    merged = dict(mine)
    for member in theirs:
        held = merged.get(member.node_id)
        if held is None or (held.incarnation, held) < (member.incarnation, member):
            merged[member.node_id] = member
    return merged
