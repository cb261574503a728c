"""Each invariant has a breach that only it objects to; the real replica code breaches none."""

from __future__ import annotations

import asyncio
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.core.encoding import decode_state, encode_context, encode_state
from kvstore.core.limits import DEFAULT_LIMITS
from kvstore.core.message import Receipt
from kvstore.core.sibling import EMPTY_STATE, KeyState, Version, merge, write
from kvstore.core.vector_clock import EMPTY_CONTEXT, CausalContext, Dot, context_of
from kvstore.node.hybrid_time import HybridTime
from kvstore.node.ports import Kind
from kvstore.node.replica import Replica, _Copy
from kvstore.simulation.invariants import Invariants
from kvstore.storage.memory import MemoryDisk, MemoryStorage
from tests.node.world import Chance, Clock

KEY = b"b\0k"
A, B = 1, 2  # replica ids


def version(name: str) -> Version:
    return Version(name.encode(), operation_id=name.encode())


def made(name: str, dot: Dot, held: KeyState = EMPTY_STATE, token: CausalContext = EMPTY_CONTEXT) -> KeyState:
    return write(held, token, version(name), dot)


def read_hint(record_key: bytes, value: bytes) -> tuple[bytes, bytes]:
    return record_key[2:], value[4:]  # "n3" ‖ key, four bytes of header


class Watch(Invariants):
    def __init__(self) -> None:
        super().__init__(hint_reader=read_hint)

    def stores(self, node: str, state: KeyState, *, key: bytes = KEY, durable: bool = True) -> None:
        self.applied(node, [(Kind.DATA, 0, key, encode_state(state)), (Kind.COPY, 0, b"", b"copy")])
        if durable:
            self.synced(node, 1)

    def hints(self, node: str, state: KeyState) -> None:
        self.applied(node, [(Kind.HINT, 0, b"n3" + KEY, b"head" + encode_state(state))])
        self.synced(node, 1)

    def kinds(self) -> set[str]:
        assert {breach.invariant for breach in self.breaches} == set(self.counts)
        return set(self.counts)


@pytest.fixture
def watch() -> Watch:
    return Watch()


# --- I1 -------------------------------------------------------------------------------------------------


def test_a_dot_names_one_write_on_all_nodes(watch: Watch) -> None:
    watch.stores("n1", made("a", (A, 1)))
    watch.stores("n2", made("b", (A, 1)))
    assert watch.kinds() == {"I1"}
    assert watch.first is not None
    assert "names b'a' and b'b'" in watch.first.detail


def test_a_dot_names_one_write_after_the_disk_was_lost(watch: Watch) -> None:
    watch.stores("n1", made("a", (A, 1)))
    watch.wiped("n1")
    watch.stores("n1", made("b", (A, 1)))
    assert watch.kinds() == {"I1"}


def test_a_dot_names_one_write_even_if_a_crash_took_the_first_back(watch: Watch) -> None:
    """Another node, or a client, may have seen it."""
    watch.stores("n1", made("a", (A, 1)), durable=False)
    watch.crashed("n1", 1)
    watch.stores("n1", made("b", (A, 1)))
    assert watch.kinds() == {"I1"}


def test_a_dot_names_a_write_of_one_key(watch: Watch) -> None:
    watch.stores("n1", made("a", (A, 1)))
    watch.stores("n1", made("b", (A, 1)), key=b"b\0other")
    assert watch.kinds() == {"I1"}


def test_an_answer_shows_only_what_was_on_a_disk(watch: Watch) -> None:
    watch.answered(KEY, b"")
    watch.answered(KEY, encode_state(made("a", (A, 1))))
    assert watch.kinds() == {"I1"}


# --- I2 -------------------------------------------------------------------------------------------------


def test_a_context_covers_only_what_is_held_or_superseded(watch: Watch) -> None:
    """The shortcut of one maximal counter per id: (A, 3) known, so (A, 1) is taken for known."""
    watch.stores("n1", made("a", (A, 1)))
    watch.stores("n2", KeyState({(A, 3): version("c")}, CausalContext({A: 3})))
    assert watch.kinds() == set(), "its maker knows its own dots, and may have superseded the first"
    watch.asked(b"d", None)
    watch.stores("n2", KeyState({(A, 4): version("d")}, CausalContext({A: 4})))
    assert watch.kinds() == {"I2"}


def test_a_write_supersedes_only_what_its_token_covers(watch: Watch) -> None:
    first = made("a", (A, 1))
    watch.stores("n1", first)
    watch.asked(b"b", encode_context(EMPTY_CONTEXT))
    watch.stores("n1", made("b", (A, 2), first, first.context))
    assert watch.kinds() == {"I2"}


