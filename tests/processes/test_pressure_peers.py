"""What make pressure says of slow and stalled nodes, in short; and that the proxy it is made with is slow."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from benchmarks.processes import free_ports
from tests.processes.pressure_peers import OFF, gray, stalled
from tests.processes.slow_proxy import SlowProxy


async def test_what_is_sent_through_the_proxy_arrives_later_and_in_order() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(100):
            writer.write(chunk)
        writer.close()

    port, target = free_ports(2)
    loop = asyncio.get_running_loop()
    server = await asyncio.start_server(echo, "127.0.0.1", target)
    async with server, SlowProxy(port, target) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for delay_s in (0.0, 0.05, 0.0):
            proxy.delay_s = delay_s
            began_s = loop.time()
            for byte in range(10):
                writer.write(bytes([byte]))
                await writer.drain()
            assert await reader.readexactly(10) == bytes(range(10))
            assert loop.time() - began_s >= delay_s
        writer.close()
    assert proxy.delayed_bytes == 10


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.timeout(180)
async def test_a_home_that_is_late_slows_reads_by_a_hedge_and_not_by_its_delay(tmp_path: Path) -> None:
    with_it = await gray(tmp_path / "with", {}, 8.0)
    control = await gray(tmp_path / "control", OFF, 8.0)
    assert control["read p99 meanwhile, ms"] > 200
    assert control["over 150 ms, share"] > 0.2, "a third of the reads asks the late one"
    assert with_it["over 150 ms, share"] < control["over 150 ms, share"] / 2
    assert with_it["hedges / read"] < 0.1
    assert control["hedges / read"] == 0
    assert with_it["in its turn again after, s"] < 20


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.timeout(180)
async def test_a_node_that_stands_still_takes_no_places_from_other_keys(tmp_path: Path) -> None:
    with_it = await stalled(tmp_path / "with", {}, 6.0)
    control = await stalled(tmp_path / "control", OFF, 6.0)
    failed = [figures["others failed"] + figures["its own failed"] for figures in (with_it, control)]
    assert failed[0] < failed[1], "those that wait for it take all places, and the others are shed"
    assert with_it["its own p99, ms"] < control["its own p99, ms"]
