"""Request bodies by the hundred thousand: whatever they hold, the answer is one a client can act upon."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from typing import Any

import msgpack
import pytest

from kvstore.core.limits import DEFAULT_LIMITS
from kvstore.httpapi import HttpServer
from kvstore.httpapi.connection import Connection
from tests.httpapi.fake_service import FakeService
from tests.strangers.memory import MIB, resident_bytes

GROWTH_BYTES_MAX = 16 * MIB
FORGET_EVERY = 100  # so that what grows is not the store

ITEMS: list[dict[str, Any]] = [
    {"op": "get", "bucket": "users", "key": "ann", "options": {"r": 2, "resolve": "lww"}},
    {
        "op": "put",
        "bucket": "users",
        "key": "ann",
        "value": "v",
        "idempotency_key": "op-1",
        "meta": {"a": "b"},
    },
    {"op": "put", "bucket": "b", "key_base64": "AP8=", "value_base64": "AAEC", "content_type": "text/plain"},
    {"op": "delete", "bucket": "users", "key": "bob", "if_match": '"0123456789abcdef"', "context": "AAAA"},
]
PROPERTIES = {
    "n": 3,
    "r": 2,
    "w": 2,
    "conflict": "siblings",
    "blind": "sibling",
    "ttl_s": 60.5,
    "sloppy": True,
}
BODIES = [
    ("POST", "/v1/batch", "application/json", json.dumps(ITEMS).encode()),
    ("POST", "/v1/batch", "application/x-ndjson", b"\n".join(json.dumps(item).encode() for item in ITEMS)),
    ("POST", "/v1/batch", "application/msgpack", msgpack.packb([{**i, "value": b"v"} for i in ITEMS])),
    ("PUT", "/v1/buckets/users", "application/json", json.dumps(PROPERTIES).encode()),
    ("PUT", "/v1/kv/users/ann", "text/plain", b"a value of its own"),
]
BITS = [
    b"[" * 3000, b"{", b'"\\ud800"', b"\\udfff", b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"null",
    b"\x00", b"true", b"[]", b"{}", b'""', b"-1", b"0.1", b'"\xff"', b"\xc1", b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xc7\x04\x05abcd", b"\xd6\xff\x00\x00\x00\x00",
    b"\x91" * 2000, b"\xcb\x7f\xf0" + b"\x00" * 6,
]  # fmt: skip
"""What parsers dislike, of JSON and msgpack."""


def mutated(body: bytes, chance: random.Random) -> bytes:
    """Differs from `body`."""
    altered = bytearray(body)
    while altered == body:
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(altered) + 1)
            to = min(len(altered), at + chance.randint(1, 9))
            match chance.randrange(6):
                case 0 if at < len(altered):
                    altered[at] ^= 1 << chance.randrange(8)
                case 1:
                    altered[at:at] = chance.randbytes(chance.randint(1, 9))
                case 2:
                    altered[at:to] = chance.choice(BITS)
                case 3:
                    altered[at:to] = altered[chance.randrange(len(altered) + 1) :][: to - at + 3]
                case 4:
                    del altered[at : at + chance.randint(1, 40)]
                case _:
                    altered[at:to] = b""
    return bytes(altered)


class Wire(asyncio.Transport):
    """The client's end: a connection of the server without a socket."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += data

    def writelines(self, parts: Any) -> None:
        for part in parts:
            self.written += part

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else default

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def answer(self) -> tuple[int, bytes] | None:
        """(status, body) of the answer that is there, whole; None if it is not yet."""
        head, end, rest = bytes(self.written).partition(b"\r\n\r\n")
        if not end:
            return None
        length = 0
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        if len(rest) < length:
            return None
        del self.written[:]
        return int(head.split()[1]), rest


class Server:
    def __init__(self) -> None:
        self.service = FakeService(DEFAULT_LIMITS)
        self.reports: list[tuple[str, dict[str, Any]]] = []
        self.server = HttpServer(
            self.service, report=lambda event, **fields: self.reports.append((event, fields))
        )
        self._wire = Wire()
        self._wire.closed = True
        self._connection: Connection

    async def ask(self, method: str, target: str, media: str, body: bytes) -> tuple[int, bytes]:
        if self._wire.closed:
            self._wire = Wire()
            accepted = self.server._accept()
            assert isinstance(accepted, Connection)
            accepted.connection_made(self._wire)
            self._connection = accepted
        head = (
            f"{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Type: {media}\r\nContent-Length: {len(body)}"
        )
        self._connection.data_received(f"{head}\r\n\r\n".encode() + body)
        async with asyncio.timeout(10):
            while (answer := self._wire.answer()) is None:
                await asyncio.sleep(0)
        if self._wire.closed:
            self._connection.connection_lost(None)
        return answer

    def forget(self) -> None:
        """What the fake node keeps, and a real one has on disk or refuses."""
        self.service.seen.clear()
        self.service.states.clear()
        self.service.properties.clear()

    async def close(self) -> None:
        if not self._wire.closed:
            self._connection.connection_lost(None)
        await self.server.close()


async def mutate(seed: int, count: int) -> Counter[int]:
    """Sends so many bodies that differ from any honest one; statuses, of the items of a batch too."""
    server, chance, statuses = Server(), random.Random(seed), Counter[int]()
    await server.server.start("127.0.0.1", 0)
    before_bytes = 0
    for number in range(count):
        if number == count // 5:
            before_bytes = resident_bytes()
        method, target, media, honest = BODIES[number % len(BODIES)]
        body = mutated(honest, chance)
        status, answer = await server.ask(method, target, media, body)
        statuses[status] += 1
        assert status < 500, (status, media, body[:500], answer)
        if status >= 400:
            assert json.loads(answer)["status"] == status
        elif target == "/v1/batch" and media == "application/json":
            for entry in json.loads(answer):
                assert entry["status"] < 500, (entry, body[:500])
                statuses[entry["status"]] += 1
        elif media == "text/plain":
            stored = server.service.state("users", b"ann").siblings.values()
            assert body in [version.value for version in stored], "any bytes are a value"
        assert not server.reports, server.reports
        if number % FORGET_EVERY == 0:
            server.forget()
    grown = resident_bytes() - before_bytes
    await server.close()
    assert grown < GROWTH_BYTES_MAX, f"{grown} bytes more than after the first fifth"
    return statuses


def test_mutated_bodies() -> None:
    statuses = asyncio.run(mutate(1, 2_000))
    assert statuses[400] > 500 < statuses[204] + statuses[200]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_hundred_thousand_mutated_bodies() -> None:
    statuses = asyncio.run(mutate(20_251_125, 200_000))
    print(f"\n200,000 mutated bodies, answers and items of batches by status: {dict(statuses)}")
    assert statuses[400] > 50_000
    assert statuses[200] > 1_000