def test_a_write_with_its_token_may(watch: Watch) -> None:
    first = made("a", (A, 1))
    watch.stores("n1", first)
    watch.asked(b"b", encode_context(first.context))
    second = made("b", (A, 2), first, first.context)
    watch.stores("n1", second)
    watch.asked(b"c", encode_context(second.context))
    watch.stores("n2", made("c", (B, 1), EMPTY_STATE, second.context))
    assert watch.kinds() == set()


def test_nobody_covers_a_dot_before_it_is_made(watch: Watch) -> None:
    watch.stores("n1", KeyState({(A, 1): version("a")}, CausalContext({A: 1, B: 9})))
    watch.stores("n2", made("b", (B, 5)))
    assert watch.kinds() == {"I2"}


def test_the_answer_to_a_write_covers_no_sibling_of_it(watch: Watch) -> None:
    first = made("a", (A, 1))
    both = made("b", (A, 2), first)
    watch.stores("n1", first)
    watch.asked(b"b", None)
    watch.stores("n1", both)
    watch.acked(KEY, encode_context(context_of([(A, 2)])), 1)
    assert watch.kinds() == set()
    watch.acked(KEY, encode_context(both.context), 1)
    assert watch.kinds() == {"I2"}


def test_an_answer_is_judged_like_a_disk(watch: Watch) -> None:
    watch.stores("n1", made("a", (A, 1)))
    watch.stores("n2", made("b", (B, 1)))
    watch.answered(KEY, encode_state(KeyState({(B, 1): version("b")}, CausalContext({A: 1, B: 1}))))
    assert watch.kinds() == {"I2"}


# --- I4 -------------------------------------------------------------------------------------------------


def superseding() -> tuple[KeyState, KeyState]:
    old = made("a", (A, 1))
    return old, made("b", (A, 2), old, old.context)


def test_what_a_copy_has_dropped_does_not_return(watch: Watch) -> None:
    old, new = superseding()
    watch.stores("n1", old)
    watch.stores("n1", new)
    watch.stores("n1", KeyState({**old.siblings, **new.siblings}, new.context))
    assert watch.kinds() == {"I4"}


def test_a_context_does_not_shrink(watch: Watch) -> None:
    old = made("a", (A, 1))
    both = made("b", (A, 2), old)
    watch.stores("n1", old)
    watch.stores("n1", both)
    watch.stores("n1", old)
    assert watch.kinds() == {"I4"}


@pytest.mark.parametrize("how", ["crash", "wipe", "restore", "damage"])
def test_a_copy_may_start_again_from_less_when_it_lost_something(watch: Watch, how: str) -> None:
    old, new = superseding()
    watch.stores("n1", old)
    watch.stores("n1", new, durable=how != "crash")
    if how == "crash":
        watch.crashed("n1", 1)
    elif how == "wipe":
        watch.wiped("n1")
    elif how == "restore":
        watch.wiped("n1", [(Kind.DATA, 0, KEY, encode_state(old))])
    else:
        watch.damaged("n1", Kind.DATA, KEY)
    watch.stores("n1", old)
    assert watch.kinds() == set()


def test_a_crash_that_kept_the_drop_is_no_excuse(watch: Watch) -> None:
    old, new = superseding()
    watch.stores("n1", old)
    watch.stores("n1", new, durable=False)
    watch.crashed("n1", 0)
    watch.stores("n1", old)
    assert watch.kinds() == {"I4"}


def test_what_was_collected_does_not_return(watch: Watch) -> None:
    old = made("a", (A, 1))
    deleted = write(old, old.context, Version(b"", tombstone=True), (A, 2))
    watch.stores("n1", old)
    watch.stores("n1", deleted)
    watch.applied("n1", [(Kind.DATA, 0, KEY, None)])
    watch.stores("n1", made("c", (B, 1)))
    assert watch.kinds() == set()
    watch.stores("n1", merge(old, made("c", (B, 1))))
    assert watch.kinds() == {"I4"}


# --- I5 -------------------------------------------------------------------------------------------------


def test_a_value_is_not_collected(watch: Watch) -> None:
    watch.stores("n1", made("a", (A, 1)))
    watch.applied("n1", [(Kind.DATA, 0, KEY, None)])
    assert watch.kinds() == {"I5"}


def test_a_tombstone_may_return_to_a_home_that_dropped_it(watch: Watch) -> None:
    old = made("a", (A, 1))
    deleted = write(old, old.context, Version(b"", tombstone=True), (A, 2))
    watch.stores("n1", deleted)
    watch.applied("n1", [(Kind.DATA, 0, KEY, None)])
    watch.stores("n1", deleted)
    assert watch.kinds() == set()


