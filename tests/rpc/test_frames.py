"""Frames: whatever happens to the bytes on the way, what comes out is a prefix of what was sent."""

from __future__ import annotations

import random
import time
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.rpc.decoding import MalformedFrame, messages_of
from kvstore.rpc.frames import HEADER_BYTES, Opener, Sealer

KEY, OTHER = b"k" * 32, b"o" * 32
LIMIT = 1 << 20

batches = st.lists(st.lists(st.binary(max_size=30).map(lambda b: b"\xc4" + bytes([len(b)]) + b), max_size=4))


def seal(sent: list[list[bytes]], key: bytes = KEY) -> list[bytes]:
    sealer = Sealer(key)
    return [sealer.seal(messages) for messages in sent]


def receive(opener: Opener, parts: list[bytes]) -> tuple[list[bytes], bool]:
    """The payloads that came out, and whether the opener gave up."""
    payloads: list[bytes] = []
    try:
        for part in parts:
            payloads += map(bytes, opener.feed(part))
    except MalformedFrame:
        return payloads, True
    return payloads, False


def payloads_of(sent: list[list[bytes]]) -> list[bytes]:
    return [frame[HEADER_BYTES:] for frame in seal(sent)]


def cut(data: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted(i % (len(data) + 1) for i in at), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


@given(batches, st.lists(st.integers(0, 10**6), max_size=8))
def test_frames_arrive_whole_however_they_are_cut(sent: list[list[bytes]], at: list[int]) -> None:
    payloads, gave_up = receive(Opener(KEY, LIMIT), cut(b"".join(seal(sent)), at))
    assert not gave_up
    assert payloads == payloads_of(sent)
    assert [len(messages_of(memoryview(payload))) for payload in payloads] == list(map(len, sent))


@given(batches.filter(len), st.data())
def test_one_altered_byte_ends_it_there(sent: list[list[bytes]], data: st.DataObject) -> None:
    frames = seal(sent)
    index = data.draw(st.integers(0, len(frames) - 1))
    frame = bytearray(frames[index])
    at = data.draw(st.integers(0, len(frame) - 1))
    frame[at] ^= data.draw(st.integers(1, 255))
    frames[index] = bytes(frame)
    payloads, gave_up = receive(Opener(KEY, LIMIT), frames)
    assert payloads == payloads_of(sent)[:index]
    # A length that grew may wait for more; it will never verify.
    assert gave_up or at < 4


@given(batches.filter(lambda b: len(b) > 1), st.randoms(use_true_random=False))
def test_replayed_reordered_and_dropped_frames_end_it(sent: list[list[bytes]], chance: random.Random) -> None:
    frames = seal(sent)
    kind = chance.choice(["replay", "swap", "drop"])
    index = chance.randrange(len(frames) - 1)
    if kind == "replay":
        frames.insert(index + 1, frames[index])
    elif kind == "swap":
        frames[index], frames[index + 1] = frames[index + 1], frames[index]
    else:
        del frames[index]
    payloads, gave_up = receive(Opener(KEY, LIMIT), frames)
    assert gave_up
    assert payloads == payloads_of(sent)[: index + (kind == "replay")]


def test_a_frame_of_another_connection_or_direction_does_not_verify() -> None:
    """Both have keys of their own."""
    assert receive(Opener(KEY, LIMIT), seal([[b"\x01"]], OTHER)) == ([], True)


def test_a_length_over_the_limit_is_refused_when_it_is_read() -> None:
    """B30: nothing is waited for, nothing is allocated."""
    with pytest.raises(MalformedFrame, match="the limit is 100"):
        list(Opener(KEY, 100).feed((101).to_bytes(4, "big")))


def test_memory_grows_with_what_arrived_not_with_what_was_announced() -> None:
    """B30."""
    opener = Opener(KEY, 1 << 30)
    tracemalloc.start()
    try:
        assert list(opener.feed((1 << 30).to_bytes(4, "big") + bytes(1000))) == []
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_a_large_frame_in_many_parts_costs_its_size_once() -> None:
    """8 MiB in 8,192 parts: copying all that is there for every part would move 32 GiB."""
    (frame,) = seal([[bytes(8 << 20)]])
    opener = Opener(KEY, 9 << 20)
    started_s = time.process_time()
    payloads, gave_up = receive(opener, [frame[i : i + 1024] for i in range(0, len(frame), 1024)])
    assert time.process_time() - started_s < 3
    assert not gave_up
    assert len(payloads) == 1


def mutated(stream: bytes, chance: random.Random) -> bytes:
    """One to three of the things that can happen to bytes."""
    data = bytearray(stream)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(6):
            case 0 if at < len(data):
                data[at] ^= 1 << chance.randrange(8)
            case 1:
                del data[at:]
            case 2:
                data[at:at] = chance.randbytes(chance.randint(1, 40))
            case 3:
                del data[at : at + chance.randint(1, 40)]
            case 4:
                data[at:at] = data[: chance.randint(0, len(data))]
            case _:
                data = bytearray(chance.randbytes(chance.randint(1, 200)))
    return bytes(data)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_hundred_thousand_bad_frames() -> None:
    """Nothing but a prefix of what was sent comes out, and memory stays where it was."""
    chance = random.Random(20240611)
    sent = [[b"\x93\x01\x02\xc4\x03abc", b"\xc0"], [b"\xc4\x05hello"], [b"\x91\x07"] * 5]
    stream, expected = b"".join(seal(sent)), payloads_of(sent)
    gave_up_count = complete = 0
    tracemalloc.start()
    try:
        for round_ in range(100_000):
            if round_ == 1000:
                before = tracemalloc.get_traced_memory()[0]
            bad = mutated(stream, chance)
            payloads, gave_up = receive(Opener(KEY, LIMIT), cut(bad, [chance.randrange(1000)]))
            assert payloads == expected[: len(payloads)], f"round {round_}"
            gave_up_count += gave_up
            complete += len(payloads) == len(expected)
        assert tracemalloc.get_traced_memory()[0] - before < 200_000
    finally:
        tracemalloc.stop()
    assert gave_up_count > 50_000  # it did something
    assert complete < 30_000
