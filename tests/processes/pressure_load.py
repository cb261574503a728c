"""Loads for a node under pressure: HTTP by hand, so that one process can ask for more than a node can do.

A lane is one connection with one request on its way, written and read as bytes: about 25 µs a request,
where a whole client library takes ten times as long. Requests are due on a fixed grid, whatever became of
those before (no coordinated omission), and are given up, with their connection, after `DEADLINE_S`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import cast

from kvstore.core import hedging

DEADLINE_S = 1.0
LANES_MAX = 380  # a node takes 384 connections from one address; who finds no lane waits for one
_TICK_S = 0.002
_SWEEP_S = 0.02


def quantile(times_s: list[float], share: float) -> float:
    """0.0 of nothing."""
    return hedging.quantile(sorted(times_s), share) if times_s else 0.0


@dataclass
class Outcomes:
    """What became of the requests of one load. Times in seconds, from when each was due."""

    good_s: list[float] = field(default_factory=list)
    shed_s: list[float] = field(default_factory=list)
    other: Counter[str] = field(default_factory=Counter)
    gave_up: int = 0
    seen: list[tuple[float, bool]] = field(default_factory=list)  # (when it ended, whether it was served)
    due: int = 0
    attempts: int = 0

    @property
    def share(self) -> float:
        return len(self.good_s) / max(1, self.due)

    def ms(self, share: float) -> float:
        return 1000 * quantile(self.good_s, share)

    def shed_ms(self, share: float) -> float:
        return 1000 * quantile(self.shed_s, share)


@dataclass
class Kind:
    """Requests of one kind. `make(number)`: the bytes of one. `retries`: at once, when it failed."""

    make: Callable[[int], bytes]
    retries: int = 0
    outcomes: Outcomes = field(default_factory=Outcomes)
    numbers: count[int] = field(default_factory=count)


class Lane(asyncio.Protocol):
    def __init__(self, load: Load) -> None:
        self._load = load
        self.transport: asyncio.Transport | None = None
        self.kind: Kind | None = None
        self.due_s = self.sent_s = 0.0
        self.left = 0
        self._status, self._missing, self._head = 0, -1, b""
        self.closes = False

    def ask(self, kind: Kind, due_s: float, left: int) -> None:
        """`left`: how often it may be asked again."""
        assert self.transport is not None
        self.kind, self.due_s, self.left, self.sent_s = kind, due_s, left, time.perf_counter()
        self._missing, self._head = -1, b""
        kind.outcomes.attempts += 1
        self.transport.write(kind.make(next(kind.numbers)))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        if self._missing < 0:
            data = self._head + data
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._head = data
                return
            self._status = int(data[9:12])
            head = data[:end].lower()
            self.closes = b"connection: close" in head
            at = head.find(b"content-length: ")
            length = int(head[at + 16 : at + 28].split(b"\r", 1)[0]) if at >= 0 else 0
            self._missing = length - (len(data) - end - 4)
        else:
            self._missing -= len(data)
        if self._missing <= 0:
            self._load.answered(self, self._status)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._load.lost(self)


class Load:
    """Lanes to one node."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._idle: deque[Lane] = deque()
        self._waiting: deque[tuple[Kind, float, int]] = deque()
        self._lanes: set[Lane] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._again = False  # closed loop: the next request when the last was answered
        self._sweeper = asyncio.ensure_future(self._sweep())

    async def open(self, kinds: list[tuple[Kind, float]], seconds: float, *, own_pace: bool = False) -> None:
        """(kind, requests per second) each, for so long; returns when every request has ended.

        `own_pace`: times count from when a request was handed to a lane, up to a tick after it was due. Where
        these are milliseconds, most of them would be those of this process.
        """
        self._again = False
        began_s = time.perf_counter()
        done = [0] * len(kinds)
        while (passed_s := time.perf_counter() - began_s) < seconds:
            due = []
            for number, (kind, per_s) in enumerate(kinds):
                upto = 1 + int(passed_s * per_s)
                due += [
                    (began_s + (passed_s if own_pace else at / per_s), kind)
                    for at in range(done[number], upto)
                ]
                done[number] = upto
            for due_s, kind in sorted(due, key=lambda each: each[0]):
                kind.outcomes.due += 1
                self._begin(kind, due_s, kind.retries)
            await asyncio.sleep(_TICK_S)
        await self._all_ended()

    async def closed(self, kind: Kind, clients: int, seconds: float) -> None:
        """So many clients that ask one after the other."""
        self._again = True
        began_s = time.perf_counter()
        for _ in range(clients):
            kind.outcomes.due += 1
            self._begin(kind, time.perf_counter(), 0)
        await asyncio.sleep(seconds - (time.perf_counter() - began_s))
        self._again = False
        await self._all_ended()

    async def hold(self, connections: int) -> list[asyncio.Transport]:
        """Connections that ask nothing, as many of them as could be made."""
        loop, held = asyncio.get_running_loop(), []
        for _ in range(connections):
            with suppress(OSError):
                transport, _ = await loop.create_connection(asyncio.Protocol, self._host, self._port)
                held.append(transport)
        return held

    async def close(self) -> None:
        self._sweeper.cancel()
        for lane in list(self._lanes):
            if lane.transport is not None:
                lane.transport.abort()
        await asyncio.gather(*self._connecting, return_exceptions=True)

    # --- one request ------------------------------------------------------------------------------------

    def _begin(self, kind: Kind, due_s: float, left: int) -> None:
        while self._idle:
            lane = self._idle.popleft()
            if lane.transport is not None and not lane.transport.is_closing():
                lane.ask(kind, due_s, left)
                return
        if len(self._lanes) + len(self._connecting) >= LANES_MAX:
            self._waiting.append((kind, due_s, left))
            return
        task = asyncio.ensure_future(self._connect(kind, due_s, left))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, kind: Kind, due_s: float, left: int) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(DEADLINE_S):
                _, lane = await loop.create_connection(lambda: Lane(self), self._host, self._port)
        except (OSError, TimeoutError):
            self._failed(kind, due_s, left)
            return
        self._lanes.add(lane)
        lane.ask(kind, due_s, left)

    def answered(self, lane: Lane, status: int) -> None:
        kind, lane.kind = lane.kind, None
        now_s = time.perf_counter()
        if lane.closes and lane.transport is not None:
            lane.transport.close()
        else:
            self._idle.append(lane)
        if self._waiting:
            self._begin(*self._waiting.popleft())
        if kind is None:
            return
        kind.outcomes.seen.append((now_s, status < 400))
        if status < 400:
            kind.outcomes.good_s.append(now_s - lane.due_s)
        elif status in (429, 503) and lane.left:
            self._begin(kind, lane.due_s, lane.left - 1)
            return
        elif status in (429, 503):
            kind.outcomes.shed_s.append(now_s - (lane.sent_s if kind.retries else lane.due_s))
        else:
            kind.outcomes.other[str(status)] += 1
        if self._again:
            kind.outcomes.due += 1
            self._begin(kind, now_s, 0)

    def lost(self, lane: Lane) -> None:
        self._lanes.discard(lane)
        kind, lane.kind = lane.kind, None
        if self._waiting:
            self._begin(*self._waiting.popleft())
        if kind is not None:
            self._failed(kind, lane.due_s, lane.left)

    def _failed(self, kind: Kind, due_s: float, left: int) -> None:
        """No answer. Whoever asks again waits as long for the next one."""
        if left:
            self._begin(kind, due_s, left - 1)
        else:
            kind.outcomes.gave_up += 1
            if self._again:
                kind.outcomes.due += 1
                self._begin(kind, time.perf_counter(), 0)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            oldest_s = time.perf_counter() - DEADLINE_S
            for lane in [lane for lane in self._lanes if lane.kind is not None and lane.sent_s < oldest_s]:
                if lane.transport is not None:
                    lane.transport.abort()
            while self._waiting and self._waiting[0][1] < oldest_s:
                self._waiting.popleft()[0].outcomes.gave_up += 1

    async def _all_ended(self) -> None:
        deadline_s = time.perf_counter() + 10 * DEADLINE_S
        while self._waiting or self._connecting or any(lane.kind is not None for lane in self._lanes):
            assert time.perf_counter() < deadline_s, "requests that never end"
            await asyncio.sleep(0.01)


