"""The connection of the loader: whole answers however they arrive, and errors by name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import pytest

from kvstore.bench.http import HttpLane, KvDialect, http_lanes, watch
from kvstore.bench.workload import Kind, Operation

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nKV-Context: abc=\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"
UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\n{}"
READ, UPDATE, MODIFY = (Operation(kind, 7) for kind in (Kind.READ, Kind.UPDATE, Kind.MODIFY))


class Server:
    """Answers each request with the next of `answers`, in pieces of `piece_bytes`; b"" closes instead."""

    def __init__(self, answers: list[bytes | None], piece_bytes: int) -> None:
        self.answers, self.piece_bytes = answers, piece_bytes
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while self.answers:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                length = [line for line in head.split(b"\r\n") if line.startswith(b"Content-Length: ")]
                self.bodies.append(await reader.readexactly(int(length[0][16:])) if length else b"")
                answer = self.answers.pop(0)
                if answer is None:
                    await reader.read()  # until the client gives up
                    return
                if not answer:
                    return
                for at in range(0, len(answer), self.piece_bytes):
                    writer.write(answer[at : at + self.piece_bytes])
                    await writer.drain()
                    await asyncio.sleep(0)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def served(*answers: bytes | None, piece_bytes: int = 1 << 20) -> AsyncIterator[tuple[Server, str]]:
    server = Server(list(answers), piece_bytes)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    async with listening:
        yield server, f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"


def lane_to(url: str, timeout_s: float = 5.0) -> HttpLane:
    dialect = KvDialect(token="secret", reads=(("r", "1"),), writes=(("w", "3"), ("dw", "0")))
    (lane,) = http_lanes([url], 1, dialect, value_bytes=10, random=Random(1), timeout_s=timeout_s)
    return lane


@pytest.mark.parametrize("piece_bytes", [1, 7, 1 << 20])
async def test_answers_are_read_whole_however_they_arrive(piece_bytes: int) -> None:
    async with served(OK, CHUNKED, EMPTY, UNAVAILABLE, OK, piece_bytes=piece_bytes) as (server, url):
        lane = lane_to(url)
        assert [await lane.run(READ) for _ in range(5)] == ["", "", "", "503", ""]
        lane.close()
    assert len(server.heads) == 5


async def test_requests_carry_options_token_and_the_context_that_was_read() -> None:
    async with served(OK, EMPTY, EMPTY) as (server, url):
        lane = lane_to(url)
        assert await lane.run(MODIFY) == ""
        assert await lane.run(UPDATE) == ""
        lane.close()
    read, modified, updated = (head.decode() for head in server.heads)
    assert read.startswith("GET /v1/kv/bench/user000000000007?r=1 HTTP/1.1\r\n")
    assert modified.startswith("PUT /v1/kv/bench/user000000000007?w=3&dw=0 HTTP/1.1\r\n")
    assert "KV-Context: abc=\r\n" in modified
    assert "KV-Context" not in updated
    assert all("Authorization: Bearer secret\r\n" in head for head in (read, modified, updated))
    assert [len(body) for body in server.bodies] == [0, 10, 10]
    assert server.bodies[1] != server.bodies[2]


async def test_a_broken_connection_is_an_error_and_the_next_operation_makes_a_new_one() -> None:
    async with served(b"", OK) as (_, url):
        lane = lane_to(url)
        assert await lane.run(READ) in ("EOFError", "ConnectionResetError")
        assert await lane.run(READ) == ""
        lane.close()
    assert await lane.run(READ) in ("ConnectionRefusedError", "OSError")


async def test_an_answer_that_does_not_come_is_given_up_and_never_taken_for_the_next() -> None:
    async with served(None, OK) as (_, url):
        lane = lane_to(url, timeout_s=0.2)
        watching = asyncio.create_task(watch([lane]))
        assert await lane.run(READ) == "TimeoutError"
        assert await lane.run(READ) == ""
        watching.cancel()
        lane.close()


async def test_lanes_are_spread_over_the_nodes() -> None:
    lanes = http_lanes(
        ["http://a:1", "http://b:2"], 5, KvDialect(), value_bytes=1, random=Random(1), timeout_s=1
    )
    assert [lane._host for lane in lanes] == ["a", "b", "a", "b", "a"]
