"""make pressure: a node under more load than it can bear, each figure beside its control.

    python -m tests.processes.pressure [--seconds 6] [--json FILE]

One real node process, loaded from this one. The requests are pages of a listing, a few milliseconds
each, so that three times what the node can do is a load that one client process can make. Clients give
up after a second and close their connection. The control is the same node with the mechanism off: no
limit in flight that binds, or no priorities. Only the differences between the two mean something: the
machine is shared.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.processes import Processes, free_ports

KEYS, VALUE_BYTES, PAGE = 400, 200, 400
DEADLINE_S = 1.0
OVERLOAD = 3.0
ROOM = {"KVSTORE_CONNECTIONS_MAX": "8192", "KVSTORE_CONNECTIONS_PER_ADDRESS_MAX": "8192"}
OFF = {
    "KVSTORE_IN_FLIGHT_MAX": "100000",
    "KVSTORE_IN_FLIGHT_MIN": "100000",
    "KVSTORE_LOOP_TURN_S": "1000",
}


@dataclass
class Outcomes:
    """What became of the requests of one load. Times in seconds, from when each was due."""

    good_s: list[float] = field(default_factory=list)
    shed_s: list[float] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    gave_up: int = 0

    @property
    def asked(self) -> int:
        return len(self.good_s) + len(self.shed_s) + self.gave_up


def quantile(times_s: list[float], share: float) -> float:
    """0.0 of nothing."""
    return sorted(times_s)[min(len(times_s) - 1, int(len(times_s) * share))] if times_s else 0.0


class Node:
    """One node of its own cluster, with a bucket to list."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        self._port, rpc_port = free_ports(2)
        self.processes = Processes("/readyz", (200,))
        place = {
            "KVSTORE_NAME": "n1", "KVSTORE_DATA_DIR": str(folder / "n1"), "KVSTORE_N": "1",
            "KVSTORE_HTTP_LISTEN": f"127.0.0.1:{self._port}", "KVSTORE_RPC_LISTEN": f"127.0.0.1:{rpc_port}",
            "KVSTORE_BOOTSTRAP_EXPECT": "1", "KVSTORE_CLUSTER_KEY": os.urandom(32).hex(),
            "KVSTORE_LOG_FORMAT": "json",
        }  # fmt: skip
        log = folder / "n1.log"
        self.processes.start(self._port, ["-m", "kvstore", "serve"], log, place | ROOM | settings)
        self.url = f"http://127.0.0.1:{self._port}"
        self.session: aiohttp.ClientSession

    async def __aenter__(self) -> Node:
        await asyncio.to_thread(self.processes.wait_ready)
        self.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        for key in range(KEYS):
            async with self.session.put(f"{self.url}/v1/kv/b/{key:05}", data=b"v" * VALUE_BYTES) as answer:
                assert answer.status == 204, answer.status
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()
        self.processes.__exit__()

    async def ask(self, outcomes: Outcomes, due_s: float, priority: str) -> None:
        """One page. Given up when DEADLINE_S after `due_s` there is no answer."""
        target = f"{self.url}/v1/kv/b?limit={PAGE}&values"
        headers = {"KV-Priority": priority, "KV-Timeout-Ms": str(int(DEADLINE_S * 1000))}
        try:
            async with asyncio.timeout(max(0.001, due_s + DEADLINE_S - time.perf_counter())):
                async with self.session.get(target, headers=headers) as answer:
                    body = await answer.read()
        except (TimeoutError, aiohttp.ClientError) as error:
            outcomes.gave_up += 1
            outcomes.reasons[type(error).__name__] += 1
            return
        took_s = time.perf_counter() - due_s
        if answer.status == 200:
            outcomes.good_s.append(took_s)
        else:
            outcomes.shed_s.append(took_s)
            outcomes.reasons[json.loads(body).get("reason") or str(answer.status)] += 1

    async def closed(self, seconds: float, clients: int) -> float:
        """Answers per second to so many clients that ask one after the other."""
        outcomes, ends_s = Outcomes(), time.perf_counter() + seconds

        async def client() -> None:
            while (now_s := time.perf_counter()) < ends_s:
                await self.ask(outcomes, now_s, "normal")

        await asyncio.gather(*(client() for _ in range(clients)))
        return len(outcomes.good_s) / seconds

    async def open(self, per_s: float, seconds: float, priority: str = "normal") -> Outcomes:
        """A request every 1/per_s seconds, whatever became of those before (no coordinated omission)."""
        outcomes, began_s = Outcomes(), time.perf_counter()
        tasks = []
        for number in range(int(per_s * seconds)):
            due_s = began_s + number / per_s
            if (early_s := due_s - time.perf_counter()) > 0:
                await asyncio.sleep(early_s)
            tasks.append(asyncio.ensure_future(self.ask(outcomes, due_s, priority)))
        await asyncio.gather(*tasks)
        return outcomes


