"""What one copy may do with its replica id. Each scenario lost data in another system of this kind."""

from __future__ import annotations

import random
from dataclasses import replace
from time import thread_time

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from kvstore.core.encoding import decode_causal, decode_state, encode_state, head_of
from kvstore.core.limits import DEFAULT_LIMITS, Limits
from kvstore.core.sibling import EMPTY_STATE, KeyState, Version, write
from kvstore.core.vector_clock import EMPTY_CONTEXT, CausalContext
from kvstore.errors import CorruptRecord, NotReady, TooLarge
from kvstore.node.hybrid_time import HybridTime
from kvstore.node.ports import Kind
from kvstore.node.replica import Minted, Replica
from kvstore.storage.memory import MemoryStorage
from tests.node.world import Chance, Clock

P, KEY = 7, b"b\0k"


def replica_on(storage: MemoryStorage, seed: int = 0) -> Replica:
    made = Replica(storage, Chance(seed), HybridTime(Clock(), 60.0), DEFAULT_LIMITS)
    made.start()
    return made


def put(replica: Replica, value: bytes, context: CausalContext | None = EMPTY_CONTEXT) -> Minted:
    return replica.write(P, KEY, Version(value), context=context, blind="overwrite")


def values(replica: Replica) -> list[bytes]:
    return sorted(v.value for v in decode_state(replica.read(P, KEY)).siblings.values())


async def test_a_clean_restart_keeps_the_id_and_the_counter() -> None:
    storage = MemoryStorage()
    replica = replica_on(storage)
    first = put(replica, b"1")
    replica.stop()
    await storage.close()
    second = put(replica_on(MemoryStorage(storage.disk)), b"2")
    assert second.dot == (first.dot[0], first.dot[1] + 1)


async def test_a_stopped_replica_writes_nothing_that_its_counters_on_disk_do_not_know() -> None:
    replica, other = replica_on(MemoryStorage()), replica_on(MemoryStorage(), seed=1)
    put(replica, b"1")
    replica.stop()
    with pytest.raises(NotReady):
        put(replica, b"2")
    with pytest.raises(NotReady):
        replica.store(P, KEY, put(other, b"3").state)


async def test_an_unclean_stop_renews_the_id() -> None:
    """The dot may have been seen by others and be forgotten here: it must not be made twice."""
    storage = MemoryStorage()
    replica = replica_on(storage)
    await storage.sync()
    first = put(replica, b"1")
    survivor = replica_on(storage.crash(keep_batches=0), seed=1)
    second = put(survivor, b"2")
    assert second.dot[0] != first.dot[0]
    survivor.store(P, KEY, first.state)
    assert values(survivor) == [b"1", b"2"]


async def test_b3_an_unreadable_record_renews_the_id_so_that_nothing_is_dominated() -> None:
    storage = MemoryStorage()
    replica = replica_on(storage)
    first = put(replica, b"acknowledged elsewhere")
    storage.disk.flip_bit(Kind.DATA, P, KEY, bit=99)
    with pytest.raises(CorruptRecord):
        replica.read(P, KEY)
    second = put(replica, b"new")
    assert second.dot[0] != first.dot[0]
    replica.store(P, KEY, first.state)
    assert values(replica) == [b"acknowledged elsewhere", b"new"]


@pytest.mark.parametrize("through", ["store", "context"])
async def test_b4_b5_a_counter_above_ours_in_any_message_renews_the_id(through: str) -> None:
    replica = replica_on(MemoryStorage())
    mine = put(replica, b"1").dot
    later = (mine[0], mine[1] + 5)
    if through == "store":
        foreign = write(EMPTY_STATE, EMPTY_CONTEXT, Version(b"later"), later)
        replica.store(P, KEY, encode_state(foreign))
        assert put(replica, b"2").dot[0] != mine[0]
    else:
        assert put(replica, b"2", CausalContext({}, frozenset({later}))).dot[0] != mine[0]


async def test_b6_a_home_without_a_record_knows_its_own_old_dots() -> None:
    """Delete, collect, and an old message returns: it must not bring the value back."""
    storage = MemoryStorage()
    replica = replica_on(storage)
    old = put(replica, b"deleted long ago")
    storage.apply([(Kind.DATA, P, KEY, None)])
    replica.store(P, KEY, old.state)
    assert values(replica) == []
    new = put(replica, b"rewritten", None)
    assert new.dot[1] > old.dot[1]
    replica.store(P, KEY, old.state)
    assert values(replica) == [b"rewritten"]


async def test_b6_nor_after_somebody_else_has_written_the_key_again() -> None:
    """Collected everywhere; another home's write makes the record anew; then comes the late message."""
    storage = MemoryStorage()
    replica = replica_on(storage)
    old = put(replica, b"deleted long ago")
    storage.apply([(Kind.DATA, P, KEY, None)])
    replica.store(P, KEY, encode_state(write(EMPTY_STATE, EMPTY_CONTEXT, Version(b"new"), (99, 1))))
    replica.store(P, KEY, old.state)
    assert values(replica) == [b"new"]