# --- requests -------------------------------------------------------------------------------------------

KEYS = 400
SIBLINGS = 30
SIBLINGS_HEAD = b"GET /v1/kv/s/key HTTP/1.1\r\nHost: n\r\nKV-Timeout-Ms: 1000\r\nAccept: application/json\r\n"


def get(options: str = "", headers: str = "") -> Kind:
    head = f"{options} HTTP/1.1\r\nHost: n\r\nKV-Timeout-Ms: 1000\r\n{headers}\r\n".encode()
    return Kind(lambda number: b"GET /v1/kv/b/%05d" % (number * 7 % KEYS) + head)


def put(value: bytes, headers: str = "") -> Kind:
    head = f" HTTP/1.1\r\nHost: n\r\nKV-Timeout-Ms: 1000\r\nContent-Length: {len(value)}\r\n{headers}\r\n"
    tail = head.encode() + value
    return Kind(lambda number: b"PUT /v1/kv/b/%05d" % (number * 7 % KEYS) + tail)


def siblings() -> Kind:
    """A read of a key with many siblings: hundreds of microseconds of work."""
    return Kind(lambda _: SIBLINGS_HEAD + b"\r\n")


def marked(kind: Kind, options: str = "", header: str = "") -> Kind:
    """The same, with an option of the query or a line of the header."""

    def make(number: int) -> bytes:
        line, rest = kind.make(number).split(b"\r\n", 1)
        if options:
            line = line.replace(b" HTTP/1.1", options.encode() + b" HTTP/1.1")
        return line + b"\r\n" + header.encode() + rest

    made = [make(number) for number in range(64)]
    return Kind(lambda number: made[number % len(made)])


def batch(items: int, headers: str = "") -> Kind:
    """Half gets, half puts."""

    def make(number: int) -> bytes:
        keys = [f"{(number * items + at) * 7 % KEYS:05}" for at in range(items)]
        operations: list[dict[str, str]] = [
            {"op": "put", "bucket": "b", "key": key, "value": "v" * 100}
            if at % 2
            else {"op": "get", "bucket": "b", "key": key}
            for at, key in enumerate(keys)
        ]
        body = json.dumps(operations).encode()
        head = f"POST /v1/batch HTTP/1.1\r\nHost: n\r\nKV-Timeout-Ms: 1000\r\n{headers}"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        return head.encode() + body

    made = [make(number) for number in range(64)]
    return Kind(lambda number: made[number % len(made)])


def page(limit: int, headers: str = "") -> Kind:
    whole = f"GET /v1/kv/b?limit={limit}&values HTTP/1.1\r\nHost: n\r\nKV-Timeout-Ms: 1000\r\n{headers}\r\n"
    return Kind(lambda _: whole.encode())
