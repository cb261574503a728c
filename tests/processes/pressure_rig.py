"""One node under pressure: a real process on a slice of a core, and what it says of itself.

Where control groups can be made (Linux, root, version 1), node and client go before all other processes of
the machine, so that a control is not slower for what these did meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.processes import Processes, free_ports
from tests.processes.pressure_load import KEYS, SIBLINGS, Load

VALUE = b"v" * 100
_PERIOD_US = 5000
_WEIGHT = 16_384  # of 1024 that all others have together
_GROUPS = Path("/sys/fs/cgroup")
OFF = {
    "KVSTORE_IN_FLIGHT_MAX": "100000",
    "KVSTORE_IN_FLIGHT_MIN": "100000",
    "KVSTORE_BATCHES_IN_FLIGHT_MAX": "100000",
    "KVSTORE_SCANS_IN_FLIGHT_MAX": "100000",
    "KVSTORE_LOOP_TURN_S": "1000",
}
"""Nothing limits what is in flight, nothing keeps turns of the loop short, so nothing is shed."""


class Group:
    """A control group of version 1; `missing` says why there is none."""

    def __init__(self, controller: str, name: str) -> None:
        self.path = _GROUPS / controller / f"{name}-{os.getpid()}"
        self.missing = ""
        try:
            self.path.mkdir()
        except OSError as error:
            self.missing = f"no control group {self.path}: {error.strerror}"

    def set(self, file: str, value: int) -> None:
        if not self.missing:
            (self.path / file).write_text(str(value))

    def read(self, file: str) -> str:
        return "" if self.missing else (self.path / file).read_text()

    def add(self, pid: int) -> None:
        self.set("cgroup.procs", pid)

    def remove(self) -> None:
        """Who is still in it goes back to where the controller's other processes are."""
        with suppress(OSError):
            if not self.missing:
                for pid in self.read("cgroup.procs").split():
                    (self.path.parent / "cgroup.procs").write_text(pid)
                self.path.rmdir()


class Node:
    """One node of its own cluster. Bucket `b` has KEYS keys, `s` one of many siblings. The block stops it."""

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port, rpc_port = free_ports(2)
        self.processes = Processes("/readyz", (200,))
        place = {
            "KVSTORE_NAME": "n1", "KVSTORE_DATA_DIR": str(folder / "n1"), "KVSTORE_N": "1",
            "KVSTORE_HTTP_LISTEN": f"127.0.0.1:{self.port}", "KVSTORE_RPC_LISTEN": f"127.0.0.1:{rpc_port}",
            "KVSTORE_BOOTSTRAP_EXPECT": "1", "KVSTORE_CLUSTER_KEY": os.urandom(32).hex(),
            "KVSTORE_LOG_FORMAT": "json",
        }  # fmt: skip
        self.log = folder / "n1.log"
        self.processes.start(self.port, ["-m", "kvstore", "serve"], self.log, place | dict(settings or {}))
        self._groups: list[Group] = []
        self._cores: set[int] = set()
        self.url = f"http://127.0.0.1:{self.port}"
        self.load: Load
        self.session: aiohttp.ClientSession

    @property
    def pid(self) -> int:
        return self.processes.pid(self.port)

    async def __aenter__(self) -> Node:
        await asyncio.to_thread(self.processes.wait_ready)
        self.session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10))
        for key in range(KEYS):
            async with self.session.put(f"{self.url}/v1/kv/b/{key:05}", data=VALUE) as answer:
                assert answer.status == 204, answer.status
        for number in range(SIBLINGS):
            url = f"{self.url}/v1/kv/s/key?mode=sibling"
            async with self.session.put(url, data=b"%03d" % number + VALUE) as answer:
                assert answer.status == 204, answer.status
        self._groups = [Group("cpu", f"kvstore-{who}-{self.port}") for who in ("node", "client")]
        for group, pid in zip(self._groups, (self.pid, os.getpid()), strict=True):
            group.set("cpu.shares", _WEIGHT)
            group.add(pid)
        self.load = Load("127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.load.close()
        await self.session.close()
        await asyncio.to_thread(self.processes.__exit__)
        for group in self._groups:
            group.remove()
        if self._cores:
            _run_on(os.getpid(), self._cores)

    def on_cores_of_their_own(self) -> str:
        """The node's event loop and the client, so that neither waits for the other; if not, why.

        A thread that wakes up beside one that runs waits for up to 3 ms on a core that they share: also the
        node's own that syncs, beside its event loop, so that one runs where there is room.
        """
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        if len(cores) < 2:
            return "fewer than two cores, or none can be chosen"
        self._cores = set(cores)
        os.sched_setaffinity(self.pid, {cores[0]})  # its first thread: the event loop
        _run_on(os.getpid(), {cores[1]})
        return ""

    def slow_down(self, share: float) -> str:
        """To this share of a core; why not, if it cannot be done."""
        cpu = self._groups[0]
        cpu.set("cpu.cfs_period_us", _PERIOD_US)
        cpu.set("cpu.cfs_quota_us", int(_PERIOD_US * share))
        return cpu.missing

    async def document(self, path: str) -> dict[str, Any]:
        async with self.session.get(self.url + path) as answer:
            found: dict[str, Any] = json.loads(await answer.read())
            return found

    async def metric(self, name: str) -> float:
        """The sum over all labels."""
        async with self.session.get(f"{self.url}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        found = [line for line in lines if line.partition(" ")[0].partition("{")[0] == name]
        return sum(float(line.rpartition(" ")[2]) for line in found)


def _run_on(pid: int, cores: set[int]) -> None:
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread.name), cores)
