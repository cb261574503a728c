"""The first layout: distinct failure domains while there is a choice, equal shares, one answer for all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.core.layout import Layout, first_layout
from kvstore.core.membership import Member
from kvstore.core.ring import PARTITIONS
from kvstore.errors import ConfigError


def _member(number: int, *, zone: str = "", host: str = "", weight: int = 1) -> Member:
    """Ids in an order that has nothing to do with the numbers, as uuids are."""
    node_id = f"{number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128:032x}"
    return Member(node_id, f"n{number}", f"10.0.0.{number}:7001", f"10.0.0.{number}:8001", zone, host, weight)


@st.composite
def clusters(draw: st.DrawFn) -> list[Member]:
    """1 to 8 nodes; zones and hosts all named, some named, or none; a host lies in one zone."""
    zones = draw(st.sampled_from([[""], ["a", "b"], ["a", "b", "c"], ["", "a", "b"]]))
    hosts = draw(st.sampled_from([[""], ["1", "2"], ["", "1"]]))
    members = []
    for number in range(1, draw(st.integers(1, 8)) + 1):
        zone, host = draw(st.sampled_from(zones)), draw(st.sampled_from(hosts))
        weight = draw(st.sampled_from([1, 1, 1, 2, 5]))
        members.append(_member(number, zone=zone, host=host and zone + host, weight=weight))
    return members


def _domains(layout: Layout, walk: tuple[int, ...], n: int, name: Callable[[Member], str]) -> set[str]:
    """Of the first n; who names none is one of its own."""
    homes = [layout.members[i] for i in walk[:n]]
    return {name(member) or member.node_id for member in homes}


def _zone(member: Member) -> str:
    return member.zone


def _host(member: Member) -> str:
    return member.host


def _shares(layout: Layout, n: int) -> list[int]:
    """How many partitions each member is a home of."""
    counts = Counter(i for walk in layout.walks for i in walk[:n])
    return [counts[i] for i in range(len(layout.members))]


@given(clusters())
def test_every_walk_names_every_member_once(members: list[Member]) -> None:
    layout = first_layout(members, partitions=16)
    assert layout.version == 1
    assert set(layout.members) == set(members)
    for walk in layout.walks:
        assert sorted(walk) == list(range(len(members)))


@given(clusters())
def test_homes_lie_in_as_many_zones_as_there_are(members: list[Member]) -> None:
    layout = first_layout(members, partitions=16)
    zones = len({member.zone or member.node_id for member in members})
    for walk in layout.walks:
        for n in range(1, len(members) + 1):
            assert len(_domains(layout, walk, n, _zone)) == min(n, zones)


@given(clusters())
def test_no_host_serves_twice_before_the_others_of_its_zone_have_served(members: list[Member]) -> None:
    layout = first_layout(members, partitions=16)
    for walk in layout.walks:
        order = [layout.members[i] for i in walk]
        for zone in {member.zone for member in members if member.zone}:
            served = [member.host or member.node_id for member in order if member.zone == zone]
            assert len(set(served[: len(set(served))])) == len(set(served))


def test_without_zones_homes_lie_on_distinct_hosts() -> None:
    """A bigger machine runs several nodes; it must not hold two copies of a key."""
    members = [_member(number, host=f"h{number % 3}") for number in range(1, 7)]
    layout = first_layout(members)
    assert all(len(_domains(layout, walk, 3, _host)) == 3 for walk in layout.walks)


@given(clusters(), st.data())
def test_the_layout_is_the_same_whatever_the_order_of_the_members(
    members: list[Member], data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(members))
    assert first_layout(members, partitions=16) == first_layout(shuffled, partitions=16)


def test_clusters_of_other_members_have_other_ids() -> None:
    members = [_member(number) for number in range(1, 5)]
    assert len({first_layout(some).cluster_id for some in (members, members[:3], members[1:])}) == 3
    renamed = [member._replace(rpc_address="moved:1") for member in members]
    assert first_layout(renamed).cluster_id == first_layout(members).cluster_id


# --- shares ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", range(1, 13))
def test_equal_members_without_zones_have_equal_shares_for_every_n(size: int) -> None:
    layout = first_layout([_member(number) for number in range(1, size + 1)])
    for n in range(1, size + 1):
        shares = _shares(layout, n)
        assert sum(shares) == n * PARTITIONS
        assert max(shares) - min(shares) <= 1


@pytest.mark.parametrize(("zones", "per_zone"), [(2, 2), (2, 4), (3, 1), (3, 2), (3, 3), (3, 5), (5, 3)])
def test_equal_zones_have_equal_shares_up_to_five_homes(zones: int, per_zone: int) -> None:
    """Within 2 up to n = 5. Beyond, the last places left force a choice: within 42 was seen at n = 6."""
    members = [_member(i + 1, zone=f"z{i % zones}") for i in range(zones * per_zone)]
    layout = first_layout(members)
    for n in range(1, min(5, len(members)) + 1):
        shares = _shares(layout, n)
        assert max(shares) - min(shares) <= 2, n


def test_in_unequal_zones_the_lone_node_takes_a_copy_of_everything() -> None:
    """Five nodes in zones of 2, 2 and 1: three homes in three zones leave no choice. The rest is even."""
    layout = first_layout([_member(i + 1, zone="aabbc"[i]) for i in range(5)])
    shares = _shares(layout, 3)
    lone = next(i for i, member in enumerate(layout.members) if member.zone == "c")
    assert shares.pop(lone) == PARTITIONS
    assert max(shares) - min(shares) <= 1
    assert sum(shares) == 2 * PARTITIONS


@pytest.mark.parametrize("weights", [(1, 2), (1, 1, 2), (2, 3, 5), (1, 1, 1, 1, 4), (3, 1, 3, 1, 3, 1)])
def test_the_first_home_goes_by_weight(weights: tuple[int, ...]) -> None:
    members = [_member(i + 1, weight=weight) for i, weight in enumerate(weights)]
    layout = first_layout(members)
    for member, share in zip(layout.members, _shares(layout, 1), strict=True):
        assert abs(share - PARTITIONS * member.weight / sum(weights)) <= 1


@pytest.mark.parametrize("n", [2, 3])
def test_homes_go_by_weight_where_no_member_would_need_two_copies(n: int) -> None:
    weights = (1, 1, 1, 2, 2, 2)
    members = [_member(i + 1, weight=weight) for i, weight in enumerate(weights)]
    layout = first_layout(members)
    for member, share in zip(layout.members, _shares(layout, n), strict=True):
        assert abs(share - n * PARTITIONS * member.weight / sum(weights)) <= 2


def test_members_without_weight_own_nothing() -> None:
    members = [_member(1), _member(2, weight=0), _member(3)]
    assert {member.name for member in first_layout(members).members} == {"n1", "n3"}
    with pytest.raises(ConfigError, match="weight > 0"):
        first_layout([_member(1, weight=0)])
    with pytest.raises(ConfigError):
        first_layout([])


def test_one_member_named_twice_is_a_bug() -> None:
    """It would be two of the three homes of a key."""
    with pytest.raises(AssertionError, match="twice"):
        first_layout([_member(1), _member(1), _member(2)])


def test_homes_are_the_first_of_the_walk_and_fewer_in_a_small_cluster() -> None:
    layout = first_layout([_member(number) for number in (1, 2, 3)])
    for partition, walk in enumerate(layout.walks):
        wanted = tuple(layout.members[i].node_id for i in walk)
        assert layout.homes(partition, 2) == wanted[:2]
        assert layout.homes(partition, 5) == wanted
