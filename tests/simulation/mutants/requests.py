"""Requests that are applied twice, or elsewhere, without anybody knowing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from kvstore.core import sibling
from kvstore.core.message import Put
from kvstore.core.outcome import OK, UNKNOWN
from kvstore.core.preference_list import by_reach
from kvstore.core.sibling import Version
from kvstore.core.vector_clock import Dot
from kvstore.errors import PeerError
from kvstore.node import outcomes, replica
from kvstore.node.forwarding import Forwarding
from tests.simulation.mutants import Patch, mutant


@mutant()
def operation_ids_are_ignored(patch: Patch) -> None:
    """A write that is sent again is another write."""

    def as_they_are(siblings: Mapping[Dot, Version]) -> Mapping[Dot, Version]:
        return siblings

    patch.setattr(replica, "find_operation", lambda state, operation_id: None)
    patch.setattr(sibling, "collapse", as_they_are)
    patch.setattr("kvstore.simulation.clients.collapse", as_they_are)


@mutant()
def coordinator_sends_a_put_again(patch: Patch) -> None:
    """A forwarded put whose answer did not come goes to the next home, and to the one after that."""
    write = Forwarding.write

    async def stubborn(
        self: Forwarding,
        request: Put,
        homes: Sequence[Any],
        partition: int,
        *,
        sloppy: bool,
    ) -> Any:
        if not request.forwarded:
            for node in by_reach(homes, self._view.me.node_id, self._reach, self._turn):
                call = self._peers.call(node, request._replace(forwarded=True), request.timeout_ms / 4000)
                try:
                    return await call
                except PeerError:
                    continue
        return await write(self, request, homes, partition, sloppy=sloppy)

    patch.setattr(Forwarding, "write", stubborn)


@mutant(quick=True)
def a_lost_quorum_is_reported_as_failed(patch: Patch) -> None:
    """B24: "failed" although a byte left the node; the write shows up later."""
    from kvstore.node import coordinator
    from kvstore.node.fan_out import lost

    def certain(*arguments: Any, outcome: str) -> Any:
        return lost(*arguments, outcome="failed")

    patch.setattr(coordinator, "lost", certain)


@mutant()
def an_outcome_is_ok_as_soon_as_anybody_holds_the_write(patch: Patch) -> None:
    """Whoever asks what became of a write is told ok without W durable copies."""
    patch.setattr(outcomes, "outcome_of", lambda dots, *, acks, w: OK if dots else UNKNOWN)


@mutant()
def an_outcome_counts_what_was_seen(patch: Patch) -> None:
    """Homes that answered with the write count as if it were on their disks; nothing is made durable."""

    async def at_once(*_: Any) -> Any:
        return SimpleNamespace(tally=SimpleNamespace(acks=99))

    made = outcomes.Outcomes.__init__

    def init(self: outcomes.Outcomes, **parts: Any) -> None:
        made(self, **parts)
        patch.setattr(self._repair, "voted", at_once)

    patch.setattr(outcomes.Outcomes, "__init__", init)
