"""Whom to ask first: laws of the order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from kvstore.core.layout import Layout, first_layout
from kvstore.core.membership import Member
from kvstore.core.preference_list import by_reach, stand_ins

node_ids = st.lists(st.sampled_from("abcdefgh"), min_size=1, unique=True)
down = st.sets(st.sampled_from("abcdefgh"))
me = st.sampled_from("abcdefghz")
turns = st.integers(0, 1000)


def _reach(down: set[str]) -> Callable[[str], bool]:
    return lambda node: node not in down


@given(node_ids, me, down, turns)
def test_nobody_is_left_out_and_nobody_comes_twice(
    homes: list[str], me: str, down: set[str], turn: int
) -> None:
    """Who is out of reach is asked last instead of not at all: only answers decide."""
    assert sorted(by_reach(homes, me, _reach(down), turn)) == sorted(homes)


@given(node_ids, me, down, turns)
def test_this_node_then_those_in_reach_then_the_others(
    homes: list[str], me: str, down: set[str], turn: int
) -> None:
    order = by_reach(homes, me, _reach(down), turn)
    rank = [0 if node == me else 2 if node in down else 1 for node in order]
    assert rank == sorted(rank)


@given(node_ids, me, down)
def test_turns_spread_the_first_place_evenly(homes: list[str], me: str, down: set[str]) -> None:
    reachable = [node for node in homes if node != me and node not in down]
    skip = me in homes
    first = Counter(by_reach(homes, me, _reach(down), turn)[skip] for turn in range(len(reachable)))
    assert first == Counter(reachable)


@given(node_ids, me, down, turns)
def test_a_turn_rotates_and_does_not_shuffle(homes: list[str], me: str, down: set[str], turn: int) -> None:
    """Each home is followed by the next one of the ring, so a rotation is recognised in its double."""
    asked = [node for node in by_reach(homes, me, _reach(down), turn) if node != me and node not in down]
    ring = [node for node in homes if node != me and node not in down]
    assert "".join(asked) in "".join(ring * 2)


@given(node_ids, me, turns)
def test_nobody_to_doubt_is_everybody_in_reach(homes: list[str], me: str, turn: int) -> None:
    assert by_reach(homes, me, None, turn) == by_reach(homes, me, _reach(set()), turn)


@given(node_ids, me, turns)
def test_the_homes_are_not_changed(homes: list[str], me: str, turn: int) -> None:
    before = list(homes)
    by_reach(homes, me, lambda node: True, turn)
    assert homes == before


# --- who stands in ---------------------------------------------------------------------------------------

clusters = st.lists(
    st.tuples(st.sampled_from(["", "z1", "z2", "z3"]), st.sampled_from(["", "h1", "h2", "h3", "h4"])),
    min_size=1,
    max_size=8,
)
partitions = st.integers(0, 15)


def layout_of(domains: list[tuple[str, str]]) -> Layout:
    return first_layout(
        (
            Member(f"{i:032x}", f"n{i}", "a:1", "a:2", zone=zone, host=host)
            for i, (zone, host) in enumerate(domains)
        ),
        16,
    )


@given(clusters, partitions, st.integers(1, 5), st.data())
def test_everybody_but_the_homes_may_stand_in(
    domains: list[tuple[str, str]], partition: int, n: int, data: st.DataObject
) -> None:
    layout = layout_of(domains)
    homes = layout.homes(partition, n)
    in_play = data.draw(st.sets(st.sampled_from(sorted(m.node_id for m in layout.members))))
    found = stand_ins(layout, partition, n, in_play)
    assert sorted([*homes, *found]) == sorted(m.node_id for m in layout.members)


@given(clusters, partitions, st.integers(1, 5))
def test_with_nobody_in_play_the_walk_decides(domains: list[tuple[str, str]], partition: int, n: int) -> None:
    layout = layout_of(domains)
    walk = [layout.members[i].node_id for i in layout.walks[partition]]
    assert stand_ins(layout, partition, n, ()) == walk[n:]


@given(clusters, partitions, st.integers(1, 5), st.data())
def test_no_stand_in_before_one_of_a_zone_with_fewer_copies(
    domains: list[tuple[str, str]], partition: int, n: int, data: st.DataObject
) -> None:
    """Dynamo §4.6: other failure domains first; by counting, without looking at how the list is made."""
    layout = layout_of(domains)
    member = {m.node_id: m for m in layout.members}
    homes = layout.homes(partition, n)
    in_play = data.draw(st.lists(st.sampled_from(homes), unique=True))

    def copies(node: str, domain: str) -> int:
        mine = getattr(member[node], domain) or node
        return sum((getattr(member[other], domain) or other) == mine for other in in_play)

    order = [(copies(x, "zone"), copies(x, "host")) for x in stand_ins(layout, partition, n, in_play)]
    assert order == sorted(order)
