"""Clients that write down what they did and saw of a real cluster, for the checkers of the simulation.

Every write has a unique id: its Idempotency-Key, and the first word of its value. Of each key a client
remembers the last token it was given and by which operation, so that the checker knows what it covers.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from kvstore import AsyncClient
from kvstore.client.aiohttp_transport import AiohttpTransport
from kvstore.client.asynchronous import AsyncBucket
from kvstore.client.call import Attempt, NoAnswer
from kvstore.client.protocol import Reply, Request
from kvstore.client.records import Receipt, Record
from kvstore.errors import KVStoreError
from kvstore.simulation.history import Ended, History, Kind, Operation

BUCKET = "chaos"
SET_PREFIX = "set"
_OPERATION_S_MAX = 20.0  # far beyond the client's own deadline: it hangs


class Known(NamedTuple):
    """What a client last learned of a key: a token, from which operation, and the elements of a set."""

    token: str
    operation: int
    elements: frozenset[bytes]


class CountingTransport(AiohttpTransport):
    """How often each write was sent and may have been applied: its retries are the client's own affair."""

    def __init__(self) -> None:
        super().__init__(connections_max=64, ssl=None)
        self.attempts: Counter[str] = Counter()

    async def send(self, request: Request, attempt: Attempt) -> Reply:
        name = request.headers.get("Idempotency-Key", "")
        try:
            reply = await super().send(request, attempt)
        except NoAnswer as failure:
            self.attempts[name] += failure.sent or failure.timed_out
            raise
        self.attempts[name] += reply.status < 400 or b'"unknown"' in reply.body
        return reply


@dataclass(slots=True)
class Recorder:
    """`clients` tasks, each `rate` turns per second, over `keys` keys of which every fifth is a set.

    A turn is a get; or a get and a put or delete with its token; or a put without a token, which goes
    beside what is there. Odd clients have a session. Times of the history: the loop's clock.
    """

    urls: Sequence[str]
    clients: int = 8
    rate: float = 12.0
    keys: int = 100
    value_bytes: int = 100
    history: History = field(default_factory=History)
    _stopped: bool = False
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def key(self, number: int) -> str:
        return f"{SET_PREFIX if number % 5 == 0 else 'key'}{number}"

    @property
    def key_names(self) -> list[str]:
        return [self.key(number) for number in range(self.keys)]

    def start(self) -> None:
        self._stopped = False
        first = len(self._tasks)
        self._tasks += [asyncio.create_task(self._client(first + i)) for i in range(self.clients)]

    async def stop(self) -> None:
        """Returns when every operation has ended. Raises what a client raised that is no KVStoreError."""
        self._stopped = True
        await asyncio.gather(*self._tasks)

    def cancel(self) -> None:
        """For a run that failed: what is under way is given up."""
        for task in self._tasks:
            task.cancel()

    async def _client(self, number: int) -> None:
        transport = CountingTransport()
        async with AsyncClient(self.urls, transport=transport) as client:
            session = bool(number % 2)
            bucket = client.bucket(BUCKET, session=session)
            work = _Client(self, number, bucket, transport, session, random.Random(number))
            loop = asyncio.get_running_loop()
            due_s = loop.time() + number / self.clients / self.rate
            while not self._stopped:
                await asyncio.sleep(max(0.0, due_s - loop.time()))
                due_s = max(due_s + 1 / self.rate, loop.time())
                await work.turn()

    async def read_all(self) -> None:
        """Every key once more, from all its homes, so that the bytes are judged and not only their names."""
        transport = CountingTransport()
        async with AsyncClient(self.urls, transport=transport) as client:
            bucket = client.bucket(BUCKET, r=3, timeout_s=10)
            work = _Client(self, -1, bucket, transport, False, random.Random(0))
            for key in self.key_names:
                await work.get(key)


@dataclass(slots=True)
class _Client:
    all: Recorder
    number: int
    bucket: AsyncBucket[bytes]
    transport: CountingTransport
    session: bool
    chance: random.Random
    known: dict[str, Known] = field(default_factory=dict)

    async def turn(self) -> None:
        key, draw = self.all.key(self.chance.randrange(self.all.keys)), self.chance.random()
        if draw < 0.1 and not (self.session and key in self.known):
            await self._write(key, Kind.PUT, None)
            return
        await self.get(key)
        if draw < 0.5:
            deletes = draw < 0.15 and not key.startswith(SET_PREFIX)
            await self._write(key, Kind.DELETE if deletes else Kind.PUT, self.known.get(key))

    def _begin(self, kind: Kind, key: str) -> Operation:
        operations = self.all.history.operations
        now_s = asyncio.get_running_loop().time()
        operation = Operation(len(operations), self.number, kind, key.encode(), now_s)
        operations.append(operation)
        return operation

    def _end(self, operation: Operation, error: KVStoreError | None) -> None:
        operation.ended_s = asyncio.get_running_loop().time()
        if error is None:
            operation.ended = Ended.OK
            return
        operation.error = f"{type(error).__name__}: {error}"
        if operation.kind is not Kind.GET and error.outcome == "failed":
            operation.ended = Ended.FAILED

    async def get(self, key: str) -> None:
        operation = self._begin(Kind.GET, key)
        operation.session = self.session
        try:
            async with asyncio.timeout(_OPERATION_S_MAX):
                record = await self.bucket.fetch(key)
        except KVStoreError as error:
            self._end(operation, error)
            return
        self._end(operation, None)
        self._see(operation, key, record)

    def _see(self, operation: Operation, key: str, record: Record[bytes]) -> None:
        operation.node = record.receipt.coordinator
        operation.seen_values = tuple(sibling.value for sibling in record.siblings)
        operation.seen = tuple(value.split(b" ", 1)[0] for value in operation.seen_values)
        if record.context:
            elements = frozenset(e for value in operation.seen_values for e in value.split())
            self.known[key] = Known(record.context, operation.index, elements)

    async def _write(self, key: str, kind: Kind, known: Known | None) -> None:
        operation = self._begin(kind, key)
        operation.write_id = b"w%d.%d" % (operation.index, self.number)
        operation.token_from = known.operation if known else None
        token, name = known.token if known else None, operation.write_id.decode()
        mode = None if known else "sibling"
        elements: frozenset[bytes] = frozenset({operation.write_id})
        try:
            async with asyncio.timeout(_OPERATION_S_MAX):
                receipt: Receipt
                if kind is Kind.PUT:
                    if key.startswith(SET_PREFIX):
                        elements |= known.elements if known else frozenset()
                        rest = sorted(elements - {operation.write_id})
                    else:
                        rest = [b"." * self.all.value_bytes]
                    operation.value = b" ".join([operation.write_id, *rest])
                    receipt = await self.bucket.put(
                        key, operation.value, context=token, mode=mode, operation_id=name
                    )
                else:
                    receipt = await self.bucket.delete(key, context=token, mode=mode, operation_id=name)
        except KVStoreError as error:
            self._end(operation, error)
        else:
            self._end(operation, None)
            operation.node = receipt.coordinator
            self.known[key] = Known(receipt.context, operation.index, elements)
        operation.attempts = max(1, self.transport.attempts.pop(name, 1))
