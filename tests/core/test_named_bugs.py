"""Bugs that other stores of this kind had, each as one short story at the level of the rules.

Every story is told twice: with the rule that prevents the bug, and as it ends without it. The second
half shows that the story would notice.
"""

# ruff: noqa: N802 (the bugs are called B3 to B7)
from __future__ import annotations

from itertools import count

from kvstore.core.sibling import EMPTY_STATE, KeyState, Version, merge, shown, write
from kvstore.core.vector_clock import EMPTY_CONTEXT, CausalContext, Dot


class Home:
    """One copy as node/replica.py keeps it: an id, a counter for all its keys, and one key's state."""

    ids = count(1)

    def __init__(self, *, counter: int = 0) -> None:
        self.replica_id, self.counter = next(self.ids), counter
        self.state = EMPTY_STATE

    def put(self, value: str, seen: CausalContext | None = None) -> CausalContext:
        """`seen` None: blindly over what is here. Returns what the client knows now."""
        self.counter += 1
        dot: Dot = (self.replica_id, self.counter)
        covered = self.state.context if seen is None else seen
        version = Version(value.encode(), tombstone=not value)
        self.state = write(self.state, covered, version, dot)
        return (seen or EMPTY_CONTEXT).add(dot)

    def hear(self, theirs: KeyState) -> None:
        """Own dots up to the counter are known; a higher one means that this copy has forgotten some."""
        if theirs.context.highest(self.replica_id) > self.counter:
            self.renew()
        own = {d for d in theirs.siblings if d[0] == self.replica_id and d not in self.state.siblings}
        kept = {d: v for d, v in theirs.siblings.items() if d not in own}
        self.state = merge(self.state, KeyState(kept, theirs.context))

    def renew(self) -> None:
        self.replica_id, self.counter = next(self.ids), 0


def values(*homes: Home) -> list[str]:
    """What a read of these homes shows."""
    state = EMPTY_STATE
    for home in homes:
        state = merge(state, home.state)
    return sorted(version.value.decode() for _, version in shown(state, 0))


# --- B3: a local read fails, the home takes "don't know" for "empty" ------------------------------------


def test_B3_a_failed_local_read_renews_the_id_so_no_acknowledged_write_is_dominated() -> None:
    a, b = Home(), Home()
    a.put("acknowledged")
    b.hear(a.state)
    a.state = EMPTY_STATE  # the record is unreadable
    a.renew()
    a.put("new", EMPTY_CONTEXT)
    assert values(a, b) == ["acknowledged", "new"]


def test_B3_with_the_old_id_the_next_write_would_dominate_the_forgotten_one() -> None:
    a, b = Home(), Home()
    a.put("acknowledged")
    b.hear(a.state)
    a.state = EMPTY_STATE
    a.put("new", EMPTY_CONTEXT)
    assert values(a, b) == ["new"]


# --- B4: the counter went back, and the old dots return through a stand-in or a repair ------------------


def _rolled_back_home() -> tuple[Home, Home]:
    """a made two writes; b has both; a came back without the second and does not know it."""
    a, b = Home(), Home()
    first = a.put("first")
    before = (a.state, a.counter)
    a.put("second", first)
    b.hear(a.state)
    a.state, a.counter = before
    return a, b


def test_B4_a_repair_that_shows_a_higher_own_counter_renews_the_id() -> None:
    a, b = _rolled_back_home()
    a.hear(b.state)
    a.put("third", EMPTY_CONTEXT)
    b.hear(a.state)
    assert values(a) == values(b) == ["second", "third"]


def test_B4_a_counter_that_went_back_would_give_one_dot_to_two_writes() -> None:
    a, b = _rolled_back_home()
    a.put("third", EMPTY_CONTEXT)  # before anything was heard, and with the id of before
    assert a.state.siblings.keys() & b.state.siblings.keys() != set()
    assert len(values(a, b)) < len({"second", "third"}), "one of two acknowledged writes is gone"


# --- B5: the same, learned from a write that somebody else coordinated ----------------------------------


