"""What one value to make of several concurrent ones.

A resolver is a function from the siblings to a value. Two clients that resolve the same siblings must
come to the same value, in whatever order they got them: otherwise resolving makes new siblings.
`get` and `fetch` show what it says, and `update` and a put with the record's context write it back.

    kv.bucket("users", codec="json", resolver=resolvers.merge_sets("friends"))

Your own, of values alone: `resolvers.by_value(lambda values: max(values, key=score))`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from kvstore.client.records import Sibling

T = TypeVar("T")

Resolver = Callable[[Sequence[Sibling[T]]], T]


def by_value(choose: Callable[[list[T]], T]) -> Resolver[T]:
    """A resolver of a function that wants the values only, in the order of their ids."""

    def resolve(siblings: Sequence[Sibling[T]]) -> T:
        return choose([sibling.value for sibling in _ordered(siblings)])

    return resolve


def last_write_wins(siblings: Sequence[Sibling[T]]) -> T:
    """The value with the latest time, by the clocks of the nodes; the others are lost.

    Right for values that are overwritten whole and not depended on, such as a cache.
    """
    return max(siblings, key=lambda s: (s.modified_ms or 0, s.id)).value


def merge_sets(*fields: str) -> Resolver[Any]:
    """For dicts: these fields hold lists that are unions of all, the rest is that of the last write.

    A removal is undone if the other side still had the entry: a set that shrinks needs its removals
    written down too, as a second field.
    """

    def resolve(siblings: Sequence[Sibling[Any]]) -> Any:
        merged = dict(last_write_wins(siblings))
        for field in fields:
            lists = [s.value[field] for s in _ordered(siblings) if field in s.value]
            if lists:
                merged[field] = _union(lists)
        return merged

    return resolve


def union(siblings: Sequence[Sibling[Any]]) -> Any:
    """For lists or sets: every entry that one of them has."""
    values = [s.value for s in _ordered(siblings)]
    if isinstance(values[0], set | frozenset):
        return type(values[0]).union(*values)
    return _union(values)


def maximum(siblings: Sequence[Sibling[Any]]) -> Any:
    """The largest value: high-water marks, latest version numbers."""
    return max(s.value for s in siblings)


def minimum(siblings: Sequence[Sibling[Any]]) -> Any:
    """The smallest value."""
    return min(s.value for s in siblings)


def counter(siblings: Sequence[Sibling[dict[str, int]]]) -> dict[str, int]:
    """A counter that only grows, as {writer: count}; its sum is the total (a G-Counter, Shapiro 2011).

    Each writer adds to its own entry only, so the larger of two entries is the later one. A plain
    number cannot be merged: two additions made side by side look like one.
    """
    merged: dict[str, int] = {}
    for sibling in siblings:
        for writer, count in sibling.value.items():
            merged[writer] = max(merged.get(writer, count), count)
    return dict(sorted(merged.items()))


def _ordered(siblings: Sequence[Sibling[T]]) -> list[Sibling[T]]:
    return sorted(siblings, key=lambda s: s.id)


def _union(lists: Iterable[Iterable[Any]]) -> list[Any]:
    """Entries in order of first appearance. Compared by their JSON: 1, 1.0 and True are three."""
    entries: dict[str, Any] = {}
    for values in lists:
        for entry in values:
            entries.setdefault(_identity(entry), entry)
    return list(entries.values())


def _identity(entry: Any) -> str:
    try:
        return json.dumps(entry, sort_keys=True, default=repr)
    except TypeError:  # keys of several types do not sort
        return repr(entry)
