"""A cluster of real processes under recorded load: faults by pid, and the verdict at the end.

A run counts only if it did something: enough operations of each kind, siblings shown, and every planned
fault confirmed by what the kernel or the node itself says. Otherwise it is invalid, which is no pass.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp

from benchmarks.processes import Processes, start_cluster
from kvstore.simulation.checker import judge
from kvstore.simulation.history import Ended, FinalState, Kind, Operation
from kvstore.simulation.oracle import judge_sets
from tests.processes.recorder import BUCKET, SET_PREFIX, Recorder

GETS_MIN, PUTS_MIN, DELETES_MIN = 100, 50, 3
_ASKED_AT_ONCE = 16


@dataclass(slots=True)
class Outcome:
    """What a scenario reports: its figures in the order of the table, and why it does not pass."""

    scenario: str
    figures: dict[str, str] = field(default_factory=dict)
    invalid: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    """Bounds that were not kept."""

    @property
    def verdict(self) -> str:
        if self.violations:
            return "VIOLATED"
        return "INVALID" if self.invalid else "missed" if self.missed else "passed"

    def bound(self, name: str, value: float, most: float, unit: str) -> None:
        """Print a figure, and remember if it is more than it may be."""
        self.figures[name] = f"{value:.3g} {unit}".strip()
        if value > most:
            self.missed.append(f"{name}: {value:.3g} {unit}, at most {most:g}")

    def __str__(self) -> str:
        lines = [f"{self.scenario:<22} {self.verdict}"]
        lines += [f"    {name:<44} {value}" for name, value in self.figures.items()]
        for kind in ("violations", "invalid", "missed"):
            lines += [f"    {kind}: {text}" for text in getattr(self, kind)[:10]]
        return "\n".join(lines)


@dataclass(slots=True)
class Rig:
    """Nodes are numbered from 0; node i is called n{i+1} and is known to Processes by its HTTP port."""

    cluster: Processes
    directory: Path
    recorder: Recorder
    http: aiohttp.ClientSession
    outcome: Outcome
    faults: int = 0

    @property
    def urls(self) -> list[str]:
        return [f"http://127.0.0.1:{port}" for port in self.cluster.ports]

    @property
    def now_s(self) -> float:
        return asyncio.get_running_loop().time()

    def data_dir(self, node: int) -> Path:
        return self.directory / f"n{node + 1}"

    # --- faults -----------------------------------------------------------------------------------------

    async def kill(self, node: int) -> float:
        """SIGKILL. When, on the history's clock."""
        port = self.cluster.ports[node]
        if self.cluster.ended(port) is not None:
            self.outcome.invalid.append(f"n{node + 1} had ended before it was killed")
            return self.now_s
        at_s = self.now_s
        await asyncio.to_thread(self.cluster.kill, port)
        self.confirm(self.cluster.ended(port) == -signal.SIGKILL, f"n{node + 1} killed")
        return at_s

    async def pause(self, node: int, pause_s: float) -> None:
        """SIGSTOP, and SIGCONT after so long."""
        port = self.cluster.ports[node]
        self.cluster.send(port, signal.SIGSTOP)
        await self.until(lambda: _state(self.cluster.pid(port)) in "Tt", 1.0, f"n{node + 1} stopped")
        await asyncio.sleep(pause_s)
        self.confirm(_state(self.cluster.pid(port)) in "Tt", f"n{node + 1} stopped for {pause_s:.0f} s")
        self.cluster.send(port, signal.SIGCONT)

    async def stop(self, node: int) -> None:
        """SIGTERM, and the end of the process."""
        port = self.cluster.ports[node]
        self.cluster.send(port, signal.SIGTERM)
        await self.until(lambda: self.cluster.ended(port) is not None, 20.0, f"n{node + 1} ended")

    async def restart(self, node: int, **more: str) -> float:
        """Start again, with `more` in its environment; seconds until it serves."""
        port, began_s = self.cluster.ports[node], time.monotonic()
        self.cluster.restart(port, **more)
        await asyncio.to_thread(self.cluster.wait_ready, port)
        return time.monotonic() - began_s

    def confirm(self, hit: bool, fault: str) -> None:
        self.faults += hit
        if not hit:
            self.outcome.invalid.append(f"fault not confirmed: {fault}")

    async def until(self, condition: Any, deadline_s: float, what: str) -> float:
        """Seconds until `condition()`; a run in which it does not come true is invalid."""
        began_s = time.monotonic()
        while not condition():
            if time.monotonic() - began_s > deadline_s:
                self.outcome.invalid.append(f"not within {deadline_s:g} s: {what}")
                break
            await asyncio.sleep(0.01)
        return time.monotonic() - began_s

    # --- what the nodes say -----------------------------------------------------------------------------

    async def document(self, node: int, target: str, method: str = "GET") -> dict[str, Any]:
        """JSON of a node, {} if it does not answer with any."""
        timeout = aiohttp.ClientTimeout(total=90)
        with suppress(aiohttp.ClientError, TimeoutError, ValueError):
            async with self.http.request(method, self.urls[node] + target, timeout=timeout) as answer:
                found = json.loads(await answer.read())
                return found if isinstance(found, dict) and answer.status < 300 else {}
        return {}

    async def explained(self) -> dict[str, dict[str, Any]]:
        """/v1/explain of every key, asked of the nodes in turn."""
        bound = asyncio.Semaphore(_ASKED_AT_ONCE)

        async def one(number: int, key: str) -> tuple[str, dict[str, Any]]:
            async with bound:
                for attempt in range(len(self.urls)):
                    node = (number + attempt) % len(self.urls)
                    found = await self.document(node, f"/v1/explain/{BUCKET}/{quote(key)}")
                    if found:
                        return key, found
            return key, {}

        return dict(await asyncio.gather(*(one(*entry) for entry in enumerate(self.recorder.key_names))))

    async def converged(self, deadline_s: float) -> float:
        """Seconds until all homes of every key hold the same and no hint is left; infinite if they do not."""
        began_s = time.monotonic()
        while True:
            keys = (await self.explained()).values()
            if all(found.get("equal") or _nothing(found) for found in keys) and not any(
                found.get("hints") for found in keys
            ):
                return time.monotonic() - began_s
            if time.monotonic() - began_s > deadline_s:
                return float("inf")
            await asyncio.sleep(0.2)

    async def repair(self) -> None:
        """Every node compares everything it is a home of, now."""
        for node in range(len(self.urls)):
            await self.document(node, "/v1/repair?all=true&wait=true&timeout=60s", "POST")

    # --- the end ----------------------------------------------------------------------------------------

    async def finish(self, *, converged_s_max: float) -> Outcome:
        """End the load, wait until the replicas are equal, read everything, judge. All nodes must be up."""
        recorder, outcome = self.recorder, self.outcome
        await recorder.stop()
        converged_s = await self.converged(converged_s_max)
        outcome.bound("equal replicas after", converged_s, converged_s_max, "s")
        if converged_s == float("inf"):
            await self.repair()
        await recorder.read_all()
        homes = self._note_final(await self.explained())
        verdict = judge(recorder.history, homes_of=lambda key: homes.get(key, ()))
        missing = judge_sets(
            recorder.history,
            is_set=lambda key: key.startswith(SET_PREFIX.encode()),
            homes_of=lambda key: homes.get(key, ()),
        )
        outcome.violations += [f"{v.kind} {v.key.decode()}: {v.detail}" for v in verdict.violations + missing]
        counts = verdict.counts
        self._gates(counts["siblings-shown"])
        unavailable = [op for op in recorder.history.operations if op.error]
        total = len(recorder.history.operations)
        outcome.figures["faults confirmed"] = str(self.faults)
        outcome.figures["operations (ok get, put, delete)"] = (
            f"{total} ({counts.get('get ok', 0)}, {counts.get('put ok', 0)}, {counts.get('delete ok', 0)})"
        )
        outcome.figures["operations failed"] = f"{len(unavailable)} ({100 * len(unavailable) / total:.2f} %)"
        outcome.figures["siblings shown"] = str(counts["siblings-shown"])
        outcome.figures["lost, resurrected, phantom, ghost"] = ", ".join(
            str(counts[kind]) for kind in ("lost", "resurrected", "phantom", "ghost")
        )
        outcome.figures["corrupt, divergent, antichain, session"] = ", ".join(
            str(counts[kind]) for kind in ("corrupt", "divergent", "antichain", "session")
        )
        outcome.figures["acknowledged set elements missing"] = str(len(missing))
        return outcome

    def _note_final(self, explained: dict[str, dict[str, Any]]) -> dict[bytes, list[str]]:
        """The homes of every key; what they hold goes into the history."""
        homes: dict[bytes, list[str]] = {}
        for name, found in explained.items():
            if not found:
                self.outcome.invalid.append(f"nobody explains {name}")
            for home in found.get("homes", ()):
                homes.setdefault(name.encode(), []).append(home["name"])
                if home["answer"] not in ("state", "nothing"):
                    self.outcome.violations.append(f"unreadable {name} at {home['name']}: {home['answer']}")
                    continue
                # A write that was sent twice may have two dots; a read shows it once.
                siblings = home.get("siblings", ())
                live = dict.fromkeys(s["operation_id"].encode() for s in siblings if not s["tombstone"])
                dead = dict.fromkeys(s["operation_id"].encode() for s in siblings if s["tombstone"])
                fingerprint = home.get("digest", "").encode()
                self.recorder.history.final.append(
                    FinalState(home["name"], name.encode(), tuple(live), tuple(dead), fingerprint)
                )
        return homes

    def _gates(self, siblings_shown: int) -> None:
        """What the load itself did; the reads at the end do not count."""
        done = Counter(
            op.kind for op in self.recorder.history.operations if op.client >= 0 and op.ended is Ended.OK
        )
        for kind, least in ((Kind.GET, GETS_MIN), (Kind.PUT, PUTS_MIN), (Kind.DELETE, DELETES_MIN)):
            if done[kind] < least:
                self.outcome.invalid.append(f"only {done[kind]} x {kind.value} ok, at least {least}")
        if not siblings_shown:
            self.outcome.invalid.append("no siblings were ever shown")

    def started_between(self, start_s: float, end_s: float) -> list[Operation]:
        return [op for op in self.recorder.history.operations if start_s <= op.started_s < end_s]


