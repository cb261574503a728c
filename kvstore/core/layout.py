"""Who owns which partition: one versioned value that all members agree on.

Source: Garage's layout; Dynamo §4.2 and §6.2 for homes as distinct physical nodes. A layout is
ordered: its version decides which of two holds, never a clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from hashlib import blake2b
from typing import NamedTuple

from kvstore.core.membership import Member, NodeId
from kvstore.core.ring import PARTITIONS
from kvstore.errors import ConfigError


class Layout(NamedTuple):
    """`walks[p]`: positions in `members` of every member, in the order in which they serve partition p.

    The first n of a walk are the homes of its keys in a bucket with that n; those after them stand in.
    `cluster_id` is made with version 1 and never changes: nodes of two clusters refuse each other.
    Invariant: every walk names every member of weight > 0 once.
    """

    version: int
    members: tuple[Member, ...]
    walks: tuple[tuple[int, ...], ...]
    cluster_id: str = ""

    def homes(self, partition: int, n: int) -> tuple[NodeId, ...]:
        """The n homes of a partition; fewer where there are not so many members."""
        return tuple(self.members[i].node_id for i in self.walks[partition][:n])


def first_layout(members: Iterable[Member], partitions: int = PARTITIONS) -> Layout:
    """Version 1, the same for everyone who knows the same members.

    Walks are filled place by place, all partitions of a place before the next place, each time with
    the member whose zone, then host, the walk has seen least, and among these the one that has the
    fewest places so far for its weight. So homes lie in distinct failure domains while there is a
    choice (Dynamo §4.6). Equal members own equal shares to within one partition without zones, to
    within two where zones are equal and n is at most 5; a zone of its own takes more.
    """
    ordered = sorted((m for m in members if m.weight > 0), key=lambda m: m.node_id)
    if not ordered:
        raise ConfigError("a layout needs at least one member of weight > 0")
    assert len({m.node_id for m in ordered}) == len(ordered), "a member is named twice"
    walks: list[list[int]] = [[] for _ in range(partitions)]
    load = [0] * len(ordered)
    for _ in ordered:
        for walk in walks:
            chosen = _next_home(ordered, walk, load)
            walk.append(chosen)
            load[chosen] += 1
    cluster_id = blake2b("".join(m.node_id for m in ordered).encode(), digest_size=16).hexdigest()
    return Layout(1, tuple(ordered), tuple(map(tuple, walks)), cluster_id)


def _next_home(members: list[Member], walk: list[int], load: list[int]) -> int:
    """Who serves after those of `walk`. A node without a host is a host of its own; zones likewise."""
    zones = Counter(members[i].zone or members[i].node_id for i in walk)
    hosts = Counter(members[i].host or members[i].node_id for i in walk)
    return min(
        (i for i in range(len(members)) if i not in walk),
        key=lambda i: (
            zones[members[i].zone or members[i].node_id],
            hosts[members[i].host or members[i].node_id],
            load[i] / members[i].weight,
            i,
        ),
    )
