"""Data directories that are emptied, put back to an old copy, or copied, under load.

Each cycle does one of them to one node, and the next one waits until the copies of that node have been
compared with all their other homes: the promise survives the loss of W-1 copies, not of more.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import time
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.processes import free_ports
from tests.processes.recorder import BUCKET
from tests.processes.rig import Outcome, Rig, rig
from tests.processes.scenarios import HEALED_S_MAX

TWIN_ENDS_S_MAX = 5.0
RECOVERED_S_MAX = 30.0
FORGOTTEN_S = 1.5
"""Of load between the copy of a directory and its return."""

KINDS = ("wipe", "restore", "clone", "restore-clean")


class Dots:
    """Which write each dot was seen to name, over the whole run."""

    def __init__(self) -> None:
        self.names: dict[str, tuple[str, str]] = {}
        self.reused: list[str] = []

    async def look(self, run: Rig) -> None:
        for key, found in (await run.explained()).items():
            for home in (*found.get("homes", ()), *found.get("hints", ())):
                for sibling in home.get("siblings", ()):
                    write = key, sibling["operation_id"]
                    if self.names.setdefault(sibling["dot"], write) != write:
                        self.reused.append(f"{sibling['dot']} names {self.names[sibling['dot']]} and {write}")


async def amnesia(directory: Path, *, cycles: int = 50) -> Outcome:
    chance = random.Random(cycles)
    async with rig("wiped, restored, cloned", directory) as run:
        run.recorder.start()
        await asyncio.sleep(1.0)
        ids = {m["name"]: m["id"] for m in (await run.document(0, "/v1/cluster"))["members"]}
        dots, ended, recovered, served = Dots(), list[float](), list[float](), list[int]()
        for number in range(cycles):
            kind, node = KINDS[number % len(KINDS)], chance.randrange(len(run.urls))
            if kind == "wipe":
                await _wipe(run, node, ids[f"n{node + 1}"])
            elif kind == "clone":
                twin = _Twin(run, node, directory / f"clone{number}")
                ended.append(await twin.live())
                served += twin.served
            else:
                await _restore(run, node, directory / f"old{number}", clean=kind == "restore-clean")
            recovered.append(await _recovered(run, node))
            await dots.look(run)
        outcome = await run.finish(converged_s_max=HEALED_S_MAX)
        await dots.look(run)
        outcome.figures["cycles"] = str(cycles)
        outcome.bound("copies filled again, worst", max(recovered), RECOVERED_S_MAX, "s")
        if ended:
            outcome.bound("twin refused and ended after, worst", max(ended), TWIN_ENDS_S_MAX, "s")
            outcome.figures["puts sent to twins, and taken"] = f"{len(served)}, {served.count(204)}"
        outcome.figures["dots seen, and reused"] = f"{len(dots.names)}, {len(dots.reused)}"
        outcome.violations += [f"dot reused: {text}" for text in dots.reused]
        return outcome


async def _wipe(run: Rig, node: int, node_id: str) -> None:
    await run.kill(node)
    await asyncio.to_thread(shutil.rmtree, run.data_dir(node))
    await run.restart(node, KVSTORE_RECOVER_AS=node_id)
    run.confirm(_said(run, node, "empty data directory: new replica ids"), f"n{node + 1} recovers")


async def _restore(run: Rig, node: int, old: Path, *, clean: bool) -> None:
    """The copy is of a clean stop, with the ids in it, or of a crash; later the node is put back to it."""
    await (run.stop(node) if clean else run.kill(node))
    await asyncio.to_thread(shutil.copytree, run.data_dir(node), old)
    await run.restart(node)
    await asyncio.sleep(FORGOTTEN_S)
    await run.kill(node)
    await asyncio.to_thread(shutil.rmtree, run.data_dir(node))
    await asyncio.to_thread(shutil.move, old, run.data_dir(node))
    before = _count(run, node, _PAST)
    await run.restart(node)
    run.confirm(_count(run, node, _PAST) > before, f"n{node + 1} knows that its directory is old")


class _Twin:
    """A second process on a copy of a clean stop, beside the first one, which goes on."""

    def __init__(self, run: Rig, node: int, copy: Path) -> None:
        self.run, self.node, self.copy = run, node, copy
        self.served: list[int] = []

    async def live(self) -> float:
        """Seconds from its start until it has ended itself; puts are sent to it all the time."""
        run, node = self.run, self.node
        await run.stop(node)
        await asyncio.to_thread(shutil.copytree, run.data_dir(node), self.copy)
        await run.restart(node)
        arguments, _, settings, _ = run.cluster.starts[run.cluster.ports[node]]
        http, rpc = free_ports(2)
        elsewhere = {
            "KVSTORE_DATA_DIR": str(self.copy),
            "KVSTORE_HTTP_LISTEN": f"127.0.0.1:{http}",
            "KVSTORE_RPC_LISTEN": f"127.0.0.1:{rpc}",
        }
        log = self.copy.with_suffix(".log")
        with run.cluster.beside(arguments, log, {**settings, **elsewhere}) as twin:
            await run.until(lambda: log.exists() and '"serving"' in log.read_text(), 20.0, "the twin listens")
            began_s = time.monotonic()
            while twin.poll() is None and time.monotonic() - began_s < 4 * TWIN_ENDS_S_MAX:
                await self._put(http)
            took_s = time.monotonic() - began_s
            text = await asyncio.to_thread(log.read_text)
            run.confirm(twin.poll() == 2 and "another process runs with this node" in text, "a twin ended")
        return took_s

    async def _put(self, port: int) -> None:
        url = f"http://127.0.0.1:{port}/v1/kv/{BUCKET}-twin/k{len(self.served)}?timeout=1s"
        try:
            async with self.run.http.put(url, data=b"x") as answer:
                await answer.read()
                self.served.append(answer.status)
        except aiohttp.ClientError:
            self.served.append(0)
        await asyncio.sleep(0.05)


_PAST = "restored or cloned data directory"


def _count(run: Rig, node: int, text: str) -> int:
    return run.cluster.log(run.cluster.ports[node]).read_text().count(text)


def _said(run: Rig, node: int, text: str) -> bool:
    return _count(run, node, text) > 0


async def _recovered(run: Rig, node: int) -> float:
    """Seconds until no copy of this node recovers."""
    began_s = time.monotonic()
    while True:
        status: dict[str, Any] = await run.document(node, "/v1/repair")
        if status.get("partitions_recovering") == 0:
            return time.monotonic() - began_s
        if time.monotonic() - began_s > 4 * RECOVERED_S_MAX:
            return float("inf")
        await asyncio.sleep(0.1)