async def test_own_siblings_that_are_still_held_survive_their_return() -> None:
    replica = replica_on(MemoryStorage())
    one = put(replica, b"one")
    two = put(replica, b"two")
    replica.store(P, KEY, one.state)
    replica.store(P, KEY, two.state)
    assert values(replica) == [b"one", b"two"]


async def test_a_record_that_holds_its_checksum_but_does_not_parse_is_replaced() -> None:
    storage = MemoryStorage()
    replica = replica_on(storage)
    first = put(replica, b"v")
    storage.apply([(Kind.DATA, P, KEY, b"\x93 not a state")])
    replica.store(P, KEY, first.state)
    assert values(replica) == [b"v"]
    with pytest.raises(CorruptRecord):
        replica.store(P, KEY, b"\x93 nor is this")


async def test_siblings_that_no_frame_could_carry_are_refused_before_they_are_written() -> None:
    storage = MemoryStorage()
    replica = Replica(storage, Chance(0), HybridTime(Clock(), 60.0), Limits(state_bytes_max=3000))
    put(replica, b"x" * 1000)
    put(replica, b"y" * 1000)
    with pytest.raises(TooLarge, match="siblings would have"):
        put(replica, b"z" * 1000)
    assert len(values(replica)) == 2


async def test_a_foreign_write_to_a_key_without_a_record_is_kept_byte_for_byte() -> None:
    replica = replica_on(MemoryStorage())
    foreign = encode_state(write(EMPTY_STATE, EMPTY_CONTEXT, Version(b"v"), (99, 1)))
    replica.store(P, KEY, foreign)
    assert replica.read(P, KEY) == foreign


async def test_renewed_ids_are_kept_by_a_clean_stop() -> None:
    storage = MemoryStorage()
    replica = replica_on(storage)
    first = put(replica, b"1")
    replica.renew_all()
    second = put(replica, b"2")
    assert second.dot[0] != first.dot[0]
    replica.stop()
    await storage.close()
    assert put(replica_on(MemoryStorage(storage.disk)), b"3").dot == (second.dot[0], 2)


async def test_counters_of_an_earlier_stop_are_not_found_by_a_later_start() -> None:
    """The storage may close cleanly although the replica could not write its counters: the disk was full."""
    storage = MemoryStorage()
    replica = replica_on(storage)
    first = put(replica, b"1")
    replica.stop()
    await storage.close()
    storage = MemoryStorage(storage.disk)
    second = put(replica_on(storage), b"2")
    assert second.dot[0] == first.dot[0]
    await storage.close()
    assert put(replica_on(MemoryStorage(storage.disk), seed=1), b"3").dot[0] != first.dot[0]


async def test_counters_are_shared_by_all_keys_of_a_copy_and_never_go_back() -> None:
    replica = replica_on(MemoryStorage())
    dots = [
        replica.write(P, b"b\0%d" % random.randrange(5), Version(b"v"), context=None, blind="overwrite").dot
        for _ in range(50)
    ]
    assert [dot[1] for dot in dots] == list(range(1, 51))
    assert len({dot[0] for dot in dots}) == 1


async def test_storing_what_is_held_writes_nothing() -> None:
    storage = MemoryStorage()
    replica = replica_on(storage)
    state = put(replica, b"v").state
    applied = storage.disk.unsynced_batches
    replica.store(P, KEY, state)
    replica.store(P, KEY, encode_state(KeyState()))
    assert storage.disk.unsynced_batches == applied


@given(st.integers(0, 1 << 32))
def test_a_base_is_a_short_cut_and_changes_nothing(seed: int) -> None:
    """Three writers, each with two readers behind it: one takes the short cut, the other never does."""
    chance = random.Random(seed)
    writers = [replica_on(MemoryStorage(), seed=i) for i in range(3)]
    quick, slow = replica_on(MemoryStorage(), seed=7), replica_on(MemoryStorage(), seed=7)
    taken = 0
    for number in range(chance.randrange(1, 30)):
        writer = chance.choice(writers)
        context = chance.choice([None, EMPTY_CONTEXT, known(writer), known(chance.choice(writers))])
        mode = chance.choice(["overwrite", "sibling"])
        made = writer.write(P, KEY, Version(b"%d" % number), context=context, blind=mode)
        for other in writers:
            if chance.random() < 0.6:
                other.store(P, KEY, made.state, made.base, made.dot[0])
        if chance.random() < 0.7:
            taken += bool(made.base) and quick.read(P, KEY).startswith(made.base)
            quick.store(P, KEY, made.state, made.base, made.dot[0])
            slow.store(P, KEY, made.state)
            assert quick.read(P, KEY) == slow.read(P, KEY)
    event(f"short cuts: {min(taken, 3)}")


