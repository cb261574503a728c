"""Which key an operation takes: the distributions of YCSB (Cooper et al., SoCC 2010, section 4.2). Pure.

All draw numbers from 0 to `count` - 1; chance is an argument. Zipfian numbers are made as in Gray et al.,
"Quickly generating billion-record synthetic databases", SIGMOD 1994: exact for the two most frequent
ranks, an inverted integral for the others, and no table.
"""

from __future__ import annotations

from functools import cache
from itertools import accumulate
from random import Random
from typing import Protocol

THETA = 0.99
"""YCSB's constant: of 10,000 keys the most frequent one gets 10 % of the operations."""

_EXACT_TERMS = 10_000
_FNV_OFFSET, _FNV_PRIME, _MASK = 0xCBF29CE484222325, 0x100000001B3, 0xFFFFFFFFFFFFFFFF


class Keys(Protocol):
    def draw(self, random: Random, count: int) -> int:
        """A number below `count`, which is how many keys there are now."""


class Uniform:
    def draw(self, random: Random, count: int) -> int:
        return int(random.random() * count)


class Zipfian:
    """Ranks: 0 is the most frequent. P(rank i) is about 1 / (i + 1)^theta / zeta(count)."""

    def __init__(self, theta: float = THETA) -> None:
        self._theta, self._count = theta, 0
        self._zeta = self._alpha = self._eta = 0.0

    def draw(self, random: Random, count: int) -> int:
        if count != self._count:
            self._prepare(count)
        u = random.random()
        uz = u * self._zeta
        if uz < 1.0 or count == 1:
            return 0
        if uz < 1.0 + 0.5**self._theta or count == 2:
            return 1
        return min(int(count * (self._eta * u - self._eta + 1.0) ** self._alpha), count - 1)

    def _prepare(self, count: int) -> None:
        theta = self._theta
        self._count, self._zeta = count, zeta(count, theta)
        self._alpha = 1.0 / (1.0 - theta)
        if count > 2:
            self._eta = (1.0 - (2.0 / count) ** (1.0 - theta)) / (1.0 - zeta(2, theta) / self._zeta)


class ScrambledZipfian:
    """Zipfian ranks, spread over all keys by a hash, so that frequent keys are no neighbours.

    Ranks whose hashes meet share a key, as in YCSB.
    """

    def __init__(self, theta: float = THETA) -> None:
        self._ranks = Zipfian(theta)

    def draw(self, random: Random, count: int) -> int:
        return fnv(self._ranks.draw(random, count)) % count


class Latest:
    """The newest key is the most frequent one."""

    def __init__(self, theta: float = THETA) -> None:
        self._ranks = Zipfian(theta)

    def draw(self, random: Random, count: int) -> int:
        return count - 1 - self._ranks.draw(random, count)


DISTRIBUTIONS: dict[str, type[Keys]] = {
    "uniform": Uniform,
    "zipfian": ScrambledZipfian,
    "latest": Latest,
}


def zeta(count: int, theta: float) -> float:
    """The sum of 1 / i^theta for i from 1 to `count`; beyond 10,000 terms by the Euler-Maclaurin formula."""
    exact = _partial_sums(theta)[min(count, _EXACT_TERMS)]
    if count <= _EXACT_TERMS:
        return exact
    first, last = float(_EXACT_TERMS), float(count)
    integral: float = (last ** (1 - theta) - first ** (1 - theta)) / (1 - theta)
    return exact + integral + float(last**-theta - first**-theta) / 2


@cache
def _partial_sums(theta: float) -> list[float]:
    return list(accumulate((1.0 / i**theta for i in range(1, _EXACT_TERMS + 1)), initial=0.0))


def fnv(number: int) -> int:
    """FNV-1a over the eight bytes of a number."""
    value = _FNV_OFFSET
    for _ in range(8):
        value = ((value ^ (number & 0xFF)) * _FNV_PRIME) & _MASK
        number >>= 8
    return value
