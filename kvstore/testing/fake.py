"""An AsyncClient for unit tests: no network, no waiting, the same answers.

    async def test_signup() -> None:
        async with FakeClient() as kv:
            await signup(kv, "ann")
            assert (await kv.bucket("users", codec="json").get("ann"))["friends"] == []

Everything above the network is the real client; below it is one node in memory that follows the same
rules as a cluster: contexts, siblings, conditions, operation ids, expiry, sessions. One suite of tests
runs against this and against real nodes.

Time stands still. Retries wait in it without waiting, and `advance` moves it.
"""

from __future__ import annotations

import random
from itertools import count

from kvstore.client import AsyncClient, AsyncPorts
from kvstore.testing.fake_node import FakeNode


class FakeClient(AsyncClient):
    """`nodes`: how many homes there are, so that levels and counts mean what they will mean.

    Two clients of one store: `FakeClient(share=other)`.
    """

    def __init__(self, *, nodes: int = 3, timeout_s: float = 2.0, share: FakeClient | None = None) -> None:
        self.node: FakeNode = share.node if share else FakeNode(nodes)
        ids = count(1)
        side = self.node.clients = self.node.clients + 1
        ports = AsyncPorts(
            clock=lambda: self.node.now_s,
            sleep=self._sleep,
            chance=random.Random(side).random,  # noqa: S311 - jitter, and the same on every run
            new_id=lambda: f"{side:08x}{next(ids):024x}",
        )
        super().__init__("http://fake", timeout_s=timeout_s, transport=self.node, ports=ports)

    async def _sleep(self, delay_s: float) -> None:
        self.advance(delay_s)

    def advance(self, seconds: float) -> None:
        """Let time pass: values expire."""
        self.node.now_s += seconds

    def fail_next(self, problem: str, times: int = 1, *, applied: bool = False) -> None:
        """The next answers are this problem: "overloaded", "quorum-unavailable", "write-timeout", …

        An answer, not an operation: the client retries what is safe to retry, so one failure is often
        none. `applied`: writes are applied all the same, as after a timeout that came too early. Raises
        InvalidRequest for a problem that nodes do not have.
        """
        self.node.fail_next(problem, times, applied=applied)
