"""What waits to be sent: order by class, room by class."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvstore.rpc.frames import PAYLOAD_OVERHEAD_BYTES
from kvstore.rpc.outbox import Outbox, ceilings
from kvstore.rpc.wire import CallClass

DATA, BACKGROUND, CONTROL = CallClass.DATA, CallClass.BACKGROUND, CallClass.CONTROL


def test_background_leaves_room_to_data_and_data_to_control() -> None:
    outbox = Outbox(800, 1 << 20)
    key = 0
    room = {}
    for class_ in (BACKGROUND, DATA, CONTROL):
        while outbox.add(class_, key, bytes(10)):
            key += 1
        room[class_] = outbox.bytes
    assert room == {BACKGROUND: 400, DATA: 800, CONTROL: 900}
    assert ceilings(800) == (800, 400, 900)


def test_an_empty_outbox_takes_a_message_of_any_size() -> None:
    outbox = Outbox(100, 1 << 20)
    assert outbox.add(BACKGROUND, 1, bytes(5000))
    assert not outbox.add(CONTROL, 2, b"x")


def test_control_is_sent_first_then_data_then_background() -> None:
    outbox = Outbox(1000, 1 << 20)
    for key, class_ in enumerate((BACKGROUND, DATA, CONTROL, BACKGROUND, DATA)):
        outbox.add(class_, key, b"x")
    assert list(outbox.take()) == [2, 1, 4, 0, 3]


@given(
    st.lists(st.tuples(st.sampled_from(CallClass), st.integers(1, 60))),
    st.sets(st.integers(0, 30)),
    st.integers(20, 100),
)
def test_everything_leaves_once_in_order_and_in_frames_of_the_size(
    messages: list[tuple[CallClass, int]], dropped: set[int], frame_bytes: int
) -> None:
    outbox = Outbox(1 << 20, frame_bytes + PAYLOAD_OVERHEAD_BYTES)
    for key, (class_, size) in enumerate(messages):
        assert outbox.add(class_, key, bytes(size))
    for key in dropped:
        assert outbox.drop(messages[key][0] if key < len(messages) else DATA, key) == (key < len(messages))
    frames = []
    while outbox.bytes:
        frames.append(outbox.take())
        assert frames[-1], "bytes are counted that are not there"
    assert outbox.take() == {}
    left = [key for frame in frames for key in frame]
    expected = [k for c in CallClass for k, (class_, _) in enumerate(messages) if class_ == c]
    assert left == [key for key in expected if key not in dropped]
    for frame in frames:
        assert len(frame) == 1 or sum(map(len, frame.values())) <= frame_bytes
