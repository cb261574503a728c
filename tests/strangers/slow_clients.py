"""A thousand connections that take their time: half never finish a header, half never finish a body.

    python -m tests.strangers.slow_clients PORT COUNT ADDRESS SECONDS

A process of its own, so that it costs the clients beside it nothing. Each connection sends one byte per
second, and is made again when the node has closed it. Prints JSON when the time is over.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter

HEADER = b"GET /v1/kv/b/k HTTP/1.1\r\nHost: x\r\nX-Slow: "
BODY = b"PUT /v1/kv/slow/k HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"
AGAIN_S = 0.5


async def slow(number: int, port: int, address: str, ends: Counter[str], held: Counter[str]) -> None:
    """Goes on until it is cancelled."""
    kind, beginning = ("header", HEADER) if number % 2 else ("body", BODY)
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
        except OSError:
            ends["not connected"] += 1
            await asyncio.sleep(AGAIN_S)
            continue
        held["open"] += 1
        held["most"] = max(held["most"], held["open"])
        answer = asyncio.ensure_future(reader.read(64))
        try:
            writer.write(beginning)
            while not answer.done():
                await asyncio.wait([answer], timeout=1.0)
                writer.write(b"x")
            status = answer.result()[9:12].decode(errors="replace") or "closed"
            ends[f"{kind}: {status}"] += 1
        except OSError:
            ends[f"{kind}: reset"] += 1
        finally:
            held["open"] -= 1
            answer.cancel()
            writer.transport.abort()
        await asyncio.sleep(AGAIN_S)


async def main(port: int, count: int, address: str, seconds: float) -> None:
    ends, held = Counter[str](), Counter[str]()
    tasks = [asyncio.ensure_future(slow(i, port, address, ends, held)) for i in range(count)]
    await asyncio.sleep(seconds)
    print(json.dumps({"most held at once": held["most"], **ends}), flush=True)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], float(sys.argv[4])))