def known(replica: Replica) -> CausalContext:
    state = replica.read(P, KEY)
    return decode_causal(state).context if state else EMPTY_CONTEXT


async def test_b7_a_clone_of_the_writer_gets_no_short_cut() -> None:
    """The state says that our own id made a dot we know nothing of: only the long way notices."""
    storage = MemoryStorage()
    replica = replica_on(storage)
    first = put(replica, b"1")
    clone = Replica(MemoryStorage(), Chance(0), HybridTime(Clock(), 60.0), DEFAULT_LIMITS)
    clone._copies = {P: type(replica._copies[P])(*first.dot)}
    clone.store(P, KEY, first.state)
    second = put(clone, b"2", None)
    assert second.dot == (first.dot[0], first.dot[1] + 1)
    assert second.base
    replica.store(P, KEY, second.state, second.base, second.dot[0])
    assert put(replica, b"3", None).dot[0] != first.dot[0]


async def test_a_state_of_another_format_is_refused_also_on_the_short_way() -> None:
    replica = replica_on(MemoryStorage())
    put(replica, b"1")
    made = put(replica, b"2", None)
    base = made.state[:20]
    with pytest.raises(CorruptRecord):
        replica.store(P, KEY, b"\x93\x02" + made.state[2:], base, 1)
    assert values(replica) == [b"2"]


@pytest.mark.parametrize("start", [b"\x93\x01\xc0", b"\x93\x01"])
async def test_what_does_not_begin_as_a_state_is_refused_before_it_is_stored(start: bytes) -> None:
    replica = replica_on(MemoryStorage())
    put(replica, b"1")
    held = replica.read(P, KEY)
    with pytest.raises(CorruptRecord):
        replica.store(P, KEY, start, head_of(held), 1)
    assert replica.read(P, KEY) == held


async def test_b3_siblings_that_became_unreadable_after_their_head_was_read() -> None:
    """The write cannot keep them beside itself: it is made by a new writer, and dominates none of them."""
    storage = MemoryStorage()
    replica, other = replica_on(storage), replica_on(MemoryStorage(), seed=1)
    first = put(replica, b"1")
    storage.disk.flip_bit(Kind.DATA, P, KEY, bit=99)
    second = put(replica, b"2", EMPTY_CONTEXT)
    assert second.dot[0] != first.dot[0]
    other.store(P, KEY, first.state)
    other.store(P, KEY, second.state)
    assert values(other) == [b"1", b"2"]


async def test_a_write_over_an_unreadable_record_whose_head_is_known_supersedes_exactly_that() -> None:
    storage = MemoryStorage()
    replica, other = replica_on(storage), replica_on(MemoryStorage(), seed=1)
    first = put(replica, b"1")
    storage.disk.flip_bit(Kind.DATA, P, KEY, bit=99)
    second = put(replica, b"2", None)
    assert second.dot == (first.dot[0], first.dot[1] + 1)
    other.store(P, KEY, first.state)
    other.store(P, KEY, second.state)
    assert values(replica) == values(other) == [b"2"]


@pytest.mark.parametrize("heads_max", [0, 1, 2])
async def test_heads_in_memory_are_bounded_and_change_nothing(heads_max: int) -> None:
    limits = replace(DEFAULT_LIMITS, heads_max=heads_max)
    few = Replica(MemoryStorage(), Chance(3), HybridTime(Clock(), 60.0), limits)
    many = Replica(MemoryStorage(), Chance(3), HybridTime(Clock(), 60.0), DEFAULT_LIMITS)
    for number in range(40):
        key = b"b\0%d" % (number % 4)
        made = [
            each.write(P, key, Version(b"%d" % number), context=None, blind="sibling") for each in (few, many)
        ]
        assert made[0] == made[1]
        assert len(few._heads) <= heads_max


async def test_forgetting_the_oldest_head_costs_no_more_than_remembering_it() -> None:
    """With a dict it cost 20 times as much, and 200 times in a busy node: a put of 1,000,000 keys took twice
    the processor time of one of 10,000."""
    replica, count = replica_on(MemoryStorage()), 20_000

    def took_s(first: int) -> float:
        keys = [b"b\0%d" % number for number in range(first, first + count)]
        began_s = thread_time()
        for key in keys:
            replica._remember(key, b"head")
        return thread_time() - began_s

    first_s = min(took_s(0), took_s(count))
    while len(replica._heads) < DEFAULT_LIMITS.heads_max:
        took_s(len(replica._heads))
    full_s = min(took_s(number * count) for number in range(10, 13))
    assert full_s < 8 * first_s
