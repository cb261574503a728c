"""The same seed is the same run, to the byte: anywhere, any time, under any hash seed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kvstore.simulation.generator import Shape, plan_of
from kvstore.simulation.world import simulate

SHAPE = Shape(duration_s=40.0)
_CODE = """
import sys
from kvstore.simulation.generator import Shape, plan_of
from kvstore.simulation.world import simulate
for seed in map(int, sys.argv[2:]):
    print(simulate(plan_of(seed, Shape(duration_s=float(sys.argv[1])))).trace)
"""


def traces_in_a_fresh_interpreter(
    seeds: list[int], hash_seed: str, *, duration_s: float, python: str = sys.executable
) -> list[str]:
    path = os.pathsep.join(entry for entry in sys.path if entry)
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    if python == sys.executable:
        environment["PYTHONPATH"] = path
    else:
        environment["PYTHONPATH"] = str(Path.cwd())  # its own libraries, our code
    arguments = [python, "-c", _CODE, str(duration_s), *map(str, seeds)]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout.split()


def test_a_run_does_not_depend_on_the_runs_before_it() -> None:
    first = simulate(plan_of(11, SHAPE))
    simulate(plan_of(12, SHAPE))
    again = simulate(plan_of(11, SHAPE))
    assert again.trace == first.trace
    assert again.history == first.history


def test_a_run_does_not_depend_on_the_hash_seed() -> None:
    seeds = [13, 14]
    here = [simulate(plan_of(seed, SHAPE)).trace for seed in seeds]
    for hash_seed in ("0", "4242"):
        assert traces_in_a_fresh_interpreter(seeds, hash_seed, duration_s=40.0) == here


def test_watching_a_run_does_not_change_it() -> None:
    plan = plan_of(15, SHAPE)
    assert simulate(plan, keep_timeline=True).trace == simulate(plan).trace


def test_different_seeds_are_different_runs() -> None:
    assert simulate(plan_of(16, SHAPE)).trace != simulate(plan_of(17, SHAPE)).trace


@pytest.mark.slow
def test_whole_runs_twice_in_fresh_interpreters() -> None:
    seeds = list(range(0, 300, 100))
    ours, theirs, others = (
        traces_in_a_fresh_interpreter(seeds, hash_seed, duration_s=120.0)
        for hash_seed in ("1", "2", "random")
    )
    assert ours == theirs == others


@pytest.mark.slow
@pytest.mark.parametrize("python", ["python3.11", "python3.12", "python3.13"])
def test_every_release_of_python_gives_the_same_run(python: str) -> None:
    found = os.environ.get(f"KVSTORE_{python.upper().replace('.', '_')}") or shutil.which(python)
    if found is None:
        pytest.skip(f"no {python} here")
    check = [found, "-c", "import msgpack, sys; assert sys.version_info >= (3, 11)"]
    if subprocess.run(check, capture_output=True, check=False).returncode:
        pytest.skip(f"{found} has no msgpack")
    seeds = [0, 1]
    ours = traces_in_a_fresh_interpreter(seeds, "0", duration_s=120.0)
    assert traces_in_a_fresh_interpreter(seeds, "0", duration_s=120.0, python=found) == ours