def test_B5_an_own_dot_that_occurs_only_in_the_context_of_another_write_renews_the_id() -> None:
    """The client of the forgotten write goes on through b: the dot comes as a single one, in no vector."""
    a, b = Home(counter=5), Home()
    counter = a.counter
    token = a.put("forgotten", EMPTY_CONTEXT)
    a.state, a.counter = EMPTY_STATE, counter
    b.put("next", token)
    assert b.state.context.vector.get(a.replica_id) is None
    old_id = a.replica_id
    a.hear(b.state)
    assert a.replica_id != old_id
    a.put("other", EMPTY_CONTEXT)
    assert values(a, b) == ["next", "other"]


def test_B5_with_the_old_id_the_new_write_would_be_covered_before_it_is_made() -> None:
    a, b = Home(counter=5), Home()
    counter = a.counter
    token = a.put("forgotten", EMPTY_CONTEXT)
    a.state, a.counter = EMPTY_STATE, counter
    b.put("next", token)
    a.put("other", EMPTY_CONTEXT)  # the dot of the forgotten write
    assert values(a, b) == ["next"]


# --- B6, "doomstone": deleted, collected, written again, and then an old copy returns -------------------


def _deleted_and_collected() -> tuple[Home, Home, KeyState, KeyState]:
    """Two homes without a record, and two messages from before: the value and its tombstone."""
    a, b = Home(), Home()
    a.put("old")
    b.hear(a.state)
    old = b.state
    a.put("")
    b.hear(a.state)
    tombstone = b.state
    a.state = b.state = EMPTY_STATE
    return a, b, old, tombstone


def test_B6_an_old_tombstone_does_not_kill_the_write_that_came_after_it() -> None:
    a, b, _, tombstone = _deleted_and_collected()
    a.put("new", EMPTY_CONTEXT)
    b.hear(a.state)
    b.hear(tombstone)
    a.hear(tombstone)
    assert values(a) == values(b) == ["new"]


def test_B6_a_counter_per_key_would_start_again_under_the_tombstone() -> None:
    a, b, _, tombstone = _deleted_and_collected()
    a.counter = a.state.context.highest(a.replica_id)
    a.put("new", EMPTY_CONTEXT)
    b.hear(a.state)
    assert values(b) == ["new"]
    b.hear(tombstone)
    assert values(b) == []


def test_B6_a_home_without_a_record_knows_its_own_dots() -> None:
    a, _, old, _ = _deleted_and_collected()
    a.hear(old)
    assert values(a) == []


def test_B6_a_home_knows_its_own_dots_also_after_a_new_record_came_from_elsewhere() -> None:
    """The new record was made by another home and says nothing of the dots that were collected."""
    a, b, old, _ = _deleted_and_collected()
    b.put("new", EMPTY_CONTEXT)
    a.hear(b.state)
    a.hear(old)
    assert values(a) == ["new"]
    b.hear(a.state)
    b.hear(old)
    assert values(b) == ["new"]


def test_B6_merge_alone_would_bring_the_deleted_value_back() -> None:
    a, _, old, _ = _deleted_and_collected()
    a.state = merge(a.state, old)
    assert values(a) == ["old"]


# --- B7: a disk was cloned, and two copies write under one id -------------------------------------------


def _original_and_clone() -> tuple[Home, Home]:
    original, clone = Home(), Home()
    original.put("common")
    clone.replica_id, clone.counter, clone.state = original.replica_id, original.counter, original.state
    return original, clone


def test_B7_a_clone_that_renews_its_id_before_it_writes_loses_nothing() -> None:
    original, clone = _original_and_clone()
    clone.renew()
    original.put("one", original.state.context)
    clone.put("two", clone.state.context)
    assert values(original, clone) == ["one", "two"]


def test_B7_two_copies_with_one_id_would_give_one_dot_to_two_writes() -> None:
    """Nothing in the states tells: the causal parts are equal. So the id must go before the first write."""
    original, clone = _original_and_clone()
    original.put("one", original.state.context)
    clone.put("two", clone.state.context)
    assert original.state.context == clone.state.context
    assert len(values(original, clone)) == 1


def test_B7_a_clone_that_is_ahead_makes_the_other_renew() -> None:
    original, clone = _original_and_clone()
    clone.put("two", clone.state.context)
    old_id = original.replica_id
    original.hear(clone.state)
    assert original.replica_id != old_id
    original.put("one", EMPTY_CONTEXT)
    assert values(original, clone) == ["one", "two"]
