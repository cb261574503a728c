"""Dots, version vectors and causal contexts: what a write is called, and what somebody has seen.

Sources: Dynamo (SOSP 2007) §4.4; dotted version vectors (Preguiça, Almeida, Gonçalves 2010/2012);
the split into a vector and a cloud of single dots is that of delta-state causal contexts
(Almeida, Shoker, Baquero 2018).

A *replica id* names one copy of one partition on one node, for as long as that copy remembers what
it did. A *dot* (replica id, counter) names one write, ever. A *causal context* is a set of dots,
kept exact: it never contains a dot that its holder neither saw nor knows to be superseded. The
shortcut of one maximal counter per replica loses acknowledged writes (B3).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

Dot = tuple[int, int]
"""(replica id, counter). Ids are random 64-bit numbers, counters start at 1."""


class CausalContext(NamedTuple):
    """The dots somebody knows *of one key*.

    `vector[id] = c` stands for the dots (id, 1) … (id, c); `cloud` holds single dots beyond it.
    Invariant: no dot of the cloud is reached by the vector, so equal sets are equal values.
    Both parts are treated as immutable.
    """

    vector: Mapping[int, int] = {}
    cloud: frozenset[Dot] = frozenset()

    def covers(self, dot: Dot) -> bool:
        return self.vector.get(dot[0], 0) >= dot[1] or dot in self.cloud

    def join(self, other: CausalContext) -> CausalContext:
        """The union of both sets."""
        if not other.vector and not other.cloud:
            return self
        if not self.vector and not self.cloud:
            return other
        vector = dict(self.vector)
        for replica_id, counter in other.vector.items():
            if vector.get(replica_id, 0) < counter:
                vector[replica_id] = counter
        return compacted(vector, self.cloud | other.cloud)

    def add(self, dot: Dot) -> CausalContext:
        """With one more dot, and no other: what a client knows after its own put."""
        return compacted(self.vector, self.cloud | {dot})

    def advance(self, dot: Dot) -> CausalContext:
        """With every dot of this replica up to `dot`.

        Only for the copy that mints `dot` and knows all its own earlier dots on this key.
        """
        vector = dict(self.vector)
        vector[dot[0]] = max(vector.get(dot[0], 0), dot[1])
        return compacted(vector, self.cloud)

    def includes(self, other: CausalContext) -> bool:
        """Whether every dot of `other` is covered here.

        Comparing vectors entry by entry is exact: were (id, 1) … (id, c) all known here, the vector
        would reach c, because contexts are always compacted.
        """
        mine = self.vector
        for replica_id, counter in other.vector.items():
            if mine.get(replica_id, 0) < counter:
                return False
        return not other.cloud or all(map(self.covers, other.cloud))

    def highest(self, replica_id: int) -> int:
        """The highest counter of this replica id that occurs here; 0 if none."""
        highest = self.vector.get(replica_id, 0)
        if not self.cloud:
            return highest
        for other_id, counter in self.cloud:
            if other_id == replica_id and counter > highest:
                highest = counter
        return highest


EMPTY_CONTEXT = CausalContext()


def context_of(dots: Iterable[Dot]) -> CausalContext:
    """Exactly these dots."""
    return compacted({}, frozenset(dots))


def compacted(vector: Mapping[int, int], cloud: frozenset[Dot]) -> CausalContext:
    """Fold into the vector what continues it, drop what it reaches already.

    Folding (id, c + 1) onto an entry c keeps the set exact: the same dots, written shorter. That it
    is done always is what makes equal sets equal values, whatever the order of the joins.
    """
    if not cloud:
        return CausalContext(vector, cloud)
    grown: dict[int, int] | None = None
    rest: list[Dot] = []
    for replica_id, counter in sorted(cloud):
        reach = (vector if grown is None else grown).get(replica_id, 0)
        if counter <= reach:
            continue
        if counter == reach + 1:
            if grown is None:
                grown = dict(vector)
            grown[replica_id] = counter
        else:
            rest.append((replica_id, counter))
    if grown is None and len(rest) == len(cloud):
        return CausalContext(vector, cloud)
    return CausalContext(vector if grown is None else grown, frozenset(rest))
