"""The preference list: whom to ask for a key, in which order.

Source: Dynamo §4.3 (the N homes of a key) and §4.6 (who stands in). A home that is not worth asking
now goes last instead of away: what is needed is decided by answers, not by who was thought to be up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kvstore.core.membership import NodeId


def by_reach(
    homes: Sequence[NodeId], me: NodeId, in_reach: Callable[[NodeId], bool], turn: int
) -> list[NodeId]:
    """This node first if it is a home, then homes in reach, then the others.

    `turn` rotates the homes in reach, so that reads spread over them evenly.
    """
    others = [node for node in homes if node != me]
    reachable = [node for node in others if in_reach(node)]
    if len(reachable) > 1:
        start = turn % len(reachable)
        reachable = reachable[start:] + reachable[:start]
    ordered = [me] if len(others) < len(homes) else []
    ordered += reachable
    if len(ordered) < len(homes):
        ordered += [node for node in others if node not in reachable]
    return ordered
