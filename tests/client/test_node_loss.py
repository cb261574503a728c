"""A node goes away under load, and comes back: no operation of a client fails."""

from __future__ import annotations

import asyncio

from kvstore.client import AsyncClient
from kvstore.testing.cluster import LocalCluster

WRITERS = 8
DEADLINE_S = 30.0


async def test_stopping_one_of_three_nodes_fails_no_operation() -> None:
    async with LocalCluster(nodes=3) as cluster, AsyncClient(cluster.endpoints, timeout_s=10) as kv:
        # A node that was away has old copies: a blind write through it would leave what it has not seen
        # as a sibling. A session's writes say what they have seen.
        users = kv.bucket("users", codec="json", session=True)
        done = [0] * WRITERS
        stopping = False

        async def write(worker: int) -> None:
            while not stopping:
                number = done[worker]
                await users.put(f"{worker}", number)
                assert await users.get(f"{worker}") == number
                done[worker] += 1

        async def progress() -> None:
            """Every writer gets five more rounds done."""
            goals = [count + 5 for count in done]
            async with asyncio.timeout(DEADLINE_S):
                while any(count < goal for count, goal in zip(done, goals, strict=True)):
                    failed = [task for task in writers if task.done()]
                    assert not failed, [task.exception() for task in failed]
                    await asyncio.sleep(0.01)

        writers = [asyncio.create_task(write(worker)) for worker in range(WRITERS)]
        try:
            await progress()
            await cluster.stop("n2")
            await progress()
            await cluster.start("n2")
            await progress()
        finally:
            stopping = True
            await asyncio.gather(*writers)
        for worker, count in enumerate(done):
            assert await users.get(f"{worker}") == count - 1
