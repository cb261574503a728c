"""A node that does what it is told, over real sockets: answers, hangs, resets, stops half way."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple, Self


class Seen(NamedTuple):
    """One request as it arrived. Header names in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


class Answer(NamedTuple):
    """`cut`: so many bytes of the body are left out, and the connection ends."""

    status: int
    headers: Mapping[str, str] = {}
    body: bytes = b""
    cut: int = 0
    then_close: bool = False


class Hang(NamedTuple):
    """Reads the request and never answers."""


class Reset(NamedTuple):
    """Reads the request, then resets the connection."""


Behaviour = Answer | Hang | Reset

RECEIPT = {
    "KV-Acks": "2/3",
    "KV-Required": "2",
    "KV-Outcome": "ok",
    "KV-Node": "stub",
    "KV-Request-Id": "r-1",
    "KV-Context": "Y29udGV4dA",
    "ETag": '"0123456789abcdef"',
    "KV-Siblings": "1",
}
WRITTEN = Answer(204, RECEIPT)
MISSING = Answer(
    404, {**RECEIPT, "Content-Type": "application/problem+json"}, b'{"type":"no-such-key","status":404}'
)


def value(body: bytes = b"1", **headers: str) -> Answer:
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return Answer(200, {**RECEIPT, "Content-Type": "application/octet-stream", **named}, body)


def problem(status: int, kind: str, *, retry_after: str = "", **fields: Any) -> Answer:
    headers = {"Content-Type": "application/problem+json", "KV-Node": "stub", "KV-Request-Id": "r-1"}
    if retry_after:
        headers["Retry-After"] = retry_after
    document = {"type": kind, "title": "T", "status": status, "detail": f"stub says {kind}", **fields}
    return Answer(status, headers, json.dumps(document).encode())


class StubNode:
    """`script` says what the next requests get, in order; `otherwise` what comes after that."""

    def __init__(self) -> None:
        self.script: deque[Behaviour] = deque()
        self.otherwise: Behaviour | None = None
        self.seen: list[Seen] = []
        self.connections = 0
        self.port = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def data(self) -> list[Seen]:
        """Without what a client asks for itself."""
        return [seen for seen in self.seen if seen.target != "/v1/layout"]

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Nothing listens here any more, and open connections are reset."""
        if self._server is not None:
            server, self._server = self._server, None
            server.close()
            for writer in list(self._writers):
                writer.transport.abort()
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while await self._exchange(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ")
        lines = (line.partition(":") for line in head[1:] if line)
        headers = {name.lower(): text.strip() for name, _, text in lines}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.seen.append(Seen(method, target, headers, body))
        match self._next(method, target):
            case Hang():
                await reader.read()
                return False
            case Reset():
                writer.transport.abort()
                return False
            case Answer() as answer:
                writer.write(_encoded(answer))
                await writer.drain()
                return not (answer.cut or answer.then_close)

    def _next(self, method: str, target: str) -> Behaviour:
        if self.script and target != "/v1/layout":
            return self.script.popleft()
        if self.otherwise is not None:
            return self.otherwise
        return value() if method == "GET" else WRITTEN


def _encoded(answer: Answer) -> bytes:
    lines = [f"HTTP/1.1 {answer.status} Whatever"]
    lines += [f"{name}: {text}" for name, text in answer.headers.items()]
    if answer.status not in (204, 304):
        lines.append(f"Content-Length: {len(answer.body)}")
    body = answer.body[: len(answer.body) - answer.cut]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body
