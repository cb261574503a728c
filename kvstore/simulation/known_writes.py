"""One key's writes in a simulated run, as bit sets: who superseded whom, and what one state holds of them."""

from __future__ import annotations

from bisect import bisect_right, insort
from dataclasses import dataclass
from typing import NamedTuple

from kvstore.core.sibling import Version
from kvstore.core.vector_clock import CausalContext, Dot


class HeldState(NamedTuple):
    """One state as bits. `dropped`: covered and not held. `unexplained`: dropped, by nobody's token."""

    live: int
    known: int
    dropped: int
    unexplained: int
    context: CausalContext
    collected: bool = False


@dataclass(slots=True)
class _Counters:
    """The dots of one replica id on one key: counters in order, and the bits up to each."""

    counters: list[int]
    bits: list[int]


class KnownKey:
    """One key's dots by order of birth, and for each the dots that its token covered."""

    __slots__ = ("at", "collected", "covers", "names", "of", "states", "versions")

    def __init__(self) -> None:
        self.at: dict[Dot, int] = {}
        self.names: list[Dot] = []
        self.versions: list[Version] = []
        self.covers: list[int] = []
        self.of: dict[int, _Counters] = {}
        self.states: dict[bytes, HeldState] = {}
        self.collected = 0

    def bits_of(self, context: CausalContext) -> int:
        """Those of the known dots that the context covers."""
        bits = 0
        for replica_id, counter in context.vector.items():
            if of := self.of.get(replica_id):
                bits |= of.bits[bisect_right(of.counters, counter)]
        for dot in context.cloud:
            if (at := self.at.get(dot)) is not None:
                bits |= 1 << at
        return bits

    def add(self, dot: Dot, version: Version) -> int:
        at = self.at[dot] = len(self.names)
        self.names.append(dot)
        self.versions.append(version)
        self.covers.append(0)
        of = self.of.setdefault(dot[0], _Counters([], [0]))
        insort(of.counters, dot[1])
        of.bits = [0]
        for counter in of.counters:
            of.bits.append(of.bits[-1] | 1 << self.at[dot[0], counter])
        return at

    def superseded_within(self, bits: int) -> int:
        """Dots covered by the token of one of these. The newest cover most, so they come first."""
        covered, rest = 0, bits
        while rest:
            at = rest.bit_length() - 1
            covered |= self.covers[at]
            rest &= ~(covered | 1 << at)
        if bits & ~covered & (bits & ~covered) - 1:  # more than one left: look at all of them
            for at in range(bits.bit_length()):
                if bits >> at & 1:
                    covered |= self.covers[at]
        return covered
