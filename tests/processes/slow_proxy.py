"""A TCP proxy in front of a node: what others send to it arrives later, in order, and nothing is lost."""

from __future__ import annotations

import asyncio
from contextlib import suppress

_CHUNK_BYTES = 64 * 1024


class SlowProxy:
    """127.0.0.1:`port` leads to `target`. `delay_s` may change at any time, what comes back is in time."""

    def __init__(self, port: int, target: int) -> None:
        self.port, self._target = port, target
        self.delay_s = 0.0
        self.delayed_bytes = 0
        self._server: asyncio.Server
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> SlowProxy:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._connected(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            back, there = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        ways = [asyncio.ensure_future(self._pass_on(reader, there, slow=True)),
                asyncio.ensure_future(self._pass_on(back, writer, slow=False))]  # fmt: skip
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for end in (writer, there):
                end.close()

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, slow: bool
    ) -> None:
        """Chunks wait in a line, each for its own time, so that a delay is no limit of the rate."""
        loop = asyncio.get_running_loop()
        line: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=4096)

        async def deliver() -> None:
            while True:
                due_s, chunk = await line.get()
                if (early_s := due_s - loop.time()) > 0:
                    await asyncio.sleep(early_s)
                writer.write(chunk)
                await writer.drain()

        delivery = asyncio.ensure_future(deliver())
        try:
            with suppress(ConnectionError):
                while chunk := await reader.read(_CHUNK_BYTES):
                    delay_s = self.delay_s if slow else 0.0
                    self.delayed_bytes += len(chunk) if delay_s else 0
                    await line.put((loop.time() + delay_s, chunk))
        finally:
            delivery.cancel()
            await asyncio.gather(delivery, return_exceptions=True)
