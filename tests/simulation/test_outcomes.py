"""What clients are told of writes without an answer, under faults: never more than what then holds."""

from __future__ import annotations

from tests.simulation.mutants import MUTANTS, hunt


def test_an_outcome_that_promises_too_much_is_caught() -> None:
    """Ablation for all campaigns: a write of which `ok` was told counts there as acknowledged."""
    (mutant,) = [m for m in MUTANTS if m.name == "an outcome is ok as soon as anybody holds the write"]
    assert hunt(mutant, range(10), by=lambda kind: kind in ("I6", "lost")) is not None
