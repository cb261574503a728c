"""The checker objects to what no correct store shows, for one reason at a time, and to nothing else."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.simulation.checker import KINDS, Verdict, judge
from kvstore.simulation.history import Ended, FinalState, History, Kind, Operation
from tests.simulation.model_store import MUTANTS, ModelStore

HOMES = ("n1", "n2", "n3")


class Story:
    """A history told line by line; each operation begins after the last one ended, unless said otherwise."""

    def __init__(self) -> None:
        self.history = History()
        self.now_s = 0.0

    def _add(self, kind: Kind, fields: dict[str, Any]) -> Operation:
        at = len(self.history.operations)
        fields = {"client": 0, "ended": Ended.OK, "started_s": self.now_s + 1, **fields}
        fields.setdefault("ended_s", fields["started_s"] + 1)
        operation = Operation(index=at, kind=kind, key=b"k", **fields)
        self.history.operations.append(operation)
        self.now_s = max(self.now_s, operation.started_s, min(operation.ended_s, 1e6))
        return operation

    def put(self, name: str, token: Operation | None = None, **fields: Any) -> Operation:
        source = None if token is None else token.index
        named = {"write_id": name.encode(), "value": name.encode() * 3, "token_from": source}
        return self._add(Kind.PUT, {**named, **fields})

    def delete(self, name: str, token: Operation | None = None, **fields: Any) -> Operation:
        source = None if token is None else token.index
        return self._add(Kind.DELETE, {"write_id": name.encode(), "token_from": source, **fields})

    def get(self, shows: str = "", tombstones: str = "", **fields: Any) -> Operation:
        seen = _names(shows)
        values = tuple(name * 3 for name in seen)
        shown = {"seen": seen, "seen_values": values, "seen_tombstones": _names(tombstones)}
        return self._add(Kind.GET, {**shown, **fields})

    def end(self, live: str, tombstones: str = "", *, nodes: Sequence[str] = HOMES) -> None:
        for node in nodes:
            fingerprint = f"{live}/{tombstones}".encode()
            self.history.final.append(FinalState(node, b"k", _names(live), _names(tombstones), fingerprint))

    def judge(self) -> Verdict:
        return judge(self.history, homes_of=(lambda _key: HOMES) if self.history.final else None)

    def kinds(self) -> set[str]:
        verdict = self.judge()
        kinds = Counter(violation.kind for violation in verdict.violations)
        assert {kind: verdict.counts[kind] for kind in KINDS if verdict.counts[kind]} == kinds
        assert verdict.passed == (not kinds)
        return set(kinds)


def _names(text: str) -> tuple[bytes, ...]:
    return tuple(name.encode() for name in text.split())


# --- what must be there at the end ----------------------------------------------------------------------


def test_lost_an_acknowledged_put_is_nowhere() -> None:
    story = Story()
    story.put("a")
    story.put("b")
    story.end("b")
    assert story.kinds() == {"lost"}


def test_lost_with_a_key_that_no_home_knows() -> None:
    story = Story()
    story.put("a")
    story.history.final.append(FinalState("n1", b"other", ()))
    assert story.kinds() == {"lost"}
    assert story.judge().counts["lost"] == len(HOMES)


def test_lost_a_superseded_put_need_not_be_there() -> None:
    story = Story()
    first = story.put("a")
    story.put("b", story.get("a"))
    story.put("c", first)  # a write's own answer is a token too
    story.end("b c")
    assert story.kinds() == set()


def test_lost_an_unknown_write_excuses_only_if_something_is_left_of_it() -> None:
    story = Story()
    story.put("a")
    story.put("b", story.get("a"), ended=Ended.UNKNOWN, ended_s=float("inf"))
    story.end("")
    assert story.kinds() == {"lost"}
    story.history.final.clear()
    story.end("b")
    assert story.kinds() == set()
    story.history.final.clear()
    story.end("a")
    assert story.kinds() == set()


def test_lost_an_unknown_delete_may_be_applied_and_collected() -> None:
    story = Story()
    story.put("a")
    story.delete("d", story.get("a"), ended=Ended.UNKNOWN)
    story.end("")
    assert story.kinds() == set()


def test_lost_a_failed_delete_excuses_nothing() -> None:
    story = Story()
    story.put("a")
    story.delete("d", story.get("a"), ended=Ended.FAILED)
    story.end("")
    assert story.kinds() == {"lost"}


def test_lost_an_unknown_put_is_owed_once_a_monotonic_read_has_shown_it() -> None:
    for monotonic in (False, True):
        story = Story()
        story.put("a", ended=Ended.UNKNOWN)
        story.get("a", monotonic=monotonic)
        story.end("")
        assert story.kinds() == ({"lost"} if monotonic else set())


def test_resurrected_what_an_acknowledged_delete_covers_is_back() -> None:
    story = Story()
    story.put("a")
    story.delete("d", story.get("a"))
    story.end("a")
    assert story.kinds() == {"resurrected"}


def test_resurrected_through_a_chain_of_unknown_writes() -> None:
    story = Story()
    story.put("a")
    story.put("b", story.get("a"), ended=Ended.UNKNOWN)
    story.delete("d", story.get("b"))
    story.end("a")
    assert story.kinds() == {"resurrected"}


def test_resurrected_not_by_an_unknown_delete() -> None:
    story = Story()
    story.put("a")
    story.delete("d", story.get("a"), ended=Ended.UNKNOWN)
    story.end("a")
    assert story.kinds() == set()


def test_resurrected_a_write_sent_twice_may_return() -> None:
    story = Story()
    story.put("a", attempts=2)
    story.delete("d", story.get("a"))
    story.end("a")
    assert story.kinds() == set()
    assert story.judge().counts["twin-returned"] == len(HOMES)


def test_divergent_the_homes_hold_different_states() -> None:
    story = Story()
    story.put("a", ended=Ended.UNKNOWN)
    story.end("a", nodes=HOMES[:2])
    story.end("", nodes=HOMES[2:])
    assert story.kinds() == {"divergent"}


def test_divergent_a_home_misses_the_key() -> None:
    story = Story()
    story.delete("d")
    story.end("", "d", nodes=HOMES[:2])
    assert story.kinds() == {"divergent"}


def test_without_a_final_state_only_reads_are_judged() -> None:
    story = Story()
    story.put("a")
    assert story.kinds() == set()


# --- what no answer may show ----------------------------------------------------------------------------


def test_phantom_nobody_wrote_it() -> None:
    story = Story()
    story.get("x")
    assert story.kinds() == {"phantom"}


def test_phantom_it_was_written_to_another_key() -> None:
    story = Story()
    story.put("a").key = b"elsewhere"
    story.get("a")
    assert story.kinds() == {"phantom"}


def test_phantom_at_the_end() -> None:
    story = Story()
    story.end("x")
    assert story.kinds() == {"phantom"}


@pytest.mark.parametrize("read", [True, False])
def test_ghost_its_answer_said_that_it_was_applied_nowhere(read: bool) -> None:
    story = Story()
    story.put("a", ended=Ended.FAILED)
    if read:
        story.get("a")
    else:
        story.end("a")
    assert story.kinds() == {"ghost"}


def test_corrupt_other_bytes_than_were_written() -> None:
    story = Story()
    story.put("a")
    story.get("a", seen_values=(b"aa",))
    assert story.kinds() == {"corrupt"}


@pytest.mark.parametrize("as_value", [True, False])
def test_corrupt_a_delete_as_a_value_or_a_put_as_a_tombstone(as_value: bool) -> None:
    story = Story()
    story.put("a")
    story.delete("d")
    story.get("d a" if as_value else "", "" if as_value else "a d", seen_values=())
    assert story.kinds() == {"corrupt"}


def test_twice_one_write_as_two_siblings() -> None:
    story = Story()
    story.put("a", attempts=2)
    story.get("a a")
    assert story.kinds() == {"twice"}


def test_antichain_a_sibling_covers_the_other() -> None:
    story = Story()
    story.put("a")
    story.put("b", story.get("a"))
    story.get("a b")
    assert story.kinds() == {"antichain"}


def test_antichain_over_many_steps_and_with_a_tombstone() -> None:
    story = Story()
    last = story.put("w0")
    for step in range(1, 3000):
        last = story.put(f"w{step}", last)
    story.delete("d", last)
    story.get("w0", "d")
    assert story.kinds() == {"antichain"}


def test_antichain_at_the_end() -> None:
    story = Story()
    story.put("a")
    story.put("b", story.get("a"), ended=Ended.UNKNOWN)
    story.end("a b")
    assert story.kinds() == {"antichain"}


def test_antichain_a_write_sent_twice_may_stay_beside_what_covers_it() -> None:
    story = Story()
    story.put("a", attempts=2)
    story.put("b", story.get("a"))
    story.get("a b")
    assert story.kinds() == set()
    assert story.judge().counts["twin-returned"] == 1


def test_future_a_read_shows_what_began_after_it_had_ended() -> None:
    story = Story()
    story.get("a")
    story.put("a")
    assert story.kinds() == {"future"}


def test_future_and_a_circle_of_tokens_ends() -> None:
    story = Story()
    got = story.get("a")
    story.put("a", got)
    assert story.kinds() == {"future"}


# --- what is promised to some reads ---------------------------------------------------------------------


def test_stale_a_strict_read_misses_a_strict_write() -> None:
    story = Story()
    story.put("a", strict=True)
    story.get("", strict=True, client=1)
    assert story.kinds() == {"stale"}


def test_stale_a_strict_read_shows_what_a_strict_delete_covers() -> None:
    story = Story()
    story.put("a")
    story.delete("d", story.get("a"), strict=True)
    story.get("a", strict=True, client=1)
    assert story.kinds() == {"stale"}


@pytest.mark.parametrize(("write", "read"), [(True, False), (False, True), (False, False)])
def test_stale_is_only_counted_where_nothing_was_promised(write: bool, read: bool) -> None:
    story = Story()
    story.put("a", strict=write)
    story.get("", strict=read, client=1)
    assert story.kinds() == set()
    assert story.judge().counts["stale-not-promised"] == 1


def test_stale_needs_an_acknowledgement_strictly_before_the_read() -> None:
    story = Story()
    story.put("a", strict=True, started_s=1.0, ended_s=5.0)
    story.get("", strict=True, client=1, started_s=5.0)
    assert story.kinds() == set()


def test_stale_is_answered_by_what_covers_the_write() -> None:
    story = Story()
    story.put("a", strict=True)
    story.put("b", story.get("a"), ended=Ended.UNKNOWN)
    story.get("b", strict=True, client=1)
    assert story.kinds() == set()


def test_stale_is_explained_by_a_delete_that_is_still_going_on() -> None:
    story = Story()
    story.put("a", strict=True)
    story.delete("d", story.get("a"), ended=Ended.UNKNOWN, ended_s=float("inf"))
    story.get("", strict=True, client=1)
    assert story.kinds() == set()


def test_stale_is_not_explained_by_a_delete_that_began_later_or_failed() -> None:
    story = Story()
    story.put("a", strict=True)
    token = story.get("a")
    story.delete("d", token, ended=Ended.FAILED)
    story.get("", strict=True, client=1)
    story.delete("e", token)
    assert story.kinds() == {"stale"}


def test_stale_is_not_explained_by_a_delete_whose_victims_are_shown() -> None:
    """The delete covers both; were it in the answer, neither would be."""
    story = Story()
    story.put("a")
    story.put("b", strict=True)
    story.delete("d", story.get("a b"), ended=Ended.UNKNOWN)
    story.get("a", strict=True, client=1)
    assert story.kinds() == {"stale"}


def test_non_monotonic_a_later_read_of_another_client_goes_back() -> None:
    story = Story()
    story.put("a", ended=Ended.UNKNOWN)
    story.get("a", monotonic=True, client=1)
    story.get("", monotonic=True, client=2)
    assert story.kinds() == {"non-monotonic"}


@pytest.mark.parametrize("which", [1, 2])
def test_non_monotonic_binds_only_reads_that_were_promised_it(which: int) -> None:
    story = Story()
    story.put("a", ended=Ended.UNKNOWN)
    story.get("a", monotonic=which == 1, client=1)
    story.get("", monotonic=which == 2, client=2)
    assert story.kinds() == set()


def test_non_monotonic_reads_that_overlap_may_differ() -> None:
    story = Story()
    story.put("a", ended=Ended.UNKNOWN)
    story.get("a", monotonic=True, client=1, started_s=10.0, ended_s=20.0)
    story.get("", monotonic=True, client=2, started_s=20.0, ended_s=21.0)
    assert story.kinds() == set()


def test_session_a_client_does_not_read_its_own_write() -> None:
    story = Story()
    story.put("a", client=1)
    story.get("", session=True, client=1)
    assert story.kinds() == {"session"}


def test_session_a_client_does_not_see_again_what_it_saw() -> None:
    story = Story()
    story.put("a", ended=Ended.UNKNOWN)
    story.get("a", client=1)
    story.get("", session=True, client=1)
    assert story.kinds() == {"session"}


def test_session_one_client_orders_what_happens_at_one_moment() -> None:
    story = Story()
    story.put("a", client=1, started_s=3.0, ended_s=3.0)
    story.get("", session=True, client=1, started_s=3.0, ended_s=3.0)
    story.put("b", client=1, started_s=3.0, ended_s=3.0)
    verdict = story.judge()
    assert [(v.kind, v.operations) for v in verdict.violations] == [("session", (1, 0))]


def test_session_binds_only_its_own_client() -> None:
    story = Story()
    story.put("a", client=1)
    story.get("", session=True, client=2)
    story.get("", client=1)
    assert story.kinds() == set()


# --- the numbers, and histories that no harness may write -----------------------------------------------


def test_counts() -> None:
    story = Story()
    story.put("a")
    story.put("b")
    story.get("a b")
    story.get("", ended=Ended.UNKNOWN)
    story.delete("d", ended=Ended.FAILED)
    counts = story.judge().counts
    wanted = {"put ok": 2, "get ok": 1, "get unknown": 1, "delete failed": 1, "unavailable": 2}
    assert counts.items() >= wanted.items()
    assert (counts["siblings-shown"], counts["stale-not-promised"]) == (1, 0)


def test_a_violation_names_the_operations() -> None:
    story = Story()
    story.put("a")
    story.put("b", story.get("a"))
    story.get("a b")
    (violation,) = story.judge().violations
    assert violation.operations == (3, 0, 2)
    assert violation.detail == "get 3 shows put 0 (61, ok) beside put 2 (62, ok), which covers it"


def test_malformed_histories_are_refused() -> None:
    twice = Story()
    twice.put("a")
    twice.put("a")
    unanswered = Story()
    unanswered.put("a", unanswered.get("", ended=Ended.UNKNOWN))
    foreign = Story()
    foreign.put("a", foreign.get(""))
    foreign.history.operations[0].key = b"other"
    misplaced = Story()
    misplaced.get("").index = 7
    for story, words in (
        (twice, "names two writes"),
        (unanswered, "cannot have a token"),
        (foreign, "cannot have a token"),
        (misplaced, "is at position 0"),
    ):
        with pytest.raises(ValueError, match=words):
            story.judge()


# --- a whole store --------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32), st.booleans(), st.integers(20, 400), st.integers(1, 8))
def test_a_correct_store_raises_no_alarm(seed: int, black_box: bool, steps: int, clients: int) -> None:
    history = ModelStore(seed, black_box=black_box).run(steps, clients)
    assert judge(history, homes_of=lambda _: [f"n{n}" for n in range(3)]).violations == []


def test_the_correct_store_does_what_it_is_there_for() -> None:
    """Otherwise the silence above says nothing."""
    seen: Counter[str] = Counter()
    for seed in range(50):
        seen.update(judge(ModelStore(seed).run()).counts)
    for what in ("put ok", "put unknown", "put failed", "delete ok", "siblings-shown", "stale-not-promised"):
        assert seen[what] >= 5, what
    assert seen["twin-returned"] >= 5


@pytest.mark.parametrize("black_box", [False, True])
@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_wrong_store_is_caught(mutant: str, black_box: bool) -> None:
    for seed in range(200):
        if judge(ModelStore(seed, mutant=mutant, black_box=black_box).run()).violations:
            return
    pytest.fail(f"{mutant}: no alarm in 200 histories")


@pytest.mark.parametrize("excuse", ["a write sent twice", "an unknown write shown by an ordinary read"])
def test_each_excuse_is_needed(excuse: str) -> None:
    """Without it a correct store would be accused."""
    for seed in range(400):
        history = ModelStore(seed).run()
        for operation in history.operations:
            if excuse == "a write sent twice":
                operation.attempts = 1
            else:
                operation.monotonic = operation.kind is Kind.GET
        kinds = {violation.kind for violation in judge(history).violations}
        if kinds & {"lost", "resurrected", "antichain"}:
            return
    pytest.fail("no alarm in 400 histories")


def test_thousands_of_operations_take_milliseconds() -> None:
    histories = [ModelStore(seed).run(steps=12_000, clients=8) for seed in range(3)]
    operations = sum(len(history.operations) for history in histories)
    began_s = time.perf_counter()
    for history in histories:
        assert judge(history).passed
    per_operation_us = (time.perf_counter() - began_s) / operations * 1e6
    assert operations > 3000
    assert per_operation_us < 300, "6 to 12 were measured"
