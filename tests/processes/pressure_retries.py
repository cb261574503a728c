"""What the project's own client adds to an overload by trying again."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from pathlib import Path

from kvstore import AsyncClient
from kvstore.client.retry import RetryBudget
from kvstore.errors import KVStoreError
from tests.processes.pressure_load import siblings
from tests.processes.pressure_overload import OVERLOAD, peak
from tests.processes.pressure_rig import Node

SLOWED_TO = 0.2


async def retries(folder: Path, *, budget: bool, seconds: float) -> dict[str, float]:
    """Reads by one client, three times as many as the node can do. The burst of the budget is spent before."""
    async with Node(folder) as node:
        slowed = not node.slow_down(SLOWED_TO)
        per_s, _ = await peak(node, siblings, 16, 2.0)
        async with AsyncClient(node.url) as client:
            shared = client._shared
            shared.budget = RetryBudget() if budget else RetryBudget(ratio=1e6, burst=1e9)
            bucket = client.bucket("s")
            done = 0

            async def read() -> None:
                nonlocal done
                with suppress(KVStoreError):
                    await bucket.fetch("key", timeout_s=2.5)
                    done += 1

            asked, served, operations = 0.0, 0, 0
            for measured in (False, True):
                before = await node.metric("kvstore_http_requests_total")
                done, began_s, tasks = 0, time.perf_counter(), []
                for number in range(int(per_s * OVERLOAD * seconds)):
                    early_s = began_s + number / (per_s * OVERLOAD) - time.perf_counter()
                    if early_s > 0:
                        await asyncio.sleep(early_s)
                    tasks.append(asyncio.ensure_future(read()))
                await asyncio.gather(*tasks)
                if measured:
                    asked = await node.metric("kvstore_http_requests_total") - before - 1
                    served, operations = done, len(tasks)
    return {
        "slowed down": float(slowed),
        "operations": operations,
        "requests / operations": asked / operations,
        "served, share": served / operations,
    }
