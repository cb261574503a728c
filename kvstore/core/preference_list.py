"""The preference list: whom to ask for a key, in which order.

Source: Dynamo §4.3 (the N homes of a key) and §4.6 (who stands in). A home that is not worth asking
now goes last instead of away: what is needed is decided by answers, not by who was thought to be up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence

from kvstore.core.layout import Layout
from kvstore.core.membership import NodeId


def by_reach(
    homes: Sequence[NodeId], me: NodeId, in_reach: Callable[[NodeId], bool] | None, turn: int
) -> list[NodeId]:
    """This node first if it is a home, then homes in reach (None: all are), then the others.

    `turn` rotates the homes in reach, so that reads spread over them evenly.
    """
    others = [node for node in homes if node != me]
    reachable = others if in_reach is None else [node for node in others if in_reach(node)]
    if len(reachable) > 1:
        start = turn % len(reachable)
        reachable = reachable[start:] + reachable[:start]
    ordered = [me] if len(others) < len(homes) else []
    ordered += reachable
    if len(ordered) < len(homes):
        ordered += [node for node in others if node not in reachable]
    return ordered


def stand_ins(layout: Layout, partition: int, n: int, in_play: Collection[NodeId]) -> list[NodeId]:
    """Who may stand in for a home of this partition that is away: all others, the best one first.

    Dynamo §4.6: the next nodes clockwise. Those come first whose zone, then host, holds the fewest of
    `in_play`, the nodes that have or get a copy; among equals the walk decides.
    """
    members = layout.members
    playing = [m for m in members if m.node_id in in_play]
    zones = Counter(m.zone or m.node_id for m in playing)
    hosts = Counter(m.host or m.node_id for m in playing)
    others = [members[i] for i in layout.walks[partition][n:]]
    others.sort(key=lambda m: (zones[m.zone or m.node_id], hosts[m.host or m.node_id]))
    return [m.node_id for m in others]
