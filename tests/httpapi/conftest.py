"""One HttpServer over a fake node on a free port of loopback, and ways to talk to it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import aiohttp
import pytest
from multidict import CIMultiDictProxy
from yarl import URL

from kvstore.core.credential import Credentials, only
from kvstore.core.limits import DEFAULT_LIMITS, Limits
from kvstore.httpapi import HttpServer
from tests.httpapi.fake_service import FakeService

DEADLINE_S = 10.0


class Answer(NamedTuple):
    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def problem(self) -> dict[str, Any]:
        assert self.headers["Content-Type"] == "application/problem+json"
        document: dict[str, Any] = json.loads(self.body)
        assert document["status"] == self.status
        return document


class Api:
    """A server, the node behind it, and what it reported."""

    def __init__(self, service: FakeService, credentials: Credentials | None) -> None:
        self.service = service
        self.reports: list[tuple[str, dict[str, Any]]] = []
        self.audited: list[dict[str, Any]] = []
        self.server = HttpServer(
            service,
            credentials=credentials,
            report=self._report,
            audit=lambda event, **fields: self.audited.append(fields),
        )
        self.host, self.port = "", 0
        self.session: aiohttp.ClientSession

    def _report(self, event: str, **fields: Any) -> None:
        self.reports.append((event, fields))

    async def start(self) -> None:
        self.host, self.port = await self.server.start("127.0.0.1", 0)
        self.session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(DEADLINE_S),
            connector=aiohttp.TCPConnector(limit=0),
            auto_decompress=False,
        )

    async def close(self) -> None:
        await self.session.close()
        await self.server.close()

    async def ask(
        self, method: str, target: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """`target` goes out exactly as it is written."""
        url = URL(f"http://{self.host}:{self.port}{target}", encoded=True)
        async with self.session.request(
            method, url, data=body, headers=headers, skip_auto_headers={"Content-Type"}
        ) as response:
            return Answer(response.status, response.headers, await response.read())

    async def put(self, target: str, body: bytes, **headers: str) -> Answer:
        """Header names with _ for -."""
        return await self.ask("PUT", target, body, {k.replace("_", "-"): v for k, v in headers.items()})

    async def get(self, target: str, **headers: str) -> Answer:
        return await self.ask("GET", target, None, {k.replace("_", "-"): v for k, v in headers.items()})

    async def siblings(self, target: str, *values: bytes) -> None:
        """Leave these values side by side."""
        for value in values:
            assert (await self.put(f"{target}?mode=sibling", value, Content_Type="text/plain")).status == 204

    @asynccontextmanager
    async def raw(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A bare connection, for what no client would send."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    async def send_raw(self, data: bytes) -> bytes:
        """Everything the server answers until it closes."""
        async with self.raw() as (reader, writer):
            writer.write(data)
            async with asyncio.timeout(DEADLINE_S):
                return await reader.read()

    async def first_answer(self, data: bytes) -> bytes:
        """The first answer alone: the server may read on for a while before it closes."""
        async with self.raw() as (reader, writer):
            writer.write(data)
            async with asyncio.timeout(DEADLINE_S):
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"Content-Length: (\d+)", head)
                return head + await reader.readexactly(int(length[1]) if length else 0)


Start = Callable[..., Any]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts servers: `await start(client_token=..., connections_max=...)`."""
    running: list[Api] = []

    async def one(*, client_token: str = "", credentials: Credentials | None = None, **limits: Any) -> Api:
        if client_token:
            credentials = Credentials(only(client_token, "operator"))
        chosen: Limits = replace(DEFAULT_LIMITS, **limits)
        api = Api(FakeService(chosen), credentials)
        await api.start()
        running.append(api)
        return api

    yield one
    for api in running:
        api.service.gate.set()
        await api.close()


@pytest.fixture
async def api(start: Start) -> Api:
    started: Api = await start()
    return started


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition; fails with `what` after a deadline."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.005)
    assert condition(), what
