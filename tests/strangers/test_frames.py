"""Peer frames by the million: altered ones end their connection, replayed and forged ones do nothing."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from kvstore.core.message import Reply, Request, Store
from kvstore.rpc import wire
from kvstore.rpc.frames import Sealer
from kvstore.rpc.peer_server import PeerServer
from tests.rpc.support import BOB, identity
from tests.rpc.test_hostile import read_and_store
from tests.rpc.wireless import STORE, Wireless, garbled
from tests.strangers.memory import MIB, resident_bytes

GROWTH_BYTES_MAX = 16 * MIB


class Server:
    """A node's end: every request that was taken, and what the node said was its own fault."""

    def __init__(self) -> None:
        self.taken: list[Request] = []
        self.broken: list[Any] = []
        self.keep = True

    @asynccontextmanager
    async def running(self) -> AsyncIterator[PeerServer]:
        """Leaves no session behind."""
        server = PeerServer(
            identity(BOB),
            self._answer,
            report=lambda event, **fields: self.broken.append(fields) if event == "request failed" else None,
        )
        await server.start("127.0.0.1:0")
        try:
            yield server
            assert not server._sessions
        finally:
            await server.close(0)

    def _answer(self, sender: str, request: Request, deadline_s: float) -> Reply:
        if self.keep:
            self.taken.append(request)
        return read_and_store(sender, request, deadline_s)


# --- mutated ------------------------------------------------------------------------------------------------


def damaged(frame: bytes, chance: random.Random) -> bytes:
    """The bytes of a sealed frame, altered in its length, its MAC or its payload."""
    altered = bytearray(frame)
    while altered.startswith(frame):
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(len(altered) + 1)
            match chance.randrange(3):
                case 0 if at < len(altered):
                    altered[at] ^= 1 << chance.randrange(8)
                case 1:
                    altered[at:at] = chance.randbytes(chance.randint(1, 9))
                case _:
                    del altered[at : at + chance.randint(1, 9)]
    return bytes(altered)


async def mutate(seed: int, frames: int) -> Counter[str]:
    """Sends so many frames that differ from any honest one; what became of them.

    Two thirds are altered before they are sealed, as a broken peer with the key would send them, and reach
    the decoders; one third afterwards, as somebody on the way would. Raises what the server raises.
    """
    behind, chance = Server(), random.Random(seed)
    behind.keep = False
    ends, before_bytes = Counter[str](), 0
    async with behind.running() as server:
        peer = Wireless(server)
        for number in range(frames):
            if number == frames // 5:
                before_bytes = resident_bytes()
            messages = garbled(chance, always=True)
            if number % 3:
                reason = peer.say(messages)
            else:
                peer.hang_up()
                peer.connect()
                frame = damaged(peer.sealer.seal(messages), chance)
                reason = peer.feed(frame)
                assert reason or len(frame) < int.from_bytes(frame[:4], "big") + 20, (
                    "one that is whole was taken"
                )
            assert reason == "" or reason.startswith(("malformed", "a frame of")), f"frame {number}: {reason}"
            ends["ended" if reason else "lived on"] += 1
            if number % 200 == 0:
                await asyncio.sleep(0)  # timers that were cancelled are let go
        peer.hang_up()
        grown = resident_bytes() - before_bytes
    assert not behind.broken
    assert grown < GROWTH_BYTES_MAX, f"{grown} bytes more than after the first fifth"
    return ends


def test_mutated_frames() -> None:
    ends = asyncio.run(mutate(1, 2_000))
    assert ends.total() == 2_000
    assert ends["ended"] > 1_000


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_million_mutated_frames() -> None:
    ends = asyncio.run(mutate(20_251_125, 1_000_000))
    print(f"\n1,000,000 mutated frames: {dict(ends)}")
    assert ends.total() == 1_000_000
    assert ends["ended"] > 700_000


# --- replayed and forged --------------------------------------------------------------------------------