# --- I6 -------------------------------------------------------------------------------------------------


def test_an_acknowledgement_has_its_copies_on_disk(watch: Watch) -> None:
    state = made("a", (A, 1))
    watch.stores("n1", state)
    watch.stores("n2", state, durable=False)
    context = encode_context(state.context)
    watch.acked(KEY, context, 1)
    assert watch.kinds() == set()
    watch.acked(KEY, context, 2)
    assert watch.kinds() == {"I6"}
    assert watch.first is not None
    assert watch.first.detail == "acknowledged with w=2, durable at n1"


def test_a_hint_is_a_copy_but_a_node_counts_once(watch: Watch) -> None:
    state = made("a", (A, 1))
    watch.stores("n1", state)
    watch.hints("n1", state)
    watch.hints("n2", state)
    watch.acked(KEY, encode_context(state.context), 2)
    assert watch.kinds() == set()
    watch.acked(KEY, encode_context(state.context), 3)
    assert watch.kinds() == {"I6"}


def test_a_copy_that_is_superseded_or_collected_or_lost_since_has_counted(watch: Watch) -> None:
    old = made("a", (A, 1))
    new = write(old, old.context, Version(b"", tombstone=True), (A, 2))
    for node in ("n1", "n2", "n3"):
        watch.stores(node, old)
        watch.stores(node, new)
    watch.applied("n1", [(Kind.DATA, 0, KEY, None)])
    watch.synced("n1", 1)
    watch.wiped("n2")
    watch.damaged("n3", Kind.DATA, KEY)
    watch.acked(KEY, encode_context(old.context), 3)
    assert watch.kinds() == set()


def test_a_copy_of_something_else_does_not_count(watch: Watch) -> None:
    watch.stores("n1", made("a", (A, 1)))
    watch.stores("n2", made("b", (B, 1)))
    watch.acked(KEY, encode_context(context_of([(A, 1)])), 2)
    assert watch.kinds() == {"I6"}


# --- the rest -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("votes", "breaches"),
    [
        ([("n1", "same"), ("n2", "same")], set()),
        ([("n1", "same"), ("n1", "hinted")], set()),
        ([("n1", "same"), ("n1", "older")], {"votes"}),
        ([("n1", "same")], {"votes"}),
    ],
)
def test_a_read_counts_distinct_homes_and_enough(
    watch: Watch, votes: list[tuple[str, str]], breaches: set[str]
) -> None:
    replicas = tuple((node, 1.0, what) for node, what in votes)
    watch.counted(KEY, "n1", Receipt("n1", 3, 2, 2, replicas))
    assert watch.kinds() == breaches


def test_what_is_written_parses(watch: Watch) -> None:
    watch.applied("n1", [(Kind.DATA, 0, KEY, b"rubbish")])
    assert watch.kinds() == {"I9"}


def test_the_disk_tells_it_all() -> None:
    """The observer of a MemoryDisk, through a crash that keeps half of its tail."""

    async def scenario() -> None:
        watch, disk = Watch(), MemoryDisk()
        disk.observer = watch.of("n1")
        storage = MemoryStorage(disk)
        old, new = superseding()
        storage.apply([(Kind.DATA, 0, KEY, encode_state(old))])
        await storage.sync()
        storage.apply([(Kind.DATA, 0, KEY, encode_state(new))])
        storage.apply([(Kind.DATA, 0, KEY, encode_state(made("c", (A, 3), new)))])
        watch.acked(KEY, encode_context(context_of([(A, 1)])), 1)
        assert watch.kinds() == set()
        disk.crash(keep_batches=1)
        watch.acked(KEY, encode_context(new.context), 1)
        assert watch.kinds() == set()
        watch.acked(KEY, encode_context(context_of([(A, 3)])), 1)
        assert watch.kinds() == {"I6"}
        disk.flip_bit(Kind.DATA, 0, KEY)
        disk.wipe()
        MemoryStorage(disk).apply([(Kind.DATA, 0, KEY, encode_state(old))])
        assert watch.kinds() == {"I6"}

    asyncio.run(scenario())


