"""Several nodes in one event loop over memory and a network that can be cut: for tests of node/."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from kvstore.core.bucket import BucketProperties
from kvstore.core.layout import first_layout
from kvstore.core.limits import DEFAULT_LIMITS, Limits
from kvstore.core.membership import Member, NodeId
from kvstore.core.message import EMPTY_REPLY, Get, Got, Put, Read, Reply, Request, Written
from kvstore.core.ring import full_key, partition_of
from kvstore.errors import KVStoreError, PeerRefused, PeerTimeout, PeerUnreachable
from kvstore.node.cluster_view import ClusterView
from kvstore.node.node import Node
from kvstore.node.ports import Told, outcome_of
from kvstore.storage.memory import MemoryDisk, MemoryStorage

QUIET = replace(DEFAULT_LIMITS, anti_entropy_interval_s=86_400.0)
"""No comparison begins by itself: what a test sees is what it did."""


class Clock:
    def __init__(self) -> None:
        self.ms = 1_700_000_000_000

    def now_ms(self) -> int:
        return self.ms

    def elapsed_s(self) -> float:
        return asyncio.get_running_loop().time()


class Chance:
    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def bits(self, purpose: str, count: int) -> int:
        return self._random.getrandbits(count)

    def uniform(self, purpose: str, low: float, high: float) -> float:
        return self._random.uniform(low, high)


class World:
    """`down`: nodes nothing reaches. `mute`: nodes that take calls and never answer. `slow`: seconds
    later that reads reach a node, forwarded ones as well.

    `intercept` may change or drop (None) a request on its way, per (sender, receiver, request).
    """

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.nodes: dict[NodeId, Node] = {}
        self.addresses: dict[str, NodeId] = {}
        self.storages: dict[str, MemoryStorage] = {}
        self.clocks: dict[str, Clock] = {}
        self.starts: dict[str, int] = {}
        self.down: set[str] = set()
        self.mute: set[str] = set()
        self.slow: dict[str, float] = {}
        self.calls: list[tuple[str, str, Request]] = []
        self.learned: dict[tuple[str, NodeId], str] = {}
        self.fatal: list[tuple[str, KVStoreError]] = []
        self.reports: list[str] = []
        self.intercept: Callable[[str, str, Request], Request | None] = lambda _a, _b, request: request

    async def start(
        self,
        name: str,
        *,
        n: int = 3,
        expect: int = 3,
        limits: Limits = QUIET,
        recover_as: NodeId = "",
        node_id: NodeId = "",
    ) -> Node:
        storage = self.storages.setdefault(name, MemoryStorage())
        clock = self.clocks.setdefault(name, Clock())
        seed = int(name[1:])
        self.starts[name] = self.starts.get(name, -1) + 1
        describe = Member(
            node_id or f"{seed:032x}", name, f"{name}:1", f"{name}:2", zone=f"z{seed % 3}", host=name
        )
        node = Node(
            storage=storage,
            peers=_Link(self, name),
            wall=clock,
            random=Chance(seed + 1000 * self.starts[name]),
            view=ClusterView.open(storage, describe, recover_as),
            signing_key=b"k" * 32,
            defaults=BucketProperties(n=n),
            limits=limits,
            seeds=("n1:1",),
            bootstrap_expect=expect,
            fatal=lambda error: self.fatal.append((name, error)),
            report=lambda event, **fields: self.reports.append(event),
        )
        self.nodes[node.node_id] = node
        self.addresses[f"{name}:1"] = node.node_id
        await node.start()
        return node

    def named(self, name: str) -> Node:
        return next(node for node in self.nodes.values() if node.name == name)

    async def formed(self) -> None:
        await until(lambda: all(node.view.layout is not None for node in self.nodes.values()))

    def form_at_once(self) -> None:
        """The layout that these nodes would agree on in a while."""
        members = [node.view.me for node in self.nodes.values()]
        for node in self.nodes.values():
            node.view.merge(members)
            node.view.adopt(first_layout(members))

    async def restart(
        self, name: str, *, crash: bool = False, disk: MemoryDisk | None = None, **options: Any
    ) -> Node:
        """Stop a node and start it on its disk, or on this one; with `crash` what was not synced is gone.

        Returns when it serves, which takes a majority in reach.
        """
        node = self.named(name)
        storage = self.storages[name]
        if crash:
            for task in node.background.tasks:
                task.cancel()
            await asyncio.gather(*node.background.tasks, return_exceptions=True)
            self.storages[name] = storage.crash()
        else:
            await node.stop()
            self.storages[name] = MemoryStorage(storage.disk)
        if disk is not None:
            self.storages[name].disk.crash()
            self.storages[name] = MemoryStorage(disk)
        node = await self.start(name, **options)
        await until(lambda: node._handlers is node._answers)
        return node

    async def stop(self) -> None:
        for node in list(self.nodes.values()):
            await node.stop()

    def others(self, bucket: str, key: bytes) -> list[Node]:
        """The nodes that are no homes of the key, in the order in which they would stand in."""
        homes = self.homes(bucket, key)
        layout = homes[0].view.layout
        assert layout is not None
        walk = layout.homes(partition_of(full_key(bucket, key)), len(layout.members))
        return [self.nodes[node] for node in walk[len(homes) :]]

    def homes(self, bucket: str, key: bytes) -> list[Node]:
        some = next(iter(self.nodes.values()))
        homes = some.view.homes(partition_of(full_key(bucket, key)), some.bucket(bucket)[0].n)
        return [self.nodes[home] for home in homes]

    def deliver(
        self, sender: str, receiver: NodeId, request: Request, deadline_s: float
    ) -> asyncio.Future[Reply]:
        reply: asyncio.Future[Reply] = self.loop.create_future()
        node = self.nodes.get(receiver)
        sent = self.intercept(sender, node.name, request) if node else None
        if node is None or node.name in self.down or sender in self.down:
            reply.set_exception(PeerUnreachable("down"))
            return reply
        self.calls.append((sender, node.name, request))
        if node.name in self.mute or sent is None:
            self.loop.call_later(deadline_s, _fail, reply, PeerTimeout("no answer"))
            return reply
        later_s = self.slow.get(node.name, 0.0) if isinstance(sent, Read | Get) else 0.0
        handle = partial(self._handle, node, self.named(sender).node_id, sent, reply, deadline_s)
        if later_s:
            self.loop.call_later(later_s, handle)
        else:
            self.loop.call_soon(handle)
        return reply

    def _handle(
        self, node: Node, sender: NodeId, request: Request, reply: asyncio.Future[Reply], deadline_s: float
    ) -> None:
        try:
            answer = node.serve(sender, request, deadline_s)
        except KVStoreError as error:
            _fail(reply, _refusal(error))
            return
        if isinstance(answer, asyncio.Future):
            answer.add_done_callback(lambda done: _pass_on(request, done, reply))
        elif not reply.done():
            reply.set_result(answer)


def _refusal(error: KVStoreError) -> PeerRefused:
    refusal = PeerRefused(error.detail, code=type(error).__name__)
    refusal.outcome, refusal.advice = error.outcome, error.advice
    return refusal


def _fail(reply: asyncio.Future[Reply], error: KVStoreError) -> None:
    if not reply.done():
        reply.set_exception(error)


def _pass_on(request: Request, done: asyncio.Future[Any], reply: asyncio.Future[Reply]) -> None:
    if done.cancelled() or reply.done():
        return
    error = done.exception()
    if isinstance(error, KVStoreError):
        _fail(reply, _refusal(error))
    elif error is not None:
        raise error
    else:
        result = done.result()
        reply.set_result(EMPTY_REPLY[type(request)] if result is None else result)


class _Link:
    """ports.Peers of one node."""

    def __init__(self, world: World, name: str) -> None:
        self._world, self._name = world, name

    def ask(self, node: NodeId, request: Request, deadline_s: float, told: Told) -> None:
        self.call(node, request, deadline_s).add_done_callback(lambda call: told(outcome_of(call)))

    def call(
        self, node: NodeId, request: Request, deadline_s: float, *, background: bool = False
    ) -> asyncio.Future[Reply]:
        return self._world.deliver(self._name, node, request, deadline_s)

    def call_address(self, address: str, request: Request, deadline_s: float) -> asyncio.Future[Reply]:
        node = self._world.addresses.get(address, "")
        return self._world.deliver(self._name, node, request, deadline_s)

    def learn(self, node: NodeId, address: str) -> None:
        self._world.learned[self._name, node] = address

    def forget(self, node: NodeId) -> None: ...


async def until(condition: Callable[[], bool], *, deadline_s: float = 5.0) -> None:
    """Wait for a condition, never for a time."""
    async with asyncio.timeout(deadline_s):
        while not condition():
            await asyncio.sleep(0.002)


async def put(node: Node, key: bytes, value: bytes, **options: Any) -> Written:
    return await node.put(Put("b", key, value, **options))


async def get(node: Node, key: bytes, **options: Any) -> Got:
    return await node.get(Get("b", key, **options))


def values(got: Got, now_ms: int = 1_700_000_000_000) -> list[bytes]:
    from kvstore.core.encoding import decode_state
    from kvstore.core.sibling import EMPTY_STATE, shown

    state = decode_state(got.state) if got.state else EMPTY_STATE
    return [version.value for _, version in shown(state, now_ms, last_write_wins=got.last_write_wins)]


def context(got: Got) -> bytes:
    from kvstore.core.encoding import decode_causal, encode_context

    return encode_context(decode_causal(got.state).context)
