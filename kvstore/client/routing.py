"""Which node to ask: a home of the key where the layout is known, else one after the other.

The layout is a hint. It saves a hop when it is right; when it is wrong, missing or names addresses that
lead nowhere from here, every node still serves every key. Seeds therefore never leave the list, and an
address that was only learned carries one trial request at a time until it has answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kvstore.client.circuit_breaker import CircuitBreaker, State
from kvstore.client.endpoints import is_local, parse_origin
from kvstore.client.names import partition_of
from kvstore.errors import ConfigError

HASH = "blake2b-16-be-mod"
HOMES_DEFAULT = 3  # a bucket may have more or fewer: a wrong guess costs a hop
_MEMBERS_MAX = 1000
_PARTITIONS_MAX = 65_536
_LAYOUT_WAIT_FIRST_S = 1.0
_LAYOUT_WAIT_MAX_S = 60.0
_AVOID_S_MAX = 5.0


class Node:
    """One address. `avoid_until_s`: it asked for a pause, and gets one while others serve."""

    __slots__ = ("avoid_until_s", "breaker", "is_seed", "origin")

    def __init__(self, origin: str, *, is_seed: bool) -> None:
        self.origin, self.is_seed = origin, is_seed
        self.breaker = CircuitBreaker(is_proven=is_seed, wait_max_s=5.0 if is_seed else 30.0)
        self.avoid_until_s = 0.0

    @property
    def is_trial(self) -> bool:
        """Whether a request to it now is there to find out if it serves."""
        return self.breaker.state is not State.CLOSED

    def is_usable(self, now_s: float) -> bool:
        return now_s >= self.avoid_until_s and self.breaker.allows(now_s)

    def __repr__(self) -> str:
        return f"<Node {self.origin} {self.breaker.state.value}>"


class Router:
    """Not thread-safe: whoever shares it between threads holds a lock."""

    def __init__(self, seeds: Sequence[str], *, follow_layout: bool = True) -> None:
        self.seeds = tuple(Node(origin, is_seed=True) for origin in seeds)
        self.nodes: tuple[Node, ...] = self.seeds
        self.layout_version = ""
        self._follow_layout = follow_layout
        self._by_origin = {node.origin: node for node in self.seeds}
        self._walks: tuple[tuple[Node, ...], ...] = ()
        self._turn = 0
        self._suspect = False
        self._ask_layout_at_s = 0.0
        self._layout_wait_s = _LAYOUT_WAIT_FIRST_S

    # --- whom to ask --------------------------------------------------------------------------------

    def choose(
        self, bucket: str, key: bytes, homes: int, tried: Sequence[Node], now_s: float, *, trials: bool = True
    ) -> Node:
        """The next node for this key (b"": any node), preferring those this operation has not tried.

        In order: a home in use, any node in use, and if there is none left the one whose time to be
        asked again comes first. Never refuses. `trials`: whether this request may be the one that
        finds out if a node is back.
        """
        self._turn += 1
        # Where one address that was only learned leads nowhere, all of them may: seeds are next.
        trials = trials and all(node.breaker.is_proven for node in tried)
        if key and self._walks:
            walk = self._walks[partition_of(bucket, key, len(self._walks))]
            node = self._usable(walk[: homes or HOMES_DEFAULT], tried, now_s, trials=trials)
            if node is not None:
                return node
        return (
            self._usable(self.seeds, tried, now_s, trials=trials)
            or self._usable(self.nodes, tried, now_s, trials=trials)
            or self._least_bad(tried, now_s)
        )

    def asked(self, node: Node, now_s: float) -> None:
        node.breaker.asked(now_s)

    def _usable(
        self, nodes: Sequence[Node], tried: Sequence[Node], now_s: float, *, trials: bool
    ) -> Node | None:
        count = len(nodes)
        for i in range(count):
            node = nodes[(self._turn + i) % count]
            if (node.breaker.state is State.CLOSED or trials) and node.is_usable(now_s) and node not in tried:
                return node
        return None

    def _least_bad(self, tried: Sequence[Node], now_s: float) -> Node:
        """Untried before tried, proven before unproven, then whoever may be asked soonest.

        Equals take turns; of tried ones the one that was asked longest ago comes first.
        """
        count = len(self.nodes)
        rotated = [self.nodes[(self._turn + i) % count] for i in range(count)]

        def badness(node: Node) -> tuple[bool, bool, float, int]:
            last_asked = max((i for i, other in enumerate(tried) if other is node), default=-1)
            wait_s = 0.0 if node.breaker.allows(now_s) else node.breaker.retry_at_s - now_s
            return (
                last_asked >= 0,
                not node.breaker.is_proven,
                max(wait_s, node.avoid_until_s - now_s),
                last_asked,
            )

        return min(rotated, key=badness)

    # --- what became of it --------------------------------------------------------------------------

    def answered(self, node: Node, layout_version: str | None, now_s: float) -> bool:
        """The node serves. Returns whether now is the time to ask for the layout."""
        node.breaker.succeeded()
        if layout_version is None or (layout_version == self.layout_version and not self._suspect):
            return False
        return self._is_time_for_layout(now_s)

    def refused(self, node: Node, retry_after_s: float, now_s: float) -> None:
        """The node answers, and asks for a pause."""
        node.breaker.succeeded()
        if retry_after_s:
            node.avoid_until_s = now_s + min(retry_after_s, _AVOID_S_MAX)

    def failed(self, node: Node, now_s: float, *, connected: bool) -> None:
        """No answer. If nothing listened there, the layout may have a newer address."""
        node.breaker.failed(now_s, hard=not connected)
        if not connected and self._walks:
            self._suspect = True

    # --- the layout ---------------------------------------------------------------------------------

    def _is_time_for_layout(self, now_s: float) -> bool:
        """True for one caller, who then says `learn` or nothing; the next one is let through after a wait."""
        if not self._follow_layout or now_s < self._ask_layout_at_s:
            return False
        self._ask_layout_at_s = now_s + self._layout_wait_s
        self._layout_wait_s = min(self._layout_wait_s * 2, _LAYOUT_WAIT_MAX_S)
        return True

    def learn(self, document: Any) -> bool:
        """Take over a layout. False for one that is not understood: everything goes on as before."""
        parsed = _parse(document)
        if parsed is None:
            return False
        version, addresses, walks = parsed
        local_seeds = any(is_local(node.origin) for node in self.seeds)
        members = [self._member(address, local_seeds=local_seeds) for address in addresses]
        self._walks = tuple(tuple(node for i in walk if (node := members[i]) is not None) for walk in walks)
        learned = {node.origin: node for node in members if node is not None}
        self._by_origin = {node.origin: node for node in self.seeds} | learned
        self.nodes = tuple(self._by_origin.values())
        self.layout_version = str(version)
        self._suspect = False
        self._layout_wait_s = _LAYOUT_WAIT_FIRST_S
        return True

    def _member(self, address: str, *, local_seeds: bool) -> Node | None:
        """None for an address of no use here. Loopback is of use only to who already talks to loopback."""
        scheme = self.seeds[0].origin.partition("://")[0]
        try:
            origin = parse_origin(address, scheme, "layout")
        except ConfigError:
            return None
        if is_local(origin) and not local_seeds:
            return None
        return self._by_origin.get(origin) or Node(origin, is_seed=False)


def _parse(document: Any) -> tuple[int, list[str], list[list[int]]] | None:
    """(version, addresses of the members, walks), if it is of the form that this release knows."""
    try:
        version, partitions = document["version"], document["partitions"]
        members, walks = document["members"], document["walks"]
        addresses = [member["http"] for member in members]
        known = (
            document["hash"] == HASH
            and type(version) is int
            and 0 < len(members) <= _MEMBERS_MAX
            and 0 < partitions == len(walks) <= _PARTITIONS_MAX
            and all(type(address) is str for address in addresses)
            and all(type(i) is int and 0 <= i < len(members) for walk in walks for i in walk)
            and all(len(walk) <= len(members) for walk in walks)
        )
    except (KeyError, TypeError):
        return None
    return (version, addresses, walks) if known else None
