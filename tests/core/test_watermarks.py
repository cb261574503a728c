"""Steps against a model that remembers at which mark it entered each of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvstore.core.watermarks import LEAVE_AT, Mark, Watermarks, connections_within


@given(
    st.lists(st.integers(0, 1000), min_size=3, max_size=3).map(lambda three: sorted(three, reverse=True)),
    st.lists(st.floats(0, 1500), max_size=50),
)
def test_steps_are_entered_at_their_mark_and_left_above_it(levels: list[int], frees: list[float]) -> None:
    marks = Watermarks(warn=levels[0], no_growth=levels[1], read_only=levels[2])
    inside = dict.fromkeys((Mark.WARN, Mark.NO_GROWTH, Mark.READ_ONLY), False)
    for free in frees:
        for step, level in zip(inside, levels, strict=True):
            if level and free < level:
                inside[step] = True
            elif not level or free >= level * LEAVE_AT:
                inside[step] = False
        assert marks.look(free) == max((step for step in inside if inside[step]), default=Mark.NORMAL)


def test_a_value_at_a_mark_does_not_switch_to_and_fro() -> None:
    marks = Watermarks(warn=300, no_growth=200, read_only=100)
    assert [marks.look(free) for free in (350, 99, 101, 99, 109, 111, 205, 331)] == [
        Mark.NORMAL,
        Mark.READ_ONLY,
        Mark.READ_ONLY,
        Mark.READ_ONLY,
        Mark.READ_ONLY,
        Mark.NO_GROWTH,
        Mark.NO_GROWTH,
        Mark.NORMAL,
    ]


@given(st.integers(1, 2000), st.integers(0, 2000), st.integers(1, 1000), st.integers(0, 100))
def test_connections_never_take_what_is_kept(
    descriptors: int, others: int, wanted: int, reserve: int
) -> None:
    found = connections_within(descriptors, others, wanted, reserve)
    assert 1 <= found <= wanted
    assert found == 1 or found + others + reserve <= descriptors
    assert found in (1, wanted) or found + others + reserve == descriptors