async def overload(folder: Path, settings: dict[str, str], seconds: float) -> dict[str, float]:
    """Three times what the node can do, then half of it until all is as it was."""
    async with Node(folder, settings) as node:
        await node.closed(1.0, 8)
        peak_per_s = await node.closed(seconds / 2, 8)
        under = await node.open(peak_per_s * OVERLOAD, seconds)
        ended_s, recovered_s = time.perf_counter(), 0.0
        while not recovered_s and time.perf_counter() - ended_s < 20:
            after = await node.open(peak_per_s / 2, 0.5)
            if len(after.good_s) == after.asked and quantile(after.good_s, 0.99) < DEADLINE_S / 2:
                recovered_s = time.perf_counter() - ended_s
        # The machine may have been busy with something else meanwhile: the lower of both is what there was.
        lower_per_s = min(peak_per_s, await node.closed(seconds / 2, 8))
    return {
        "peak before, per s": peak_per_s,
        "peak after / before": lower_per_s / peak_per_s,
        "offered / peak before": under.asked / seconds / peak_per_s,
        "goodput / lower peak": len(under.good_s) / seconds / lower_per_s,
        "served p99, ms": quantile(under.good_s, 0.99) * 1000,
        "shed": len(under.shed_s),
        "shed p50, ms": quantile(under.shed_s, 0.5) * 1000,
        "shed p99, ms": quantile(under.shed_s, 0.99) * 1000,
        "gave up": under.gave_up,
        "normal again after, s": recovered_s or float("inf"),
    }


async def flood(folder: Path, priority: str, seconds: float) -> dict[str, float]:
    """Clients that ask for a fifth of what the node can do, beside three times of it as `priority`."""
    async with Node(folder, {}) as node:
        await node.closed(1.0, 8)
        peak_per_s = await node.closed(seconds / 2, 8)
        beside, clients = await asyncio.gather(
            node.open(peak_per_s * OVERLOAD, seconds, priority), node.open(peak_per_s / 5, seconds)
        )
    return {
        "clients served, share": len(clients.good_s) / clients.asked,
        "clients p50, ms": quantile(clients.good_s, 0.5) * 1000,
        "clients p99, ms": quantile(clients.good_s, 0.99) * 1000,
        "flood served, share": len(beside.good_s) / beside.asked,
    }


async def measure(seconds: float) -> dict[str, list[dict[str, float]]]:
    """scenario -> [with the mechanism, control]."""
    with tempfile.TemporaryDirectory() as place:
        folders = [Path(place, name) for name in ("1", "2", "3", "4")]
        for folder in folders:
            folder.mkdir()
        return {
            "overload (control: nothing limits what is in flight)": [
                await overload(folders[0], {}, seconds),
                await overload(folders[1], OFF, seconds),
            ],
            "background flood (control: the flood has the clients' priority)": [
                await flood(folders[2], "background", seconds),
                await flood(folders[3], "normal", seconds),
            ],
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=6.0, help="of each load")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    arguments = parser.parse_args()
    figures: dict[str, list[dict[str, Any]]] = asyncio.run(measure(arguments.seconds))
    for scenario, (with_it, control) in figures.items():
        print(f"\n{scenario}\n{'':28}{'with':>12}{'control':>12}")
        for name, figure in with_it.items():
            print(f"  {name:26}{figure:>12.4g}{control[name]:>12.4g}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
