"""When a read has waited long enough to ask one home more, and how often that may be done: hedged requests.

Source: Dean, Barroso, "The Tail at Scale", CACM 2013. A hedge goes out after a high quantile of what reads
usually take, so that by itself it is rare; where that quantile is wrong, a budget bounds the extra load.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

QUANTILE = 0.99
FLOOR_S = 0.01  # below it a pause of the other side's loop looks late
CEILING_S = 0.1  # whatever pauses of this machine the latest answers tell of; the budget bounds what it costs
SAVED_FIRST, SAVED_MAX = 10.0, 100.0
"""Hedges that are saved up: at a start, and at most. As many come at once when a home begins to be late."""


def quantile(ordered: Sequence[float], share: float) -> float:
    """Nearest rank, of at least one value in ascending order."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def median_low(values: Iterable[float]) -> float:
    """The middle one, of two in the middle the lower one: of two peers, the quick one. 0.0 of none."""
    ordered = sorted(values)
    return ordered[(len(ordered) - 1) // 2] if ordered else 0.0


def hedge_delay_s(quantiles_s: Iterable[float], *, fixed_s: float) -> float:
    """How long to wait before asking one home more. `quantiles_s`: QUANTILE of each peer's latest answers.

    The median of the peers, so that slow ones of which there are few do not set what is usual. `fixed_s`
    above 0 is taken as it is.
    """
    return fixed_s or min(max(median_low(quantiles_s), FLOOR_S), CEILING_S)


class HedgeBudget:
    """`share` of a hedge comes in with every read: of n reads at most SAVED_FIRST + share · n are hedged."""

    __slots__ = ("_saved", "_share")

    def __init__(self, share: float) -> None:
        assert 0 <= share <= 1
        self._share = share
        self._saved = SAVED_FIRST

    def earn(self, reads: int) -> None:
        self._saved = min(SAVED_MAX, self._saved + self._share * reads)

    def take(self) -> bool:
        """Whether there is enough for one more."""
        if self._saved < 1.0:
            return False
        self._saved -= 1.0
        return True