def store(number: int) -> bytes:
    return wire.encode_request(number, STORE, 5.0, 0, Store(number % 256, b"key", b"%d" % number))


class Attacker:
    """Sees all that an honest peer sends, may send whatever it likes, and does not know the key.

    Every kind of attempt returns why the connection ended; the honest peer's own requests are counted.
    """

    def __init__(self, server: PeerServer, seed: int) -> None:
        self.server, self.chance = server, random.Random(seed)
        self.honest = 0

    def conversation(self, frames: int = 2) -> tuple[Wireless, list[bytes]]:
        """An honest peer that is connected, and the frames that it has sent, each taken once."""
        peer = Wireless(self.server)
        assert peer.connect() == ""
        sent = []
        for _ in range(frames):
            self.honest += 1
            sent.append(peer.sealer.seal([store(self.honest)]))
            assert peer.feed(sent[-1]) == ""
        return peer, sent

    def repeated(self) -> str:
        peer, sent = self.conversation()
        return peer.feed(self.chance.choice(sent))

    def of_another_connection(self) -> str:
        first, sent = self.conversation()
        first.hang_up()
        second = Wireless(self.server)
        second.connect()
        return second.feed(sent[0])

    def whole_conversation_again(self) -> str:
        peer, _ = self.conversation()
        everything = peer.said
        peer.hang_up()
        return Wireless(self.server).feed(everything)

    def out_of_order(self) -> str:
        peer, _ = self.conversation()
        peer.sealer.seal([store(0)])
        return peer.feed(peer.sealer.seal([store(0)]))

    def reflected(self) -> str:
        peer, _ = self.conversation()
        assert peer.heard, "the node has answered"
        return peer.feed(peer.heard)

    def sealed_with_another_key(self) -> str:
        peer, _ = self.conversation()
        return peer.feed(Sealer(self.chance.randbytes(32)).seal([store(0)]))

    def one_bit_altered(self) -> str:
        peer, _ = self.conversation()
        frame = bytearray(peer.sealer.seal([store(0)]))
        frame[self.chance.randrange(4, len(frame))] ^= 1 << self.chance.randrange(8)
        return peer.feed(bytes(frame))

    def without_a_handshake(self) -> str:
        return Wireless(self.server).feed(Sealer(b"k" * 32).seal([store(0)]) + b"\x00" * 4096)

    def with_a_wrong_cluster_key(self) -> str:
        return Wireless(self.server, self.chance.randbytes(32)).connect()

    @property
    def kinds(self) -> list[Callable[[], str]]:
        return [
            self.repeated, self.of_another_connection, self.whole_conversation_again, self.out_of_order,
            self.reflected, self.sealed_with_another_key, self.one_bit_altered, self.without_a_handshake,
            self.with_a_wrong_cluster_key,
        ]  # fmt: skip


async def forge(seed: int, attempts: int) -> Counter[str]:
    """Attempts by kind. None of them may be taken, nor leave anything behind."""
    behind = Server()
    made = Counter[str]()
    async with behind.running() as server:
        attacker = Attacker(server, seed)
        for number in range(attempts):
            attempt = attacker.kinds[number % len(attacker.kinds)]
            assert attempt() != "", f"{attempt.__name__}: the connection lives on"
            made[attempt.__name__] += 1
            assert len(behind.taken) == attacker.honest, f"{attempt.__name__}: a request was taken"
            if number % 200 == 0:
                await asyncio.sleep(0)
    assert [r.state for r in behind.taken if isinstance(r, Store)] == [
        b"%d" % (n + 1) for n in range(attacker.honest)
    ], "those of the honest peer, each once and in their order"
    return made


def test_replayed_and_forged_frames_are_not_taken() -> None:
    made = asyncio.run(forge(1, 450))
    assert min(made.values()) == 50


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ten_thousand_replayed_or_forged_frames_are_not_taken() -> None:
    made = asyncio.run(forge(20_251_125, 10_000))
    print(f"\n10,000 attempts, 0 taken: {dict(made)}")
    assert made.total() == 10_000
