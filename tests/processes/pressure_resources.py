"""A node that is left with 64 descriptors, or 256 MiB: it goes on, and is as before once it has more."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Mapping
from pathlib import Path

from tests.processes.pressure_load import get, put
from tests.processes.pressure_overload import recovery_s
from tests.processes.pressure_rig import VALUE, Group, Node

DESCRIPTORS = 64
MEMORY_BYTES = 256 * 1024 * 1024
P99_S = 0.25
NO_WATERMARK = {"KVSTORE_MEMORY_MAX_BYTES": str(1 << 40)}


async def descriptors(folder: Path, settings: Mapping[str, str], seconds: float) -> dict[str, float]:
    """Eight clients that were there before write what makes new files; 300 others connect and stay."""
    async with Node(folder, settings) as node:
        await node.load.closed(get(), 8, 0.5)
        before = resource.prlimit(node.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(node.pid, resource.RLIMIT_NOFILE, (DESCRIPTORS, before[1]))
        await asyncio.sleep(1.0)
        held = await node.load.hold(300)
        writes, reads = put(b"x" * 200_000), get()
        await node.load.open([(writes, 200.0), (reads, 100.0)], seconds)
        crashed = node.processes.ended(node.port) is not None
        normal_s = float("inf")
        if not crashed:
            resource.prlimit(node.pid, resource.RLIMIT_NOFILE, before)
            for transport in held:
                transport.abort()
            normal_s = await recovery_s(node, lambda: put(VALUE), 100.0, P99_S)
    return {
        "crashed": float(crashed),
        "reads served meanwhile": reads.outcomes.share,
        "writes served meanwhile": writes.outcomes.share,
        "normal after release, s": normal_s,
    }


async def memory(folder: Path, settings: Mapping[str, str], seconds: float) -> dict[str, float]:
    """Values of 1 MiB from 380 clients at once: more than there is memory for."""
    async with Node(folder, settings) as node:
        group = Group("memory", f"kvstore-memory-{node.port}")
        if group.missing:
            print(f"skipped: {group.missing}")
            return {}
        try:
            group.set("memory.limit_in_bytes", MEMORY_BYTES)
            group.add(node.pid)
            await asyncio.sleep(1.0)
            large, reads = put(b"x" * 1_000_000), get()
            await node.load.open([(large, 300.0), (reads, 100.0)], seconds)
            crashed = node.processes.ended(node.port) is not None
            normal_s = float("inf")
            if not crashed:
                group.set("memory.limit_in_bytes", 1 << 40)
                normal_s = await recovery_s(node, lambda: put(VALUE), 100.0, P99_S)
        finally:
            began_s = time.perf_counter()
            while group.path.exists() and time.perf_counter() - began_s < 5:
                group.remove()
    return {
        "crashed": float(crashed),
        "reads served meanwhile": reads.outcomes.share,
        "large writes served": large.outcomes.share,
        "normal after release, s": normal_s,
    }