def failed_percent(operations: list[Operation]) -> float:
    return 100 * sum(op.ended is not Ended.OK for op in operations) / max(1, len(operations))


def slowest_ms(operations: list[Operation]) -> float:
    ended = [op.ended_s - op.started_s for op in operations if op.ended is Ended.OK]
    return 1000 * max(ended, default=0.0)


def acknowledged_by(operations: list[Operation], node: str) -> list[Operation]:
    """Writes that were acknowledged with this node as their coordinator."""
    return [op for op in operations if op.kind is not Kind.GET and op.ended is Ended.OK and op.node == node]


def _nothing(found: dict[str, Any]) -> bool:
    """No home has ever held the key."""
    return bool(found) and all(home["answer"] == "nothing" for home in found["homes"])


def _state(pid: int) -> str:
    """R, S, T, ... of /proc; "" for none."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


@asynccontextmanager
async def rig(
    scenario: str, directory: Path, *, nodes: int = 5, keys: int = 100, clients: int = 8, rate: float = 12.0
) -> AsyncIterator[Rig]:
    """A cluster that serves; it and the load are stopped at the end of the block, whatever happens."""
    await asyncio.to_thread(directory.mkdir, parents=True, exist_ok=True)
    with start_cluster(directory, nodes=nodes) as cluster:
        await asyncio.to_thread(cluster.wait_ready)
        urls = [f"http://127.0.0.1:{port}" for port in cluster.ports]
        recorder = Recorder(urls, clients=clients, rate=rate, keys=keys)
        async with aiohttp.ClientSession() as http:
            try:
                yield Rig(cluster, directory, recorder, http, Outcome(scenario))
            finally:
                recorder.cancel()
