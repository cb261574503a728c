"""Planted bugs: the checkers are believed because they catch these, and the clean tree shows none."""

from __future__ import annotations

import multiprocessing
import os

import pytest

from kvstore.simulation.generator import Shape
from tests.simulation.mutants import MUTANTS, SEEDS_MAX, Catch, Mutant, hunt, objections

CAUGHT_MIN = 20
_QUICK = [mutant for mutant in MUTANTS if mutant.quick]
_IN_PLAIN_RUN = 3


def caught(name: str) -> tuple[str, Catch | None]:
    (mutant,) = (mutant for mutant in MUTANTS if mutant.name == name)
    return name, hunt(mutant)


@pytest.mark.parametrize("mutant", _QUICK[:_IN_PLAIN_RUN], ids=lambda mutant: mutant.name)
def test_some_are_caught_within_a_few_seeds(mutant: Mutant) -> None:
    assert hunt(mutant, range(20)) is not None


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_one_finds_what_it_breaks(mutant: Mutant) -> None:
    """A function that was renamed is found here, and not only by the long hunt."""
    assert mutant.possible
    with pytest.MonkeyPatch.context() as patch:
        mutant.plant(patch)


_SHAPES = sorted({mutant.shape for mutant in MUTANTS}, key=repr)


@pytest.mark.parametrize("shape", _SHAPES, ids=repr)
def test_the_same_run_without_a_mutant_shows_nothing(shape: Shape) -> None:
    found, words = objections(0, shape)
    assert not found, words


@pytest.mark.slow
@pytest.mark.parametrize("shape", _SHAPES, ids=repr)
def test_many_runs_without_a_mutant_show_nothing(shape: Shape) -> None:
    for seed in range(1, 12):
        found, words = objections(seed, shape)
        assert not found, words


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_mutant_is_caught() -> None:
    """Prints how many seeds each took, and who objected."""
    names = [mutant.name for mutant in MUTANTS if mutant.possible]
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        catches = dict(pool.imap_unordered(caught, names))
    print()
    for name in names:
        catch = catches[name]
        if catch is None:
            print(f"  -- not caught  {name}")
            continue
        kinds = ", ".join(f"{kind}:{count}" for kind, count in sorted(catch.objections.items()))
        print(f"{catch.seeds:>5} seeds  {name:<45} {kinds}")
    assert len(names) >= CAUGHT_MIN
    assert not [name for name in names if catches[name] is None], f"not within {SEEDS_MAX} seeds"
