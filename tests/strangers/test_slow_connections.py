"""A thousand slow connections from one address, and the clients beside them, on a real node.

The control is the same node without its bound on connections from one address: the slow ones then take every
place there is, and a new client finds none.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from tests.processes.pressure_load import quantile
from tests.processes.pressure_rig import Node
from tests.strangers.memory import MIB, resident_bytes

pytestmark = [pytest.mark.slow, pytest.mark.processes, pytest.mark.timeout(300)]

SLOW, SLOW_FROM = 1000, "127.0.0.2"
SECONDS = 12.0  # longer than a header may take
RATE_PER_S = 100
NOISE_S = 0.025  # what a shared machine does to the hundredth request by itself
DEFAULTS = {"KVSTORE_CONNECTIONS_MAX": "512", "KVSTORE_CONNECTIONS_PER_ADDRESS_MAX": "384"}
UNBOUND = {"KVSTORE_CONNECTIONS_MAX": "512", "KVSTORE_CONNECTIONS_PER_ADDRESS_MAX": "512"}


@dataclass
class Served:
    """Seconds from when each request was due, and how many new clients were let in."""

    took_s: list[float] = field(default_factory=list)
    failed: int = 0
    new_clients: int = 0
    new_refused: int = 0

    @property
    def p99_s(self) -> float:
        return quantile(self.took_s, 0.99)


async def ask(node: Node, session: aiohttp.ClientSession, number: int, due_s: float, served: Served) -> None:
    method, data = ("PUT", b"v" * 100) if number % 2 else ("GET", None)
    try:
        async with session.request(method, f"{node.url}/v1/kv/b/{number % 400:05}", data=data) as answer:
            await answer.read()
            served.failed += answer.status >= 400
    except aiohttp.ClientError:
        served.failed += 1
    served.took_s.append(time.perf_counter() - due_s)


async def newcomer(node: Node, served: Served) -> None:
    """One request on a connection of its own."""
    served.new_clients += 1
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(5)) as session,
            session.get(f"{node.url}/v1/kv/b/00001") as answer,
        ):
            await answer.read()
            served.new_refused += answer.status != 200
    except (aiohttp.ClientError, TimeoutError):
        served.new_refused += 1


async def load(node: Node, seconds: float) -> Served:
    """An open loop over connections that are kept, and a new client every fifth of a second."""
    served, began_s, tasks = Served(), time.perf_counter(), []
    for number in range(int(RATE_PER_S * seconds)):
        due_s = began_s + number / RATE_PER_S
        if (early_s := due_s - time.perf_counter()) > 0:
            await asyncio.sleep(early_s)
        tasks.append(asyncio.ensure_future(ask(node, node.session, number, due_s, served)))
        if number % (RATE_PER_S // 5) == 0:
            tasks.append(asyncio.ensure_future(newcomer(node, served)))
    await asyncio.gather(*tasks)
    return served


@asynccontextmanager
async def slow_clients(node: Node, seconds: float) -> AsyncIterator[asyncio.subprocess.Process]:
    arguments = ["-m", "tests.strangers.slow_clients", str(node.port), str(SLOW), SLOW_FROM, str(seconds)]
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def beside(folder: Path, settings: dict[str, str]) -> tuple[float, Served, dict[str, int], int]:
    """(p99 without slow clients, what was served beside them, what they saw, bytes that the node grew by)."""
    async with Node(folder, settings) as node:
        pid = node.pid
        await load(node, 2.0)
        before, alone = resident_bytes(pid), await load(node, SECONDS / 2)
        async with slow_clients(node, SECONDS + 4.0) as process:
            await asyncio.sleep(2.0)  # until they are all there; nothing is judged by it
            under = await load(node, SECONDS)
            grown = resident_bytes(pid) - before
            assert process.stdout is not None
            saw: dict[str, int] = json.loads(await process.stdout.readline())
        after = await load(node, SECONDS / 2)
    return max(alone.p99_s, after.p99_s), under, saw, grown


async def test_a_thousand_slow_connections_and_the_clients_beside_them(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    alone_s, under, saw, grown = await beside(tmp_path, DEFAULTS)
    print(
        f"\n{SLOW} slow connections from one address: p99 {under.p99_s * 1000:.1f} ms beside them,"
        f" {alone_s * 1000:.1f} ms alone; {under.failed} of {len(under.took_s)} requests failed,"
        f" {under.new_refused} of {under.new_clients} new clients refused; the node grew by"
        f" {grown / MIB:.1f} MiB; the slow ones saw {saw}"
    )
    control_s, control, control_saw, _ = await beside(tmp_path_factory.mktemp("control"), UNBOUND)
    print(
        f"control, no bound for one address: p99 {control.p99_s * 1000:.1f} ms beside them,"
        f" {control_s * 1000:.1f} ms alone; {control.new_refused} of {control.new_clients} new clients"
        f" refused; the slow ones saw {control_saw}"
    )
    assert saw["most held at once"] >= 300, "they were there"
    assert saw["header: 408"] > 100, "slow headers are cut off, again and again"
    assert saw["header: 503"] + saw["body: 503"] > 300, "what is more than one address may have is refused"
    assert under.p99_s <= 2 * max(alone_s, NOISE_S)
    assert (under.failed, under.new_refused) == (0, 0)
    assert grown < 100 * MIB
    assert control.new_refused > control.new_clients / 2, "without the bound nobody else gets in"
