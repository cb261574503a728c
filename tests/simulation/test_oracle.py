"""Sets that clients unite lose no acknowledged element; a store that loses one is caught without tokens."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.simulation.history import Ended, FinalState, History, Kind, Operation
from kvstore.simulation.oracle import judge_sets
from tests.simulation.model_store import ModelStore


def history(*puts: tuple[str, Ended], live: str = "", shows: str = "") -> History:
    """Puts of sets like "a b", each with its first letters as write id; one get; one home."""
    operations = [
        Operation(index, 0, Kind.PUT, b"set", float(index), write_id=value.encode(), value=value.encode())
        for index, (value, _) in enumerate(puts)
    ]
    for operation, (_, ended) in zip(operations, puts, strict=True):
        operation.ended = ended
    got = Operation(len(puts), 1, Kind.GET, b"set", 99.0, ended=Ended.OK)
    got.seen_values = tuple(value.encode() for value in shows.split(",") if value)
    held = FinalState("n1", b"set", tuple(value.encode() for value in live.split(",") if value))
    return History([*operations, got], [held])


def kinds(story: History) -> list[str]:
    return [violation.kind for violation in judge_sets(story, is_set=lambda key: key == b"set")]


def test_an_acknowledged_element_is_missing() -> None:
    assert kinds(history(("a", Ended.OK), ("a b", Ended.OK), live="a")) == ["element missing"]


def test_an_element_counts_wherever_it_is() -> None:
    assert kinds(history(("a", Ended.OK), ("b", Ended.OK), ("a c", Ended.OK), live="b,a c")) == []


def test_an_unknown_element_may_be_missing_or_there() -> None:
    for live in ("a", "a b"):
        assert kinds(history(("a", Ended.OK), ("a b", Ended.UNKNOWN), live=live)) == []


def test_a_home_without_a_record_lacks_everything() -> None:
    story = history(("a b", Ended.OK), live="a b")
    found = judge_sets(story, is_set=lambda _: True, homes_of=lambda _: ["n1", "n2"])
    assert [(v.kind, v.detail.split(",")[0]) for v in found] == [
        ("element missing", "n2 lacks b'a'"),
        ("element missing", "n2 lacks b'b'"),
    ]


@pytest.mark.parametrize("ended", [Ended.FAILED, None])
def test_an_element_that_nobody_put_is_shown(ended: Ended | None) -> None:
    puts = [("a", Ended.OK)] + ([("a b", ended)] if ended else [])
    assert kinds(history(*puts, live="a", shows="a,a b")) == ["element invented"]


def test_other_keys_and_other_encodings() -> None:
    story = history(('["a"]', Ended.OK), ('["a", "b"]', Ended.OK), live='["a"]')
    assert judge_sets(story, is_set=lambda _: False) == []
    found = judge_sets(
        story, is_set=lambda _: True, elements_of=lambda v: [e.encode() for e in json.loads(v)]
    )
    assert [violation.operations for violation in found] == [(1,)]


def test_a_set_is_not_deleted() -> None:
    story = history(("a", Ended.OK))
    story.operations[0].kind = Kind.DELETE
    with pytest.raises(ValueError, match="deletes a set"):
        kinds(story)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.integers(20, 400))
def test_a_correct_store_raises_no_alarm(seed: int, steps: int) -> None:
    story = ModelStore(seed, sets=True).run(steps)
    assert judge_sets(story, is_set=lambda _: True) == []


@pytest.mark.parametrize(
    "mutant",
    [
        "acknowledge before sync",
        "merge keeps the newest",
        "token covers all",
        "token of a put covers the coordinator's context",
        "repair writes nothing",
    ],
)
def test_a_store_that_loses_writes_is_caught(mutant: str) -> None:
    stories = (ModelStore(seed, sets=True, mutant=mutant).run() for seed in range(200))
    assert any(judge_sets(story, is_set=lambda _: True) for story in stories)
