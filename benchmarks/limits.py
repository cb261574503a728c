"""What the parts can do by themselves: no store made of them can be faster.

python -m benchmarks.limits PORT     the bare HTTP server that is measured here
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web
from rocksdict import Options, Rdict, WriteBatch

from benchmarks.floor import Frames
from benchmarks.loader import Paths
from benchmarks.processes import Processes, free_ports
from benchmarks.suite import VALUE_BYTES, Store, Suite

GROUP = "Physical limits"
FRAMES_IN_FLIGHT = (1, 32, 128)
T = TypeVar("T")
_RECORDS, _GROUP_OF_SYNC = 20_000, 32


def run(suite: Suite, directory: Path) -> None:
    http(suite, directory)
    for in_flight in FRAMES_IN_FLIGHT:
        name = f"framed msgpack call on loopback, {in_flight} in flight"
        suite.rounds(GROUP, name, partial(frames, in_flight), in_flight=in_flight)
    engine(suite, directory)


def http(suite: Suite, directory: Path) -> None:
    """aiohttp's low-level server in one process, answering the same bytes to everything."""
    (port,) = free_ports(1)
    with Processes("/", (200,)) as server:
        server.start(port, ["-m", "benchmarks.limits", str(port)], directory / "http.log", {})
        server.wait_ready()
        bare = Store("aiohttp", server, Paths("/"))
        measure = partial(suite.peak, bare, "get", connections=32)
        suite.rounds(GROUP, "aiohttp GET, one process", measure, loop="closed", connections=32)


def frames(in_flight: int, _: int) -> dict[str, Any]:
    """The floor's frames, an echo, both ends in one process and one loop: half of it is each end's."""
    return run_main(_frames(in_flight, calls=2000 * in_flight))


async def _frames(in_flight: int, calls: int) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    payload, done = b"x" * VALUE_BYTES, loop.create_future()
    left = to_come = calls

    def on_answer(frames: Frames, message: Any) -> None:
        nonlocal left, to_come
        to_come -= 1
        if left > 0:
            left -= 1
            frames.send((left, payload))
        elif to_come == 0:
            done.set_result(None)

    server = await loop.create_server(lambda: Frames(lambda f, m: f.send((m[0], 1))), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    transport, client = await loop.create_connection(lambda: Frames(on_answer), "127.0.0.1", port)
    began_s = time.perf_counter()
    for _ in range(in_flight):
        left -= 1
        client.send((left, payload))
    await done
    seconds = time.perf_counter() - began_s
    transport.abort()
    server.close()
    return {"per_s": round(calls / seconds), "us": round(seconds / calls * 1e6, 2)}


def engine(suite: Suite, directory: Path) -> None:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    db = Rdict(str(directory / "engine"), options)
    value = b"x" * VALUE_BYTES
    keys = [b"user%012d" % i for i in range(_RECORDS)]

    def put(_: int) -> dict[str, Any]:
        return _each(lambda key: db.put(key, value), keys)

    def sync(_: int) -> dict[str, Any]:
        def write(key: bytes) -> None:
            db.put(key, value)
            db.flush_wal(True)

        return _each(write, keys[:500])

    def grouped(_: int) -> dict[str, Any]:
        def write(at: int) -> None:
            batch = WriteBatch(raw_mode=True)
            for key in keys[at : at + _GROUP_OF_SYNC]:
                batch.put(key, value)
            db.write(batch)
            db.flush_wal(True)

        found = _each(write, range(0, 300 * _GROUP_OF_SYNC, _GROUP_OF_SYNC))
        return {"per_s": found["per_s"] * _GROUP_OF_SYNC, "us": round(found["us"] / _GROUP_OF_SYNC, 2)}

    def scan(_: int) -> dict[str, Any]:
        began_s = time.perf_counter()
        count = sum(1 for _ in db.items())
        seconds = time.perf_counter() - began_s
        return {"per_s": round(count / seconds), "us": round(seconds / count * 1e6, 3)}

    suite.rounds(GROUP, "RocksDB put, not synced", put)
    suite.rounds(GROUP, "RocksDB get", lambda _: _each(db.get, keys))
    suite.rounds(GROUP, "RocksDB put, each synced", sync)
    suite.rounds(GROUP, f"RocksDB put, {_GROUP_OF_SYNC} per sync", grouped)
    suite.rounds(GROUP, "RocksDB scan, per record", scan)
    db.close()


def _each(work: Callable[[Any], object], arguments: Sequence[Any]) -> dict[str, Any]:
    began_s = time.perf_counter()
    for argument in arguments:
        work(argument)
    seconds = time.perf_counter() - began_s
    return {"per_s": round(len(arguments) / seconds), "us": round(seconds / len(arguments) * 1e6, 3)}


def run_main(main: Coroutine[Any, Any, T]) -> T:
    """asyncio.run, on uvloop where it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    return uvloop.run(main)


async def _serve(port: int) -> None:
    async def handle(request: web.BaseRequest) -> web.Response:
        return web.Response(
            body=b"x" * VALUE_BYTES, headers={"ETag": '"0123"', "KV-Context": "0123456789abcdef"}
        )

    runner = web.ServerRunner(web.Server(handle, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    run_main(_serve(int(sys.argv[1])))
