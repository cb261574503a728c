"""Drives one operation at a time through call.py: sends, waits, and asks for the layout when it is news."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import random
from time import monotonic
from typing import NamedTuple

from kvstore.client import answers, protocol
from kvstore.client.aiohttp_transport import AsyncTransport
from kvstore.client.call import Call, NoAnswer, Shared
from kvstore.client.protocol import Reply, Request
from kvstore.client.retry import backoff_s
from kvstore.client.settings import LAYOUT_TIMEOUT_S, new_operation_id
from kvstore.errors import KVStoreError


class AsyncPorts(NamedTuple):
    """Time and chance."""

    clock: Callable[[], float] = monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    chance: Callable[[], float] = random
    new_id: Callable[[], str] = new_operation_id


class AsyncRunner:
    def __init__(self, shared: Shared, transport: AsyncTransport, ports: AsyncPorts) -> None:
        self.shared, self.ports = shared, ports
        self._transport = transport
        self._layout_task: asyncio.Task[None] | None = None

    async def perform(self, request: Request, timeout_s: float) -> Reply:
        """Send one operation until it is answered, its deadline passes, or sending it again is not safe.

        Raises the errors of kvstore.errors; that of a write says in `outcome` what may be applied.
        """
        clock = self.ports.clock
        call = Call(self.shared, request, timeout_s, clock())
        while True:
            attempt = call.attempt(clock())
            try:
                reply = await self._transport.send(request, attempt)
            except NoAnswer as failure:
                call.unanswered(failure, clock())
            else:
                if call.answered(reply, clock()):
                    if call.wants_layout:
                        self._learn_layout_soon()
                    return reply
            wait_s = call.again(clock(), self.ports.chance())
            if wait_s > 0:
                await self.ports.sleep(wait_s)

    async def back_off(self, failures: int) -> None:
        await self.ports.sleep(backoff_s(failures, self.ports.chance(), self.shared.policy))

    async def close(self) -> None:
        if self._layout_task is not None:
            self._layout_task.cancel()
            await asyncio.gather(self._layout_task, return_exceptions=True)
        await self._transport.close()

    def _learn_layout_soon(self) -> None:
        if self._layout_task is None or self._layout_task.done():
            self._layout_task = asyncio.create_task(self._learn_layout())

    async def _learn_layout(self) -> None:
        """A hint only: if it cannot be had, requests go round the nodes as before."""
        try:
            reply = await self.perform(protocol.layout(), LAYOUT_TIMEOUT_S)
            self.shared.router.learn(answers.document(reply))
        except KVStoreError:
            return