class Trio:
    """Three real replicas of one partition, messages that arrive late or never, crashes, lost disks."""

    def __init__(self, seed: int) -> None:
        self.random, self.watch = random.Random(seed), Watch()
        self.disks = [MemoryDisk() for _ in range(3)]
        for number, disk in enumerate(self.disks):
            disk.observer = self.watch.of(f"n{number}")
        self.replicas = [self.started(number) for number in range(3)]
        self.messages: list[tuple[int, bytes]] = []
        self.tokens: list[CausalContext | None] = [None]
        self.writes = self.starts = 0

    def started(self, number: int) -> Replica:
        storage = MemoryStorage(self.disks[number])
        chance = Chance(self.random.getrandbits(32))
        clock = Clock()
        replica = Replica(storage, chance, HybridTime(clock, DEFAULT_LIMITS.clock_skew_max_s), DEFAULT_LIMITS)
        replica.start()
        return replica

    async def step(self) -> None:
        number = self.random.randrange(3)
        replica, disk = self.replicas[number], self.disks[number]
        events = ["write", "deliver", "read", "sync", "crash", "wipe"]
        what = self.random.choices(events, [6, 8, 4, 3, 1, 0.3])
        match what[0]:
            case "write":
                token = self.random.choice(self.tokens[-4:])
                name = f"w{self.writes}"
                self.writes += 1
                context = None if token is None else encode_context(token)
                self.watch.asked(name.encode(), context)
                minted = replica.write(0, KEY, version(name), context=token, blind="sibling")
                self.messages += [(n, minted.state) for n in range(3) if n != number]
                self.tokens.append((token or EMPTY_CONTEXT).add(minted.dot))
                if self.random.random() < 0.5:
                    await replica.sync()
                    self.watch.acked(KEY, encode_context((token or EMPTY_CONTEXT).add(minted.dot)), 1)
            case "deliver" if self.messages:
                target, state = self.messages.pop(self.random.randrange(len(self.messages)))
                self.replicas[target].store(0, KEY, state)
            case "read":
                state = replica.read(0, KEY)
                self.watch.answered(KEY, state)
                if state:
                    self.messages.append((self.random.randrange(3), state))
                    self.tokens.append(decode_state(state).context)
            case "sync":
                await replica.sync()
            case "crash":
                disk.crash(self.random.randrange(3))
                self.replicas[number] = self.started(number)
            case "wipe":
                disk.crash()
                disk.wipe()
                self.replicas[number] = self.started(number)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(10, 200))
def test_the_real_replica_breaches_nothing(seed: int, steps: int) -> None:
    async def scenario() -> None:
        trio = Trio(seed)
        for _ in range(steps):
            await trio.step()
        assert trio.watch.breaches == []

    asyncio.run(scenario())


def same_id_again(self: Replica, partition: int) -> _Copy:
    """What forgot its dots makes them once more."""
    disk = self._storage.disk  # type: ignore[attr-defined]
    copy = self._copies[partition] = _Copy(id(disk), 0)
    return copy


def merge_the_newest(a: KeyState, b: KeyState) -> KeyState:
    joined = merge(a, b)
    return KeyState(dict(sorted(joined.siblings.items())[-1:]), joined.context)


def merge_without_contexts(a: KeyState, b: KeyState) -> KeyState:
    return KeyState({**a.siblings, **b.siblings}, a.context.join(b.context))


def supersede_all(held: KeyState, _token: CausalContext, new: Version, dot: Dot) -> KeyState:
    return write(held, held.context, new, dot)


def largest_counters(self: CausalContext, dot: Dot) -> CausalContext:
    return self.advance(dot)


@pytest.mark.parametrize(
    ("where", "planted", "invariant"),
    [
        ("kvstore.node.replica.Replica._renew", same_id_again, "I1"),
        ("kvstore.core.encoding.merge", merge_the_newest, "I2"),
        ("kvstore.core.encoding.merge", merge_without_contexts, "I4"),
        ("kvstore.node.replica.write", supersede_all, "I2"),
        ("kvstore.core.vector_clock.CausalContext.add", largest_counters, "I2"),
    ],
)
def test_a_planted_bug_is_a_breach(
    where: str, planted: object, invariant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(seed: int) -> set[str]:
        trio = Trio(seed)
        for _ in range(100):
            await trio.step()
        return trio.watch.kinds()

    monkeypatch.setattr(where, planted)
    assert any(invariant in asyncio.run(scenario(seed)) for seed in range(40))


def test_a_batch_costs_microseconds() -> None:
    watch = Watch()
    state, states = EMPTY_STATE, []
    for counter in range(1, 400):
        state = made(f"w{counter}", (A + counter % 5, counter), state, state.context)
        states.append(encode_state(state))
    began_s = time.perf_counter()
    for encoded in states:
        for node in ("n1", "n2", "n3"):
            watch.applied(node, [(Kind.DATA, 0, KEY, encoded)])
            watch.synced(node, 1)
    per_batch_us = (time.perf_counter() - began_s) / (3 * len(states)) * 1e6
    assert watch.kinds() == set()
    assert per_batch_us < 200, "about 10 were measured, most of it the one decoding per state"
