"""Who owns which partition: one versioned value that all members agree on.

Source: Garage's layout; Dynamo §4.2 and §6.2 for homes as distinct physical nodes. A layout is
ordered: its version decides which of two holds, never a clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import cycle, islice
from typing import NamedTuple

from kvstore.core.membership import Member, NodeId
from kvstore.core.ring import PARTITIONS
from kvstore.errors import ConfigError


class Layout(NamedTuple):
    """`walks[p]`: positions in `members` of every member, in the order in which they serve partition p.

    The first n of a walk are the homes of its keys in a bucket with that n; those after them stand in.
    Invariant: every walk names every member of weight > 0 once.
    """

    version: int
    members: tuple[Member, ...]
    walks: tuple[tuple[int, ...], ...]

    def homes(self, partition: int, n: int) -> tuple[NodeId, ...]:
        """The n homes of a partition; fewer where there are not so many members."""
        return tuple(self.members[i].node_id for i in self.walks[partition][:n])


def first_layout(members: Iterable[Member], partitions: int = PARTITIONS) -> Layout:
    """Version 1, the same for everyone who knows the same members.

    Members take their places on the ring in an order that alternates zones, then hosts, each as often
    as its weight says; the walk of a partition starts at its place and passes over nodes whose zone it
    has had while another zone is still unseen, then hosts likewise (Dynamo §4.6: copies are spread over
    data centres). Equal members then own equal shares, to within one partition.
    """
    ordered = _alternating(sorted((m for m in members if m.weight > 0), key=lambda m: m.node_id))
    if not ordered:
        raise ConfigError("a layout needs at least one member of weight > 0")
    places = [i for i, member in enumerate(ordered) for _ in range(member.weight)]
    if len(places) > partitions:
        raise ConfigError(
            f"weights sum up to {len(places)}, more than the {partitions} partitions: lower them"
        )
    ring = _evenly([member.weight for member in ordered])
    walks = []
    for partition in range(partitions):
        start = partition % len(ring)
        walks.append(_spread(ordered, list(islice(cycle(ring), start, start + len(ring)))))
    return Layout(1, tuple(ordered), tuple(walks))


def _alternating(members: list[Member]) -> list[Member]:
    """Round-robin over zones, and inside a zone over hosts, so that neighbours differ in both."""
    for level in (_host_of, _zone_of):
        groups: dict[str, list[Member]] = {}
        for member in members:
            groups.setdefault(level(member), []).append(member)
        largest = max((len(g) for g in groups.values()), default=0)
        members = [g[i] for i in range(largest) for g in groups.values() if i < len(g)]
    return members


def _host_of(member: Member) -> str:
    return member.host or member.node_id


def _zone_of(member: Member) -> str:
    return member.zone


def _evenly(weights: list[int]) -> list[int]:
    """Positions 0…len-1, each as often as its weight, copies of one as far apart as they can be."""
    slots = [((k + 0.5) / weight, i) for i, weight in enumerate(weights) for k in range(weight)]
    return [i for _, i in sorted(slots)]


def _spread(members: list[Member], walk: list[int]) -> tuple[int, ...]:
    """The walk without repetitions, unseen zones first, then unseen hosts, then the rest.

    Stable within each choice. Starts over with all zones unseen once every zone had its turn, so that
    the first stand-in of a three-zone cluster is not in the zone that just failed alone.
    """
    waiting = list(dict.fromkeys(walk))
    chosen: list[int] = []
    zones: set[str] = set()
    hosts: set[str] = set()
    while waiting:
        index = min(
            waiting,
            key=lambda i: (
                bool(members[i].host) and members[i].host in hosts,
                bool(members[i].zone) and members[i].zone in zones,
            ),
        )
        waiting.remove(index)
        chosen.append(index)
        zones.add(members[index].zone)
        hosts.add(members[index].host)
        if all(members[i].zone in zones for i in waiting):
            zones.clear()
    return tuple(chosen)
