"""A resolver that depends on the order of arrival would make new siblings of every repair."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.client import Sibling, resolvers

items = (
    st.integers(0, 5) | st.sampled_from(["a", "b", True, 1.0, None]) | st.lists(st.integers(0, 2), max_size=2)
)
lists = st.lists(items, max_size=4)
counts = st.dictionaries(st.sampled_from("abc"), st.integers(0, 9), max_size=3)
dicts = st.fixed_dictionaries({}, optional={"friends": lists, "age": st.integers()})

RESOLVERS: list[tuple[Any, Any]] = [
    (resolvers.last_write_wins, st.integers()),
    (resolvers.merge_sets("friends"), dicts),
    (resolvers.union, lists),
    (resolvers.union, st.frozensets(st.integers(0, 5))),
    (resolvers.maximum, st.integers()),
    (resolvers.minimum, st.integers()),
    (resolvers.counter, counts),
    (resolvers.by_value(lambda values: values[0]), st.integers()),
]


def siblings_of(values: Any) -> Any:
    """Ids are dots and so never equal; times may be."""
    timed = st.lists(st.tuples(values, st.integers(0, 3)), min_size=1, max_size=5)
    return timed.map(lambda pairs: [Sibling(v, f"{i:016x}", modified_ms=t) for i, (v, t) in enumerate(pairs)])


@pytest.mark.parametrize(("resolve", "values"), RESOLVERS)
@given(data=st.data())
def test_the_order_of_arrival_does_not_matter(resolve: Any, values: Any, data: st.DataObject) -> None:
    siblings = data.draw(siblings_of(values))
    assert resolve(data.draw(st.permutations(siblings))) == resolve(siblings)


@pytest.mark.parametrize(("resolve", "values"), RESOLVERS)
@given(data=st.data())
def test_one_value_is_itself(resolve: Any, values: Any, data: st.DataObject) -> None:
    value = data.draw(values)
    resolved = resolve([Sibling(value, "0", modified_ms=1)])
    if isinstance(value, list):
        assert [repr(x) for x in resolved] == list(dict.fromkeys(map(repr, value)))
    elif isinstance(value, dict) and "friends" in value:
        assert resolved["friends"] == resolvers.union([Sibling(value["friends"], "0")])
    else:
        assert resolved == value


@given(siblings_of(lists))
def test_a_union_loses_no_entry_and_invents_none(siblings: list[Sibling[Any]]) -> None:
    found = {repr(entry) for entry in resolvers.union(siblings)}
    assert found == {repr(entry) for sibling in siblings for entry in sibling.value}


@given(siblings_of(counts))
def test_a_counter_never_falls(siblings: list[Sibling[Any]]) -> None:
    merged = resolvers.counter(siblings)
    assert all(merged[writer] >= count for s in siblings for writer, count in s.value.items())


def test_merge_sets_takes_the_rest_from_the_last_write() -> None:
    old = Sibling({"age": 1, "friends": ["a"]}, "1", modified_ms=1)
    new = Sibling({"age": 2, "friends": ["b"]}, "2", modified_ms=2)
    assert resolvers.merge_sets("friends")([new, old]) == {"age": 2, "friends": ["a", "b"]}
    assert old.value == {"age": 1, "friends": ["a"]}
