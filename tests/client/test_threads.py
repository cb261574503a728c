"""One synchronous client, many threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from kvstore.client import Client


def test_threads_share_a_client(nodes: list[str], bucket_name: str) -> None:
    threads, rounds = 16, 25
    together = Barrier(threads)

    with Client(nodes, connections_max=4, timeout_s=10) as kv:
        users = kv.bucket(bucket_name, codec="json")

        def work(worker: int) -> int:
            together.wait(10)
            for i in range(rounds):
                key = f"{worker}-{i}"
                users.put(key, [worker, i])
                assert users.get(key) == [worker, i]
            return rounds

        with ThreadPoolExecutor(threads) as pool:
            assert sum(pool.map(work, range(threads))) == threads * rounds
        assert len(list(users.scan(page_size=100))) == threads * rounds
