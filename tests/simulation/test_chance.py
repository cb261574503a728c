"""Draws are named by what they are for and do not disturb each other."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvstore.simulation.chance import Chance, LinkChance

purposes = st.text(max_size=8)


@given(st.integers(), st.lists(purposes, max_size=20), purposes)
def test_a_draw_depends_on_its_own_purpose_and_count_only(seed: int, others: list[str], purpose: str) -> None:
    alone, busy = Chance(seed), Chance(seed)
    expected = [alone.bits(purpose, 64) for _ in range(3)]
    found = []
    for _ in range(3):
        for other in others:
            if other != purpose:
                busy.bits(other, 8)
        found.append(busy.bits(purpose, 64))
    assert found == expected


@given(st.integers(), st.floats(-1e6, 1e6), st.floats(0, 1e6), st.integers(1, 50))
def test_draws_keep_their_bounds(seed: int, low: float, span: float, count: int) -> None:
    chance = Chance(seed, "bounds")
    assert low <= chance.uniform("u", low, low + span) <= low + span
    assert 0 <= chance.below("b", count) < count
    assert 0 <= chance.bits("bits", 5) < 32
    sampled = chance.sample("s", range(count), 3)
    assert len(set(sampled)) == min(3, count)
    assert not chance.happens("never", 0.0)
    assert chance.happens("always", 1.0)


def test_streams_of_different_names_differ() -> None:
    assert len({Chance(*path).bits("x", 64) for path in ((1,), (2,), (1, "a"), (1, "b"), ("1", "a", 0))}) == 5


def test_weights_decide_how_often() -> None:
    chance = Chance("weights")
    drawn = [chance.weighted("kind", {"often": 9.0, "seldom": 1.0}) for _ in range(1000)]
    assert 850 < drawn.count("often") < 950


def test_the_luck_of_a_link_is_even() -> None:
    link = LinkChance(7, "n1", "n2")
    drawn = [number for _ in range(1000) for number in link.draw()]
    assert all(0 <= number < 1 for number in drawn)
    assert 0.48 < sum(drawn) / len(drawn) < 0.52
