"""Closed-loop HTTP load on several nodes at once: one process per node, a fixed number of connections each.

Every connection sends its next request when the last one is answered, so the figures are those of a
saturated cluster: the rate is what it can do, the latency what clients feel while it does that.

`wrk` makes the load where it is installed; it takes a fraction of the processor that Python takes.
Otherwise processes of this module do: on few cores they take their share from the nodes, of both sides of
a comparison alike.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import cast

_LUA = """
local prefix, keys, value
function init(args)
  math.randomseed(tonumber(args[1]))
  prefix, keys = args[2], tonumber(args[3])
  if args[4] ~= "0" then wrk.method, wrk.body = "PUT", string.rep("x", tonumber(args[4])) end
end
function request() return wrk.format(nil, prefix .. math.random(1, keys)) end
function done(summary, latency, requests)
  local e = summary.errors
  local failed = e.connect + e.read + e.write + e.status + e.timeout
  print(string.format("TOTAL %d %d %d", summary.duration, summary.requests, failed))
  for i = 1, #latency do print(string.format("LATENCY %d %d", latency(i))) end
end
"""


@dataclass(frozen=True, slots=True)
class Workload:
    """Keys are `prefix` and a number from 1 to `keys`, uniformly. `value_bytes` of 0 means gets."""

    prefix: str
    keys: int
    value_bytes: int
    connections: int


@dataclass(slots=True)
class Measured:
    """`latency_us`: how many requests took how many microseconds. wrk adds to it what its own waiting hid,
    so it may hold more than `requests`. `errors`: answers other than 2xx, broken connections, timeouts.
    """

    duration_s: float = 0.0
    requests: int = 0
    errors: int = 0
    latency_us: Counter[int] = field(default_factory=Counter)

    @property
    def per_s(self) -> float:
        return self.requests / self.duration_s if self.duration_s else 0.0

    def percentile_ms(self, percent: float) -> float:
        """The smallest latency that this share of the requests did not exceed."""
        rank, seen = self.latency_us.total() * percent / 100, 0
        for latency_us in sorted(self.latency_us):
            seen += self.latency_us[latency_us]
            if seen >= rank:
                return latency_us / 1000
        return 0.0


def load(ports: list[int], workload: Workload, seconds: int, *, tool: str, seed: int) -> Measured:
    """Load every port on loopback for so long. `tool`: wrk or python. Each node gets other keys."""
    run = _run_wrk if tool == "wrk" else _run_python
    results = run(ports, workload, seconds, seed)
    total = Measured(duration_s=max(result.duration_s for result in results))
    for result in results:
        total.requests += result.requests
        total.errors += result.errors
        total.latency_us.update(result.latency_us)
    return total


def fill(port: int, workload: Workload) -> Measured:
    """Put every key once, through one node."""
    numbers = iter(range(1, workload.keys + 1))
    return asyncio.run(_drive(port, workload, None, numbers))


def best_tool() -> str:
    return "wrk" if shutil.which("wrk") else "python"


def _run_wrk(ports: list[int], workload: Workload, seconds: int, seed: int) -> list[Measured]:
    with tempfile.TemporaryDirectory() as directory:
        script = Path(directory, "load.lua")
        script.write_text(_LUA)
        command = ["wrk", "-t1", f"-c{workload.connections}", f"-d{seconds}s", "-s", str(script)]
        shape = [workload.prefix, str(workload.keys), str(workload.value_bytes)]
        running = [
            subprocess.Popen(
                [*command, f"http://127.0.0.1:{port}", "--", str(seed + port), *shape],
                stdout=subprocess.PIPE,
                text=True,
            )
            for port in ports
        ]
        return [_read_wrk(process.communicate(timeout=seconds + 30)[0]) for process in running]


def _read_wrk(printed: str) -> Measured:
    result = Measured()
    for line in printed.splitlines():
        words = line.split()
        if line.startswith("TOTAL"):
            result.duration_s, result.requests = int(words[1]) / 1e6, int(words[2])
            result.errors = int(words[3])
        elif line.startswith("LATENCY"):
            result.latency_us[int(words[1])] += int(words[2])
    if not result.duration_s:
        raise SystemExit(f"wrk did not run:\n{printed}")
    return result


def _run_python(ports: list[int], workload: Workload, seconds: int, seed: int) -> list[Measured]:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(ports), mp_context=spawn) as pool:
        return list(pool.map(_load_one, ports, repeat(workload), repeat(seconds), repeat(seed)))


def _load_one(port: int, workload: Workload, seconds: int, seed: int) -> Measured:
    chance = random.Random(seed + port)
    numbers = (chance.randint(1, workload.keys) for _ in repeat(None))
    try:
        import uvloop
    except ImportError:
        return asyncio.run(_drive(port, workload, seconds, numbers))
    return uvloop.run(_drive(port, workload, seconds, numbers))


async def _drive(port: int, workload: Workload, seconds: int | None, numbers: Iterator[int]) -> Measured:
    """Until the time is over (requests under way then do not count) or the numbers run out."""
    loop = asyncio.get_running_loop()
    result = Measured()
    connections: list[_Connection] = []
    started = time.perf_counter()
    for _ in range(workload.connections):
        connection = _Connection(port, workload, numbers, result)
        await loop.create_connection(lambda made=connection: made, "127.0.0.1", port)  # type: ignore[misc]
        connections.append(connection)
    await asyncio.wait([c.done for c in connections], timeout=seconds)
    result.duration_s = time.perf_counter() - started
    for connection in connections:
        connection.close()
    return result


class _Connection(asyncio.Protocol):
    """One request after the other. Knows as much of HTTP/1.1 as two honest servers need."""

    def __init__(self, port: int, workload: Workload, numbers: Iterator[int], result: Measured) -> None:
        self._numbers, self._result = numbers, result
        verb = "PUT" if workload.value_bytes else "GET"
        self._head = f"{verb} {workload.prefix}".encode()
        self._tail = f" HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n".encode()
        if workload.value_bytes:
            self._tail += b"Content-Length: %d\r\n" % workload.value_bytes
        self._tail += b"\r\n" + b"x" * workload.value_bytes
        self._buffer, self._sent_at = b"", 0.0
        self._transport: asyncio.Transport | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass of it
        self._send()

    def _send(self) -> None:
        number = next(self._numbers, None)
        if number is None:
            self.close()
        elif self._transport is not None:
            self._sent_at = time.perf_counter()
            self._transport.write(b"%b%d%b" % (self._head, number, self._tail))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head_bytes = self._buffer.find(b"\r\n\r\n") + 4
        if head_bytes < 4:
            return
        head = self._buffer[:head_bytes].lower()
        at = head.find(b"content-length:")
        body_bytes = int(head[at + 15 : head.index(b"\r\n", at)]) if at > 0 else 0
        if len(self._buffer) < head_bytes + body_bytes:
            return
        self._result.latency_us[int((time.perf_counter() - self._sent_at) * 1e6)] += 1
        self._result.requests += 1
        if head[9:10] != b"2":
            self._result.errors += 1
        self._buffer = b""
        self._send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self._result.errors += 1
            self.done.set_result(None)

    def close(self) -> None:
        if not self.done.done():
            self.done.set_result(None)
        if self._transport is not None:
            self._transport.abort()
