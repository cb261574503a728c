"""Which tier goes first, against a model that keeps every request of the window."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvstore.core.degradation import LEVELS, Degradation, Tier, is_refused, level_refusing

WINDOW_S, CALM_S = 0.25, 1.0


def test_the_levels_refuse_one_tier_more_each_and_never_what_is_critical() -> None:
    refused = [[tier.name for tier in Tier if is_refused(tier, level)] for level in range(len(LEVELS))]
    assert refused == [
        [],
        ["BACKGROUND"],
        ["SCAN", "BACKGROUND"],
        ["RELAXED_READ", "SCAN", "BACKGROUND"],
        ["QUORUM_READ", "RELAXED_READ", "SCAN", "BACKGROUND"],
        ["WRITE", "QUORUM_READ", "RELAXED_READ", "SCAN", "BACKGROUND"],
    ]
    for tier in Tier:
        assert is_refused(tier, level_refusing(tier))
        assert not is_refused(tier, level_refusing(tier) - 1)


def window(found: Degradation, now_s: float, **shares: tuple[int, int]) -> int:
    """One window of {tier: (served, shed)}; the level after it."""
    for name, (served, shed) in shares.items():
        for _ in range(served):
            found.served(Tier[name])
        for _ in range(shed):
            found.shed(Tier[name])
    return found.tick(now_s)


outcomes = st.lists(st.tuples(st.sampled_from(Tier), st.booleans(), st.integers(1, 40)), max_size=8)


@given(st.lists(st.tuples(outcomes, st.floats(0.05, 0.6)), max_size=40), st.integers(0, 5))
def test_the_level_is_that_of_a_model_that_keeps_every_request(
    plan: list[tuple[list[tuple[Tier, bool, int]], float]], floor: int
) -> None:
    found = Degradation(window_s=WINDOW_S, calm_s=CALM_S)
    found.floor = floor
    kept: list[tuple[Tier, bool]] = []
    level, now_s, window_ends_s, calm_since_s = 0, 0.0, 0.0, 0.0
    for requests, later_s in plan:
        now_s += later_s
        for tier, was_served, count in requests:
            for _ in range(count):
                (found.served if was_served else found.shed)(tier)
            kept += [(tier, was_served)] * count
        if now_s >= window_ends_s:
            if not all(was_served for _, was_served in kept):
                calm_since_s = now_s
                lowest = max(tier for tier, _ in kept)
                fates = [was_served for tier, was_served in kept if tier is lowest]
                above = [tier for tier, was_served in kept if was_served and tier < lowest]
                if len(fates) >= 10 and sum(fates) * 10 <= len(fates) and len(above) >= 10:
                    level = max(level, next(lv for lv in range(6) if is_refused(lowest, lv)))
            elif level and now_s - calm_since_s >= CALM_S:
                level, calm_since_s = level - 1, now_s
            kept, window_ends_s = [], now_s + WINDOW_S
        assert found.tick(now_s) == max(level, floor)


def test_a_flood_of_one_kind_is_served_as_far_as_it_goes() -> None:
    """Nothing else wants the places, so refusing the whole tier would leave them empty."""
    found = Degradation(window_s=WINDOW_S, calm_s=CALM_S)
    for step in range(1, 40):
        assert window(found, step * WINDOW_S, QUORUM_READ=(3, 900)) == 0


def test_tiers_go_one_after_the_other_and_come_back_within_ten_seconds() -> None:
    found, now_s, levels = Degradation(window_s=WINDOW_S, calm_s=CALM_S), 0.0, []
    busy = {tier.name: (50, 0) for tier in Tier}
    for tier in reversed(Tier):
        now_s += WINDOW_S
        levels.append(window(found, now_s, **{**busy, tier.name: (0, 50)}))
        busy.pop(tier.name)
    assert levels == [1, 2, 3, 4, 5, 5], "who is critical is never refused"
    ended_s = now_s
    while window(found, now_s, WRITE=(50, 0)):
        now_s += WINDOW_S
    assert now_s - ended_s < 10
