"""The floor: three nodes that copy bytes to each other, with nothing in them that makes a store worth having.

N=3, R=2, W=2 out of the parts a real node is made of: aiohttp, framed msgpack over TCP, RocksDB,
grouped syncs, uvloop. No versions, no failure handling, no deadlines, no membership. It shows what the
parts cost by themselves, so that the real thing can be measured against it in the same run.

    python -m benchmarks.floor INDEX DATA_DIR --http-ports A,B,C --peer-ports D,E,F [--async] [--asyncio]

Serves GET and PUT /kv/KEY on 127.0.0.1. `--async` acknowledges before the sync.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import msgpack
from aiohttp import web
from rocksdict import Options, Rdict

_pack: Callable[[Any], bytes] = msgpack.Packer().pack


class Frames(asyncio.Protocol):
    """msgpack messages both ways; what is sent in one turn of the loop leaves in one write."""

    def __init__(self, on_message: Callable[[Frames, Any], None]) -> None:
        self._on_message, self._unpacker = on_message, msgpack.Unpacker()
        self._loop = asyncio.get_running_loop()
        self._out: list[bytes] = []
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass of it

    def data_received(self, data: bytes) -> None:
        self._unpacker.feed(data)
        for message in self._unpacker:
            self._on_message(self, message)

    def send(self, message: Any) -> None:
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(_pack(message))

    def _flush(self) -> None:
        if self._transport is not None:
            self._transport.write(b"".join(self._out))
        self._out.clear()


class Store:
    """RocksDB; a write is acknowledged by a sync in a thread, one at a time, shared by all who wait."""

    def __init__(self, path: Path, *, sync: bool) -> None:
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        self._db = Rdict(str(path), options)
        self.get: Callable[[bytes], bytes | None] = self._db.get
        self._sync, self._loop = sync, asyncio.get_running_loop()
        self._waiting: list[Callable[[], None]] = []
        self._busy = False

    def put(self, key: bytes, value: bytes, on_durable: Callable[[], None]) -> None:
        self._db.put(key, value)
        if not self._sync:
            on_durable()
            return
        self._waiting.append(on_durable)
        if not self._busy:
            self._busy = True
            self._loop.call_soon(self._start)  # after the writes of this turn, so that they share it

    def _start(self) -> None:
        group, self._waiting = self._waiting, []
        self._loop.run_in_executor(None, self._run, group)

    def _run(self, group: list[Callable[[], None]]) -> None:
        self._db.flush_wal(True)
        self._loop.call_soon_threadsafe(self._done, group)

    def _done(self, group: list[Callable[[], None]]) -> None:
        for on_durable in group:
            on_durable()
        if self._waiting:
            self._start()
        else:
            self._busy = False


class FloorNode:
    """One of the three. `peers` are set once both others answer."""

    def __init__(self, index: int, store: Store) -> None:
        self._index, self._store, self._loop = index, store, asyncio.get_running_loop()
        self._pending: dict[int, Callable[[Any], None]] = {}
        self._calls = 0
        self.peers: list[Frames] = []

    def on_call(self, peer: Frames, message: Any) -> None:
        call, key, value = message
        if value is None:
            peer.send((call, self._store.get(key)))
        else:
            self._store.put(key, value, lambda: peer.send((call, 1)))

    def on_answer(self, _: Frames, message: Any) -> None:
        self._pending.pop(message[0])(message[1])

    def _call(self, peer: Frames, key: bytes, value: bytes | None, then: Callable[[Any], None]) -> None:
        self._calls += 1
        self._pending[self._calls] = then
        peer.send((self._calls, key, value))

    async def handle(self, request: web.BaseRequest) -> web.Response:
        key = request.path[4:].encode()
        met: asyncio.Future[Any] = self._loop.create_future()
        if request.method == "GET":
            mine = self._store.get(key)
            self._call(self.peers[random.random() < 0.5], key, None, met.set_result)
            await met
            if mine is None:
                return web.Response(status=404)
            return web.Response(body=mine, headers={"ETag": '"0123"', "KV-Context": "0123456789abcdef"})
        record = _pack([1, [[self._index, 1]], time.time(), await request.read()])
        acks = 0

        def ack(_: Any = None) -> None:
            nonlocal acks
            acks += 1
            if acks == 2:
                met.set_result(None)

        self._store.put(key, record, ack)
        for peer in self.peers:
            self._call(peer, key, record, ack)
        await met
        return web.Response(status=204, headers={"KV-Context": "0123456789abcdef"})


async def serve(
    index: int, data_dir: Path, http_ports: list[int], peer_ports: list[int], *, sync: bool
) -> None:
    """Runs until it is killed. HTTP is opened last, so a node that answers is one that is ready."""
    loop = asyncio.get_running_loop()
    node = FloorNode(index, Store(data_dir / f"floor{index}", sync=sync))
    await loop.create_server(lambda: Frames(node.on_call), "127.0.0.1", peer_ports[index])
    for port in peer_ports[:index] + peer_ports[index + 1 :]:
        node.peers.append(await _connected(lambda: Frames(node.on_answer), port))
    runner = web.ServerRunner(web.Server(node.handle, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", http_ports[index]).start()
    await asyncio.Event().wait()


async def _connected(factory: Callable[[], Frames], port: int) -> Frames:
    async with asyncio.timeout(10):
        while True:
            try:
                return (await asyncio.get_running_loop().create_connection(factory, "127.0.0.1", port))[1]
            except ConnectionRefusedError:
                await asyncio.sleep(0.05)


def _ports(text: str) -> list[int]:
    ports = [int(port) for port in text.split(",")]
    if len(ports) != 3:
        raise argparse.ArgumentTypeError(f"{text!r} must be three ports, separated by commas")
    return ports


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("index", type=int, choices=range(3))
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--http-ports", type=_ports, required=True)
    parser.add_argument("--peer-ports", type=_ports, required=True)
    parser.add_argument("--async", dest="sync", action="store_false", help="acknowledge before the sync")
    parser.add_argument("--asyncio", action="store_true", help="the standard event loop instead of uvloop")
    a = parser.parse_args()
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if not a.asyncio:
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve(a.index, a.data_dir, a.http_ports, a.peer_ports, sync=a.sync))


if __name__ == "__main__":
    main()
