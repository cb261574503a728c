"""Chance of a run: every draw is named by what it is for, so that draws do not disturb each other.

The n-th draw of one purpose depends on the seed, the names on the way to it, and n; never on how many
other draws there were. Taking one fault out of a plan therefore leaves the other draws as they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import TypeVar

_T = TypeVar("_T")
_WHOLE = 1 << 64


class Chance:
    """`ports.Random`, and more draws for whoever plans. `path`: seed, node, number of its start, ..."""

    def __init__(self, *path: object) -> None:
        self._path = path
        self._key = blake2b("\0".join(map(str, path)).encode(), digest_size=32).digest()
        self._counters: dict[str, int] = {}

    def sub(self, *names: object) -> Chance:
        """An independent stream."""
        return Chance(*self._path, *names)

    def bits(self, purpose: str, count: int) -> int:
        assert count <= 64, "one draw has 64 bits"
        return self._draw(purpose) >> (64 - count)

    def uniform(self, purpose: str, low: float, high: float) -> float:
        return low + (high - low) * (self._draw(purpose) / _WHOLE)

    def below(self, purpose: str, count: int) -> int:
        """An integer from 0 to `count` - 1."""
        return self._draw(purpose) * count // _WHOLE

    def happens(self, purpose: str, probability: float) -> bool:
        return self._draw(purpose) < probability * _WHOLE

    def pick(self, purpose: str, items: Sequence[_T]) -> _T:
        return items[self.below(purpose, len(items))]

    def sample(self, purpose: str, items: Sequence[_T], count: int) -> list[_T]:
        """`count` different ones, in an order by chance."""
        left = list(items)
        return [left.pop(self.below(purpose, len(left))) for _ in range(min(count, len(left)))]

    def weighted(self, purpose: str, weights: dict[_T, float]) -> _T:
        """A key of `weights`, which must be in an order that is the same in every run."""
        at = self.uniform(purpose, 0.0, sum(weights.values()))
        chosen: _T | None = None
        for item, weight in weights.items():
            chosen = item
            at -= weight
            if at < 0:
                break
        assert chosen is not None, "nothing to choose from"
        return chosen

    def _draw(self, purpose: str) -> int:
        counter = self._counters.get(purpose, 0)
        self._counters[purpose] = counter + 1
        name = b"%b\0%d" % (purpose.encode(), counter)
        return int.from_bytes(blake2b(name, digest_size=8, key=self._key).digest(), "big")


class LinkChance:
    """All chance of one message in one hash: the n-th message of a link always has the same luck."""

    __slots__ = ("_count", "_key")

    def __init__(self, *path: object) -> None:
        self._key = blake2b("\0".join(map(str, path)).encode(), digest_size=32).digest()
        self._count = 0

    def draw(self) -> tuple[float, float, float, float]:
        """Four independent numbers from [0, 1)."""
        self._count += 1
        drawn = blake2b(self._count.to_bytes(8, "big"), digest_size=16, key=self._key).digest()
        whole = int.from_bytes(drawn, "big")
        mask, scale = 0xFFFF_FFFF, 1 / (1 << 32)
        return (
            (whole >> 96) * scale,
            (whole >> 64 & mask) * scale,
            (whole >> 32 & mask) * scale,
            (whole & mask) * scale,
        )
