"""simulate: faults and clusters by name, campaigns, replay, shrinking, and how each ends."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from kvstore.node.replica import Replica
from tests.cli.conftest import Type

SHORT = ("--duration", "15", "--nodes", "3")

CLUSTER = """
n = 3
r = 2
w = 2
[[nodes]]
name = "left"
zone = "a"
[[nodes]]
name = "middle"
zone = "b"
host = "rack-7"
[[nodes]]
name = "right"
zone = "c"
"""


@pytest.fixture
def _acknowledged_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes that lose what they have acknowledged, so that there is something to find."""

    def at_once(_self: Replica) -> asyncio.Future[None]:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    monkeypatch.setattr(Replica, "sync", at_once)


def test_a_campaign_tells_what_was_done_what_broke_and_what_was_violated(type_: Type) -> None:
    done = type_("simulate", "--seeds", "3", *SHORT, "--processes", "1")
    assert done.exit_code == 0, done.output
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line.strip()}
    assert "0 lost, 0 resurrected" in lines["violations"]
    assert int(lines["writes"].split()[1]) > 50
    assert "per simulated hour" in lines["faults"]
    assert "3 passed, 0 failed, 0 invalid" in lines["runs"]
    assert not done.stderr, "no bar where there is no terminal"


def test_the_same_as_one_document(type_: Type) -> None:
    told = json.loads(type_("simulate", "--seeds", "2", *SHORT, "--processes", "1", "-o", "json").stdout)
    assert (told["seeds"], told["passed"], told["violations"]) == (2, 2, {})
    assert told["operations"]["put ok"] > 50
    assert {"faults", "probes", "seeds_per_s", "failures"} <= told.keys()


def test_faults_by_name_are_those_and_no_others(type_: Type) -> None:
    named = ["--kill", "n2@5s", "--partition", "n1,n2:n3@8s+2s", "--pause", "n1@11s+1s"]
    done = type_("simulate", "--seed", "1", "--duration", "20", "--nodes", "3", *named, "-o", "json")
    report = json.loads(done.stdout)
    assert report["faults"] == {"crash": 1, "split": 1, "pause": 1}
    assert report["violations"] == {}
    assert report["replay"].endswith(
        "--nodes 3 --duration 20 --kill n2@5s --partition n1,n2:n3@8s+2s --pause n1@11s+1s --seed 1"
    )


def test_a_cluster_of_ones_own(type_: Type, place: Path) -> None:
    (place / "c.toml").write_text(CLUSTER)
    own = ("--cluster", "c.toml", "--kill", "middle@6s")
    done = type_("simulate", "--seed", "1", "--duration", "15", *own, "-o", "json")
    report = json.loads(done.stdout)
    assert report["faults"] == {"crash": 1}
    assert report["violations"] == {}


def test_a_saved_plan_runs_as_the_seed_did(type_: Type, place: Path) -> None:
    first = json.loads(type_("simulate", "--seed", "4", *SHORT, "--save", "plan.json", "-o", "json").stdout)
    again = json.loads(type_("simulate", "--replay", "plan.json", "-o", "json").stdout)
    assert again["trace"] == first["trace"]
    assert again["replay"] == "kvstore simulate --replay plan.json"


@pytest.mark.usefixtures("_acknowledged_too_early")
def test_a_violation_is_told_with_the_command_that_replays_it_and_shrunk(type_: Type, place: Path) -> None:
    many = type_("simulate", "--seeds", "12", *SHORT, "--faults", "crash,kill-all", "--processes", "1")
    assert many.exit_code == 1
    replay = next(line for line in many.stdout.splitlines() if line.startswith("FAILED"))
    command = replay.removeprefix("FAILED").split("#")[0].split()[1:]
    one = type_(*command)
    assert one.exit_code == 1
    assert "violation" in one.stdout
    assert " s  crash n" in one.stdout, "a timeline of what led to it"
    small = type_(*command, "--shrink", "--save", "small.json")
    assert small.exit_code == 1
    assert len((place / "small.json").read_text().splitlines()) <= 15
    assert type_("simulate", "--replay", "small.json").exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--kill", "n2"], "is not of the form n2@5s+3s"),
        (["--kill", "n1:n2@5s"], "is not of the form n2@5s+3s"),
        (["--partition", "n1@5s"], "is not of the form n1,n2:n3@8s+4s"),
        (["--pause", "n1@1.2.3s"], "times are seconds"),
        (["--kill", "n9@5s"], "no such node"),
        (["--faults", "earthquake"], "no fault is called 'earthquake'"),
        (["--nodes", "2", "--n", "3"], "n=3 needs 3 nodes"),
        (["--seed", "1", "--seeds", "2"], "give one of them"),
        (["--shrink"], "take one run"),
        (["--cluster", "bad.toml"], "unknown name 'node'"),
        (["--replay", "bad.toml"], "this is no plan"),
    ],
)
def test_what_is_wrong_with_the_options_is_said_before_anything_runs(
    type_: Type, place: Path, arguments: list[str], says: str
) -> None:
    (place / "bad.toml").write_text("node = 3\n")
    done = type_("simulate", *arguments)
    assert done.exit_code == 2
    assert says in done.stderr
    assert not done.stdout


def test_the_kinds_of_faults(type_: Type) -> None:
    told = type_("simulate", "--faults", "list").stdout.splitlines()
    assert {"crash", "split", "clock-jump", "bit-flips"} <= set(told)
    assert {"wipe", "restore", "clone"} <= set(told)
