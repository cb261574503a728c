"""Graceful degradation: which requests are given up first when a node cannot do all of them. Pure.

The tiers are an order before they are switches. Where requests have to wait, the higher tier goes first
(core/admission.py), so the lower ones get what is left and nothing that could be done is refused. Only a
tier that gets nothing any more is refused at once, which costs less than letting it wait in vain. That is
the level of degradation; admission by importance, and levels found by watching the queue instead of
planning capacity, are those of Zhou et al., "Overload control for scaling WeChat microservices" (SoCC 2018).
"""

from __future__ import annotations

from enum import IntEnum

STARVED_SHARE_MAX = 0.1
ASKED_MIN = 10  # in one window; fewer are no sample


class Tier(IntEnum):
    """What a request is, as far as overload goes. The larger is given up first."""

    CRITICAL = 0  # whatever its client called critical
    WRITE = 1
    QUORUM_READ = 2
    RELAXED_READ = 3  # r=1, or best effort
    SCAN = 4  # pages of a listing, so exports, too
    BACKGROUND = 5  # whatever its client called background


LEVELS = ("normal", "background", "scans", "relaxed_reads", "quorum_reads", "writes")
"""At level 2 background work and scans are refused, at level 5 all that is not critical."""


def is_refused(tier: Tier, level: int) -> bool:
    return tier + level > Tier.BACKGROUND


def level_refusing(tier: Tier) -> int:
    """The lowest level that refuses this tier; there is none that refuses what is critical."""
    return 1 + Tier.BACKGROUND - tier


class Degradation:
    """`level`: what holds. `floor`: what an operator asked for at least; it is kept until it is changed.

    Up: the lowest tier that is let in at all was starved for a window, while higher ones were served.
    Without the latter a flood of one kind, which takes as much of itself as there is room for, would be
    refused as a whole. Down: one level after `calm_s` in which nobody who was let in was shed; the tier
    that comes back shows within one window if there still is no room for it.
    """

    __slots__ = ("_calm_since_s", "_ends_s", "_found", "_served", "_shed", "calm_s", "floor", "window_s")

    def __init__(self, *, window_s: float, calm_s: float) -> None:
        self.window_s, self.calm_s = window_s, calm_s
        self.floor = self._found = 0
        self._served = [0] * len(Tier)
        self._shed = [0] * len(Tier)
        self._ends_s = self._calm_since_s = 0.0

    @property
    def level(self) -> int:
        return max(self._found, self.floor)

    def served(self, tier: Tier) -> None:
        """One that had waited."""
        self._served[tier] += 1

    def shed(self, tier: Tier) -> None:
        """One that was let in to wait, or would have been but for the length of the line."""
        self._shed[tier] += 1

    def tick(self, now_s: float) -> int:
        """Called more often than windows end. The level that holds from now on."""
        if now_s < self._ends_s:
            return self.level
        served, shed = self._served, self._shed
        if any(shed):
            self._calm_since_s = now_s
            lowest = max(tier for tier in Tier if served[tier] + shed[tier])
            asked = served[lowest] + shed[lowest]
            starved = asked >= ASKED_MIN and served[lowest] <= asked * STARVED_SHARE_MAX
            if starved and sum(served[:lowest]) >= ASKED_MIN:
                self._found = max(self._found, level_refusing(lowest))
        elif self._found and now_s - self._calm_since_s >= self.calm_s:
            self._found -= 1
            self._calm_since_s = now_s
        self._served, self._shed = [0] * len(Tier), [0] * len(Tier)
        self._ends_s = now_s + self.window_s
        return self.level
