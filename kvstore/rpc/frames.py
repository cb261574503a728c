"""Frames: length, MAC, payload. Sans-I/O, one object per direction.

    frame   = length: u32 of the payload ‖ MAC: 16 bytes ‖ payload
    MAC     = blake2b(sequence number: u64 ‖ payload), keyed with the key of this connection and direction
    payload = msgpack array of messages

The sequence number is counted, not sent: a frame that is forged, altered, repeated, left out or moved,
or that comes from another connection, does not verify, and there is no way on from there.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from hashlib import blake2b
from hmac import compare_digest

from kvstore.rpc.decoding import MalformedFrame

LENGTH_BYTES = 4
MAC_BYTES = 16
HEADER_BYTES = LENGTH_BYTES + MAC_BYTES
PAYLOAD_OVERHEAD_BYTES = 3

_ARRAY = struct.Struct(
    ">BH"
).pack  # array of up to 65,535 elements; being written by hand keeps them as they are


class Sealer:
    """The sending end of one direction."""

    __slots__ = ("_keyed", "_sequence")

    def __init__(self, key: bytes) -> None:
        self._keyed = blake2b(key=key, digest_size=MAC_BYTES)
        self._sequence = 0

    def seal(self, messages: Collection[bytes]) -> bytes:
        """One frame of these encoded messages. The caller keeps it within what the other side takes."""
        payload = b"".join((_ARRAY(0xDC, len(messages)), *messages))
        # Copying a keyed hash saves hashing the key again: 0.6 µs instead of 0.75 µs for a short payload,
        # and 1.2 ns per byte from there on.
        mac = self._keyed.copy()
        mac.update(self._sequence.to_bytes(8, "big"))
        mac.update(payload)
        self._sequence += 1
        return b"".join((len(payload).to_bytes(LENGTH_BYTES, "big"), mac.digest(), payload))


class Opener:
    """The receiving end of one direction."""

    __slots__ = ("_buffer", "_bytes_max", "_keyed", "_needed", "_sequence")

    def __init__(self, key: bytes, frame_bytes_max: int) -> None:
        self._keyed = blake2b(key=key, digest_size=MAC_BYTES)
        self._bytes_max = frame_bytes_max
        self._sequence = 0
        self._buffer = bytearray()
        self._needed = 0

    def feed(self, data: bytes) -> Iterator[memoryview]:
        """The verified payloads that `data` completes. Raises MalformedFrame.

        A frame in parts is gathered in one buffer and copied once when it is whole: n bytes in however
        many parts cost O(n). The length is checked as soon as it is there; memory grows with what has
        arrived, never with what was announced (B30).
        """
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._needed:
                return
            data = bytes(self._buffer)
            self._buffer = bytearray()
        view, start, end = memoryview(data), 0, len(data)
        self._needed = LENGTH_BYTES
        while end - start >= LENGTH_BYTES:
            length = int.from_bytes(data[start : start + LENGTH_BYTES], "big")
            if length > self._bytes_max:
                raise MalformedFrame(f"a frame of {length} bytes, the limit is {self._bytes_max}")
            stop = start + HEADER_BYTES + length
            if stop > end:
                self._needed = HEADER_BYTES + length
                break
            payload = view[start + HEADER_BYTES : stop]
            self._verify(data[start + LENGTH_BYTES : start + HEADER_BYTES], payload)
            yield payload
            start = stop
        if start < end:
            self._buffer += view[start:]

    def _verify(self, claimed: bytes, payload: memoryview) -> None:
        mac = self._keyed.copy()
        mac.update(self._sequence.to_bytes(8, "big"))
        mac.update(payload)
        if not compare_digest(mac.digest(), claimed):
            raise MalformedFrame(f"frame {self._sequence} does not verify")
        self._sequence += 1
