"""Hints that are forgotten, counted too high, or thrown away too early."""

from __future__ import annotations

from typing import Any

from kvstore.core.membership import NodeId
from kvstore.node.fan_out import FanOut
from kvstore.node.hint_store import HintStore
from kvstore.node.hinted_handoff import HintedHandoff
from kvstore.node.ports import Kind
from kvstore.simulation.generator import Shape
from tests.simulation.mutants import Patch, mutant

_SLOPPY = Shape(duration_s=60.0, nodes=5, n=3, w=2, r=2)
_HINT_ALONE = Shape(duration_s=60.0, nodes=5, n=1, w=1, r=1)  # what is acknowledged may be in a hint only


@mutant(shape=_HINT_ALONE)
def hints_are_forgotten_at_a_restart(patch: Patch) -> None:
    """B10: what a stand-in keeps is counted from memory, and a new process has none."""
    start = HintStore.start

    async def amnesiac(self: HintStore) -> None:
        for partition in range(256):
            for key, _ in list(self._storage.scan(Kind.HINT, partition)):
                self._storage.apply([(Kind.HINT, partition, key, None)])
        await start(self)

    patch.setattr(HintStore, "start", amnesiac)


@mutant(shape=_HINT_ALONE)
def hint_is_deleted_before_its_target_has_it(patch: Patch) -> None:
    """B8, B12: handed over when it was sent."""
    deliver = HintedHandoff._deliver

    async def hasty(self: HintedHandoff, partition: int, record_key: bytes, record: bytes) -> bool:
        self._hints.delivered_to_owners(partition, record_key, record)
        return await deliver(self, partition, record_key, record)

    patch.setattr(HintedHandoff, "_deliver", hasty)


@mutant(shape=_SLOPPY)
def hint_goes_to_nobody_that_owns(patch: Patch) -> None:
    """B11: taken for delivered, although the one it went to is no home of the key."""

    def somebody_else(self: HintedHandoff, partition: int, record_key: bytes) -> list[NodeId]:
        return []

    patch.setattr(HintedHandoff, "_owners", somebody_else)


@mutant(shape=_SLOPPY)
def hint_counts_before_it_is_synced(patch: Patch) -> None:
    """A stand-in's vote for what a crash takes away."""
    from kvstore.node.hinting import Hinting

    store = Hinting.store

    def unsynced(self: Hinting, request: Any) -> Any:
        return store(self, request._replace(sync=False))

    patch.setattr(Hinting, "store", unsynced)


@mutant(shape=_SLOPPY)
def stand_in_counts_as_a_primary(patch: Patch) -> None:
    """P6 is promised for homes: a stand-in's vote is none of theirs."""
    count = FanOut._count

    def generous(self: FanOut, *, ack: bool, primary: bool = True) -> None:
        if ack and not primary:
            self.tally.primary_acks += 1
        count(self, ack=ack, primary=primary)

    patch.setattr(FanOut, "_count", generous)
