"""Two tables of members become one, in any order of gossip."""

from __future__ import annotations

from functools import reduce

from hypothesis import given
from hypothesis import strategies as st

from kvstore.core.membership import Member, NodeId, merge_members

members = st.builds(
    Member,
    node_id=st.sampled_from(["a", "b", "c"]),
    name=st.sampled_from(["n", "m"]),
    rpc_address=st.sampled_from(["h:1", "h:2"]),
    http_address=st.just("h:3"),
    weight=st.integers(0, 2),
    incarnation=st.integers(1, 3),
)
Table = dict[NodeId, Member]
tables = st.lists(members, max_size=5).map(lambda claims: merge_members({}, claims))


@given(tables, tables, tables)
def test_merge_is_commutative_associative_and_idempotent(a: Table, b: Table, c: Table) -> None:
    assert merge_members(a, b.values()) == merge_members(b, a.values())
    left = merge_members(merge_members(a, b.values()), c.values())
    assert left == merge_members(a, merge_members(b, c.values()).values())
    assert merge_members(a, a.values()) == a


@given(st.lists(members, min_size=1, max_size=8), st.data())
def test_whatever_the_order_of_gossip_the_table_is_the_same(
    claims: list[Member], data: st.DataObject
) -> None:
    heard = data.draw(st.permutations(claims))
    one_by_one = reduce(lambda table, claim: merge_members(table, [claim]), heard, Table())
    assert one_by_one == merge_members({}, claims)


@given(tables, st.lists(members, max_size=5))
def test_nobody_is_forgotten_and_the_newest_claim_of_a_node_about_itself_holds(
    mine: Table, theirs: list[Member]
) -> None:
    merged = merge_members(mine, theirs)
    claims = [*mine.values(), *theirs]
    assert merged.keys() == {claim.node_id for claim in claims}
    for node_id, held in merged.items():
        assert held in claims
        assert held.incarnation == max(c.incarnation for c in claims if c.node_id == node_id)


def test_an_older_incarnation_does_not_bring_an_old_address_back() -> None:
    old = Member("a", "n1", "old:1", "old:2", incarnation=1)
    new = old._replace(rpc_address="new:1", incarnation=2)
    assert merge_members({"a": new}, [old]) == {"a": new}
    assert merge_members({"a": old}, [new]) == {"a": new}


def test_the_table_given_is_not_changed() -> None:
    mine = {"a": Member("a", "n1", "h:1", "h:2")}
    before = dict(mine)
    merge_members(mine, [mine["a"]._replace(incarnation=9)])
    assert mine == before
