"""What waits to be sent on one connection: a queue per class, bounded, in order of class.

One count of bytes (and one of calls) has a ceiling per class, each above the last: background work may
fill half of the room, data all of it, control a little more. So data leaves no room to background work
when it needs all, and neither can keep the cluster from talking about itself. Sent first is control,
then data, then background.
"""

from __future__ import annotations

from kvstore.rpc.frames import PAYLOAD_OVERHEAD_BYTES
from kvstore.rpc.wire import CallClass

FRAME_TARGET_BYTES = 64 * 1024
"""A frame is closed at this size: the other side can act on nothing before the frame is whole.

With at least 9 bytes a message this also keeps the messages of a frame below ITEMS_MAX.
"""

CLASSES: tuple[int, ...] = tuple(CallClass)
"""In the order in which they are sent."""


def ceilings(most: int) -> tuple[int, int, int]:
    """The bound of each class, where `most` is that of data: for data, background, control in turn."""
    return most, max(1, most // 2), most + max(1, most // 8)


class Outbox:
    """Encoded messages by a key that is unique among those waiting."""

    __slots__ = ("_ceilings", "_frame_bytes", "_queues", "bytes")

    def __init__(self, bytes_max: int, frame_bytes_max: int) -> None:
        self._ceilings = ceilings(bytes_max)
        self._frame_bytes = min(FRAME_TARGET_BYTES, frame_bytes_max - PAYLOAD_OVERHEAD_BYTES)
        self._queues: tuple[dict[int, bytes], ...] = tuple({} for _ in CallClass)
        self.bytes = 0

    def add(self, class_: int, key: int, message: bytes) -> bool:
        """False, and nothing added, at the ceiling of the class. An empty outbox takes any message."""
        total = self.bytes + len(message)
        if total > self._ceilings[class_] and self.bytes:
            return False
        self._queues[class_][key] = message
        self.bytes = total
        return True

    def drop(self, class_: int, key: int) -> bool:
        """Whether it was still here: then it has not been sent, and will not be."""
        message = self._queues[class_].pop(key, None)
        if message is None:
            return False
        self.bytes -= len(message)
        return True

    def take(self) -> dict[int, bytes]:
        """The messages of the next frame, at least one if there are any; they are gone from here."""
        taken: dict[int, bytes] = {}
        if self.bytes <= self._frame_bytes:
            for class_ in CLASSES:
                if queue := self._queues[class_]:
                    taken.update(queue)
                    queue.clear()
            self.bytes = 0
            return taken
        size = 0
        for class_ in CLASSES:
            queue = self._queues[class_]
            for key, message in queue.items():
                if taken and size + len(message) > self._frame_bytes:
                    break
                taken[key] = message
                size += len(message)
            for key in taken.keys() & queue.keys():
                del queue[key]
            if queue:  # what did not fit must not be overtaken by a smaller one of a lower class
                break
        self.bytes -= size
        return taken

    def clear(self) -> None:
        for queue in self._queues:
            queue.clear()
        self.bytes = 0
