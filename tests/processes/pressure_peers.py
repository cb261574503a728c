"""Pressure from a peer: one node of a cluster is slow, or stands still. Real processes, open loops.

- gray: what others send to one of three nodes arrives 200 ms late (slow_proxy.py); its gossip goes on.
  The p99 of quorum reads of all keys, before and meanwhile, the onset included.
- stalled: one of five nodes is stopped (SIGSTOP) and let go again and again. The p99 of reads of the keys
  it is no home of, while it goes and while it is stopped. Each node works on six requests at once, so
  that those that wait for the stalled one would take the places of the others.

The control is the same cluster with hedges and the latency breaker switched off by their settings. A
request that is not answered well counts as one that took as long as clients wait.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from itertools import chain
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.processes import Processes, free_ports
from kvstore.core.hedging import quantile
from kvstore.core.ring import full_key, partition_of
from tests.processes.slow_proxy import SlowProxy

KEYS, VALUE_BYTES, BUCKET = 500, 100, "b"
RATE_PER_S = 200.0
TIMEOUT_S = 2.0
GRAY_S = 0.2
STOPPED_S, GOING_S = 1.5, 2.0
AFTER_S = 0.5  # reads that waited for it end so much later at the latest: their deadline between nodes
FEW_AT_ONCE = {"KVSTORE_IN_FLIGHT_MAX": "6", "KVSTORE_IN_FLIGHT_MIN": "6"}
OFF = {"KVSTORE_HEDGE_DELAY_S": "1000", "KVSTORE_SLOW_PEER_FACTOR": "1000000"}
BACK_S_MAX = 20.0

Figures = dict[str, float]
Took = list[tuple[float, float]]
"""(when it was due on the clock of perf_counter, seconds that it took) of each read."""


class Cluster:
    """`nodes` nodes, N=3, fully formed. The last one is met through `proxy` by the others."""

    def __init__(self, folder: Path, nodes: int, settings: dict[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        ports = free_ports(2 * nodes + 1)
        self.ports, rpc_ports, proxy_port = ports[:nodes], ports[nodes:-1], ports[-1]
        self.proxy = SlowProxy(proxy_port, rpc_ports[-1])
        met_at = [*rpc_ports[:-1], proxy_port]
        shared = {
            "KVSTORE_SEEDS": ",".join(f"127.0.0.1:{port}" for port in met_at),
            "KVSTORE_BOOTSTRAP_EXPECT": str(nodes), "KVSTORE_CLUSTER_KEY": os.urandom(32).hex(),
            "KVSTORE_LOG_FORMAT": "json",
        }  # fmt: skip
        self.processes = Processes("/readyz", (200,))
        self._start = [
            shared | settings | {
                "KVSTORE_NAME": f"n{i + 1}", "KVSTORE_HOST": f"n{i + 1}",
                "KVSTORE_DATA_DIR": str(folder / f"n{i + 1}"),
                "KVSTORE_HTTP_LISTEN": f"127.0.0.1:{self.ports[i]}",
                "KVSTORE_RPC_LISTEN": f"127.0.0.1:{rpc_ports[i]}",
                "KVSTORE_ADVERTISE_RPC": f"127.0.0.1:{met_at[i]}",
            }
            for i in range(nodes)
        ]  # fmt: skip
        self._folder = folder
        self._stack = AsyncExitStack()
        self.session: aiohttp.ClientSession
        self.homes: list[list[int]] = []  # of each key: ports

    async def __aenter__(self) -> Cluster:
        await self._stack.enter_async_context(self.proxy)
        self._stack.enter_context(self.processes)
        for port, settings in zip(self.ports, self._start, strict=True):
            log = self._folder / f"{settings['KVSTORE_NAME']}.log"
            self.processes.start(port, ["-m", "kvstore", "serve"], log, settings)
        await asyncio.to_thread(self.processes.wait_ready)
        connector = aiohttp.TCPConnector(limit=0)
        self.session = await self._stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        layout = await self._json(self.ports[0], "/v1/layout")
        by_name = {f"n{i + 1}": port for i, port in enumerate(self.ports)}
        members = [by_name[member["name"]] for member in layout["members"]]
        for key in range(KEYS):
            walk = layout["walks"][partition_of(full_key(BUCKET, self._key(key).encode()))]
            self.homes.append([members[at] for at in walk[:3]])
            target = self._url(self.homes[key][0], key)
            async with self.session.put(f"{target}?w=3", data=b"v" * VALUE_BYTES) as answer:
                assert answer.status == 204, answer.status
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def read(self, port: int, key: int, due_s: float) -> float:
        """Seconds from `due_s` to the answer; TIMEOUT_S if it is none."""
        try:
            async with asyncio.timeout(max(0.001, due_s + TIMEOUT_S - time.perf_counter())):
                async with self.session.get(self._url(port, key)) as answer:
                    await answer.read()
        except (TimeoutError, aiohttp.ClientError):
            return TIMEOUT_S
        return time.perf_counter() - due_s if answer.status == 200 else TIMEOUT_S

    async def load(self, seconds: float, targets: Sequence[tuple[int, int]]) -> list[Took]:
        """Reads of (port, key) in turn, one every 1/RATE_PER_S; what became of those of each target."""
        took: list[Took] = [[] for _ in targets]

        async def one(at: int, due_s: float) -> None:
            took[at].append((due_s, await self.read(*targets[at], due_s)))

        began_s, tasks = time.perf_counter(), []
        for number in range(int(RATE_PER_S * seconds)):
            due_s = began_s + number / RATE_PER_S
            if (early_s := due_s - time.perf_counter()) > 0:
                await asyncio.sleep(early_s)
            tasks.append(asyncio.ensure_future(one(number % len(targets), due_s)))
        await asyncio.gather(*tasks)
        return took

    async def counted(self, name: str) -> float:
        """The sum of a metric over the nodes that answer."""
        total = 0.0
        for port in self.ports:
            async with self.session.get(f"http://127.0.0.1:{port}/metrics") as answer:
                found = re.findall(
                    rf"^{name}(?:{{[^}}]*}})? ([0-9.e+-]+)$", await answer.text(), re.MULTILINE
                )
            total += sum(map(float, found))
        return total

    async def all_in_turn(self) -> bool:
        """Whether every node has every other one in reach and asks it in its turn."""
        states = [
            member["state"]
            for port in self.ports
            for member in (await self._json(port, "/v1/cluster"))["members"]
        ]
        return all(state == "up" for state in states)

    async def until_all_in_turn(self, targets: Sequence[tuple[int, int]]) -> float:
        """Reads go on meanwhile: a node finds out by them. Seconds; infinite if it takes too long."""
        began_s = time.perf_counter()
        while not await self.all_in_turn():
            if time.perf_counter() - began_s > BACK_S_MAX:
                return float("inf")
            await self.load(0.25, targets)
        return time.perf_counter() - began_s

    def _key(self, key: int) -> str:
        return f"k{key:04}"

    def _url(self, port: int, key: int) -> str:
        return f"http://127.0.0.1:{port}/v1/kv/{BUCKET}/{self._key(key)}"

    async def _json(self, port: int, path: str) -> Any:
        async with self.session.get(f"http://127.0.0.1:{port}{path}") as answer:
            return await answer.json(content_type=None)


def p99_ms(reads: Took) -> float:
    return quantile(sorted(took_s for _, took_s in reads), 0.99) * 1000


def failed(reads: Took) -> int:
    return sum(took_s == TIMEOUT_S for _, took_s in reads)


async def gray(folder: Path, settings: dict[str, str], seconds: float) -> Figures:
    """One of three homes is 200 ms late."""
    async with Cluster(folder, 3, settings) as cluster:
        targets = [(cluster.ports[key % 3], key) for key in range(KEYS)]
        await cluster.load(2.0, targets)
        before_ms = p99_ms(list(chain(*await cluster.load(seconds, targets))))
        hedges = await cluster.counted("kvstore_hedges_total")
        cluster.proxy.delay_s = GRAY_S
        took = list(chain(*await cluster.load(seconds, targets)))
        delay_s = await cluster.counted("kvstore_hedge_delay_seconds") / 3
        hedges = await cluster.counted("kvstore_hedges_total") - hedges
        assert cluster.proxy.delayed_bytes, "nothing was delayed"
        cluster.proxy.delay_s = 0.0
        back_s = await cluster.until_all_in_turn(targets)
        gray_ms = p99_ms(took)
    return {
        "read p99 before, ms": before_ms,
        "read p99 meanwhile, ms": gray_ms,
        "over 150 ms, share": sum(took_s > 0.75 * GRAY_S for _, took_s in took) / len(took),
        "p99 / (2x before + a hedge delay)": gray_ms / (2 * before_ms + delay_s * 1000),
        "hedges / read": hedges / len(took),
        "in its turn again after, s": back_s,
    }


async def stalled(folder: Path, settings: dict[str, str], seconds: float) -> Figures:
    """One of five nodes stands still.

    Both figures are of one load, taken in turns: so is whatever else the machine does meanwhile.
    """
    async with Cluster(folder, 5, FEW_AT_ONCE | settings) as cluster:
        still = cluster.ports[-1]
        others = [key for key, homes in enumerate(cluster.homes) if still not in homes]
        its_own = [key for key, homes in enumerate(cluster.homes) if still in homes][: len(others)]
        targets = []
        for at, key in enumerate([*others, *its_own]):
            living = [port for port in cluster.homes[key] if port != still]
            targets.append((living[at % len(living)], key))
        random.Random(1).shuffle(targets)
        await cluster.load(2.0, targets)
        load = asyncio.ensure_future(cluster.load(2 * seconds, targets))
        stops = await _stop_and_go(cluster, still, load)
        assert stops, "it was never stopped"
        took = dict(zip([key for _, key in targets], await load, strict=True))
    of_others = [read for key in others for read in took[key]]
    of_its_own = [read for key in its_own for read in took[key]]
    going = [read for read in of_others if not _is_within(read[0], stops)]
    meanwhile = [read for read in of_others if _is_within(read[0], stops)]
    return {
        "others p99 going, ms": p99_ms(going),
        "others p99 stopped, ms": p99_ms(meanwhile),
        "others p99, stopped / going": p99_ms(meanwhile) / p99_ms(going),
        "others failed": failed(of_others),
        "its own p99, ms": p99_ms(of_its_own),
        "its own failed": failed(of_its_own),
    }


async def _stop_and_go(cluster: Cluster, port: int, load: asyncio.Future[Any]) -> list[tuple[float, float]]:
    """Until the load ends; from when to when it was stopped, or reads still waited for it."""
    stops = []
    while not load.done():
        await asyncio.sleep(GOING_S)
        began_s = time.perf_counter()
        cluster.processes.send(port, signal.SIGSTOP)
        await asyncio.sleep(STOPPED_S)
        if _is_stopped(cluster.processes.pid(port)):
            stops.append((began_s, time.perf_counter() + AFTER_S))
        cluster.processes.send(port, signal.SIGCONT)
    return stops


def _is_within(at_s: float, spans: Sequence[tuple[float, float]]) -> bool:
    return any(from_s <= at_s < to_s for from_s, to_s in spans)


def _is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
