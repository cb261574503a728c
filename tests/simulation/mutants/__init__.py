"""Planted bugs, and the hunt for them. A checker is believed when it catches these.

A mutant is one function that patches the real code inside this process; whoever hunts undoes it. Its
docstring says what is wrong with it, and which bug of other systems it is (B1 to B30), if any.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec

import pytest

from kvstore.errors import KVStoreError
from kvstore.simulation.checker import judge
from kvstore.simulation.generator import Shape, plan_of
from kvstore.simulation.oracle import judge_sets
from kvstore.simulation.plan import SET_PREFIX
from kvstore.simulation.white_box import WhiteBox
from kvstore.simulation.world import simulate

Patch = pytest.MonkeyPatch
Plant = Callable[[Patch], None]

SHAPE = Shape(duration_s=60.0)
SEEDS_MAX = 500
BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Mutant:
    """`needs`: modules without which there is nothing to plant it in. `quick`: part of the plain test run."""

    name: str
    plant: Plant
    needs: tuple[str, ...] = ()
    quick: bool = False
    shape: Shape = SHAPE

    @property
    def possible(self) -> bool:
        return all(find_spec(module) is not None for module in self.needs)


MUTANTS: list[Mutant] = []


def mutant(
    *, needs: tuple[str, ...] = (), quick: bool = False, shape: Shape = SHAPE
) -> Callable[[Plant], Plant]:
    """Registers a function as a mutant, under its own name."""

    def register(plant: Plant) -> Plant:
        name = plant.__name__.replace("_", " ")
        MUTANTS.append(Mutant(name, plant, needs, quick, shape))
        return plant

    return register


@dataclass(slots=True)
class Catch:
    """`seeds`: how many it took. `objections`: what was found in the last one, by who found it and kind."""

    seeds: int
    objections: Counter[str] = field(default_factory=Counter)
    first: str = ""


def objections(seed: int, shape: Shape = SHAPE) -> tuple[Counter[str], str]:
    """All that the checkers find wrong in one run, and the first of it in words."""
    watch = WhiteBox()
    run = simulate(plan_of(seed, shape), watch)

    def homes_of(key: bytes) -> tuple[str, ...]:
        return run.homes.get(key, ())

    is_set = SET_PREFIX.encode()
    verdict = judge(run.history, homes_of=homes_of)
    sets = judge_sets(run.history, is_set=lambda key: key.startswith(is_set), homes_of=homes_of)
    found: Counter[str] = Counter()
    found.update(violation.kind for violation in verdict.violations)
    found.update(violation.kind for violation in sets)
    found.update(watch.invariants.counts)
    words = [v.detail for v in verdict.violations] + [v.detail for v in sets]
    if watch.invariants.first is not None:
        words.append(str(watch.invariants.first))
    if run.bugs:
        # Code that raises where it was not meant to is a broken mutant: what follows proves nothing.
        return Counter({BROKEN: len(run.bugs)}), run.bugs[0]
    return found, words[0] if words else ""


def hunt(
    planted: Mutant,
    seeds: Iterable[int] = range(SEEDS_MAX),
    *,
    by: Callable[[str], bool] = lambda kind: True,
) -> Catch | None:
    """Run seeds until somebody whose objection counts (`by` its kind) objects; None if nobody does."""
    with pytest.MonkeyPatch.context() as patch:
        planted.plant(patch)
        for count, seed in enumerate(seeds, 1):
            try:
                found, words = objections(seed, planted.shape)
            except KVStoreError as error:  # what a client got, or a disk holds, is no state at all
                return Catch(count, Counter({"unreadable": 1}), str(error))
            if BROKEN not in found and any(map(by, found)):
                return Catch(count, found, words)
    return None


for _room in ("durability", "causality", "reads", "requests", "handoff", "repair", "deletes", "amnesia"):
    if find_spec(f"{__name__}.{_room}") is not None:
        import_module(f"{__name__}.{_room}")
