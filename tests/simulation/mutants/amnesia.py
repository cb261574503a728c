"""Directories that have forgotten something, and nodes that do not notice, or do not heed it."""

from __future__ import annotations

from typing import Any

from kvstore.core.generation import Run
from kvstore.node.ports import Kind
from kvstore.node.recognition import Recognition
from kvstore.node.replica import Replica
from kvstore.simulation.generator import Shape
from kvstore.storage.memory import MemoryStorage
from tests.simulation.mutants import Patch, mutant
from tests.simulation.mutants.causality import keep_ids

_WIPED = Shape(duration_s=60.0, nodes=5, n=3, w=2, r=2, kinds=("wipe",))
_READ_ONE = Shape(duration_s=60.0, nodes=5, n=3, w=3, r=1, kinds=("wipe",))
_RESTORED = Shape(duration_s=60.0, nodes=5, n=3, w=2, r=2, kinds=("restore", "crash"))
_CLONED = Shape(duration_s=60.0, nodes=5, n=3, w=2, r=2, kinds=("clone", "pause", "isolate", "split"))


@mutant(shape=_WIPED, quick=True)
def id_is_kept_after_a_wipe(patch: Patch) -> None:
    """B7: the same node is the same writer, and it begins to count again."""
    keep_ids(patch, on=lambda disk: not any(disk.keys(kind) for kind in (Kind.DATA, Kind.COPY)))


@mutant(shape=_READ_ONE)
def recovering_copy_is_a_witness(patch: Patch) -> None:
    """B17, B25: that it holds nothing counts as knowledge that there is nothing."""
    patch.setattr(Replica, "witness", Replica.read)


@mutant(shape=_RESTORED)
def restored_copy_goes_on_as_it_was(patch: Patch) -> None:
    """B7, B18: nobody compares what it says of itself with what is remembered."""
    for room in ("core.generation", "node.gossip", "node.recognition"):
        patch.setattr(f"kvstore.{room}.is_from_the_past", lambda run, remembered: False)


@mutant(shape=_RESTORED)
def ids_are_kept_by_a_copy_from_the_past(patch: Patch) -> None:
    """It sets its data aside, and goes on with the ids of the directory that was copied."""
    found = Recognition.from_the_past

    def forgetful(self: Recognition, remembered: Run) -> None:
        copies = dict(self._replica._copies)
        found(self, remembered)
        self._replica._copies.update(copies)

    patch.setattr(Recognition, "from_the_past", forgetful)


@mutant(shape=_CLONED)
def who_starts_serves_at_once(patch: Patch) -> None:
    """A twin of a clean stop makes the dots of the original until it is told to end."""
    original = Recognition.__init__

    def recognized(self: Recognition, **options: Any) -> None:
        original(self, **options)
        self.recognized = self._gossip.recognized = True

    patch.setattr(Recognition, "__init__", recognized)


@mutant(needs=("kvstore.core.tombstone",), shape=_RESTORED)
def restored_copy_is_merged(patch: Patch) -> None:
    """B18: what everybody has deleted and forgotten is on it, and comes back."""

    def keep(self: MemoryStorage, batch: Any) -> str:
        self.apply(batch)
        return ""

    patch.setattr(MemoryStorage, "set_aside", keep)
