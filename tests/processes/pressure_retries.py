"""What clients add to an overload by trying again: the project's own, and such as know no better."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from pathlib import Path

from kvstore import AsyncClient
from kvstore.errors import KVStoreError
from tests.processes.pressure_load import siblings
from tests.processes.pressure_overload import OVERLOAD, peak
from tests.processes.pressure_rig import Node

SLOWED_TO = 0.2
DEADLINE_S = 2.5


async def retries(folder: Path, *, seconds: float) -> dict[str, float]:
    """Reads by one AsyncClient, three times as many as the node can do; once before it is measured.

    Its budget may be spent in a burst, so that is over by then. Where the node cannot be slowed down, the
    client takes longer than the load should, and the row says at which rate it asked.
    """
    async with Node(folder) as node, AsyncClient(node.url) as client:
        node.slow_down(SLOWED_TO)
        per_s, _ = await peak(node, siblings, 16, 2.0)
        bucket, done = client.bucket("s"), 0

        async def read() -> None:
            nonlocal done
            with suppress(KVStoreError):
                await bucket.fetch("key", timeout_s=DEADLINE_S)
                done += 1

        for _ in range(2):
            before = await node.metric("kvstore_http_requests_total")
            done, began_s, tasks = 0, time.perf_counter(), []
            for number in range(int(per_s * OVERLOAD * seconds)):
                early_s = began_s + number / (per_s * OVERLOAD) - time.perf_counter()
                if early_s > 0:
                    await asyncio.sleep(early_s)
                tasks.append(asyncio.ensure_future(read()))
            took_s = time.perf_counter() - began_s
            await asyncio.gather(*tasks)
        asked = await node.metric("kvstore_http_requests_total") - before - 1
    return {
        "operations / peak": len(tasks) / took_s / per_s,
        "requests / operations": asked / len(tasks),
        "served, share": done / len(tasks),
    }


async def naive(folder: Path, *, seconds: float) -> dict[str, float]:
    """The same reads by clients that ask up to five times more at once."""
    async with Node(folder) as node:
        node.slow_down(SLOWED_TO)
        per_s, _ = await peak(node, siblings, 16, 2.0)
        kind = siblings()
        kind.retries = 5
        await node.load.open([(kind, per_s * OVERLOAD)], seconds)
    found = kind.outcomes
    return {
        "operations / peak": found.due / seconds / per_s,
        "requests / operations": found.attempts / found.due,
        "served, share": found.share,
    }
