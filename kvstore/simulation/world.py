"""One run from its plan to its history: machines, network, clients and faults in one virtual-time loop.

Everything that the nodes run is what is shipped; only their ports are simulated. A run ends by healing
everything, waiting until the replicas are equal or its time for that is over, and writing down what
every replica holds.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from kvstore.core.encoding import decode_state
from kvstore.core.message import Get
from kvstore.core.ring import full_key, partition_of, split_key
from kvstore.core.sibling import collapse, last_write
from kvstore.errors import CorruptRecord, KVStoreError
from kvstore.node.ports import Kind
from kvstore.simulation.clients import Clients
from kvstore.simulation.faults import Faults, Outcome
from kvstore.simulation.history import FinalState, History
from kvstore.simulation.loop import VirtualTimeLoop
from kvstore.simulation.machine import Observer, SimulatedMachine
from kvstore.simulation.network import Network
from kvstore.simulation.plan import BUCKET, Plan
from kvstore.simulation.probes import Probes
from kvstore.simulation.trace import Trace

FORM_S_MAX = 30.0
_POLL_S = 0.25
_UNREADABLE = b"unreadable"


@dataclass(slots=True)
class Run:
    """What came of a plan. `bugs`: exceptions that nobody caught, on top of what the history shows.

    `homes`: machines that are homes of each key. `converged_s`: how long the replicas took to become
    equal after all faults were over; None if they did not.
    """

    plan: Plan
    history: History
    trace: str
    faults: list[Outcome]
    probes: Counter[str]
    bugs: list[str]
    homes: dict[bytes, tuple[str, ...]]
    converged_s: float | None
    steps: int
    messages: int
    timeline: list[tuple[float, str, tuple[Any, ...]]] = field(default_factory=list)
    """(virtual time, what, fields) of faults, processes and operations, if it was asked for."""


class World:
    """`machines` by name, in the order of the plan."""

    def __init__(
        self, plan: Plan, loop: VirtualTimeLoop, observers: list[Observer], *, keep_timeline: bool
    ) -> None:
        self.plan, self.loop, self.observers = plan, loop, observers
        self.trace = Trace(loop, keep=keep_timeline)
        self.probes = Probes()
        self.bugs: list[str] = []
        self.network = Network(
            loop,
            plan.seed,
            self.trace,
            latency_s=plan.latency_s,
            jitter_s=plan.jitter_s,
            loss=plan.loss,
            duplicates=plan.duplicates,
        )
        listed = [SimulatedMachine(self, machine, i) for i, machine in enumerate(plan.machines)]
        self.machines = {machine.name: machine for machine in listed}
        self._clients = Clients(loop, plan, listed, self.trace, self.probes, observers, self.bugs)
        self._faults = Faults(self, listed)
        self._listed = listed
        for observer in observers:
            observer.began(self.machines, plan)

    async def run(self) -> Run:
        for machine in self._listed:
            machine.start()
        await self._formed()
        faults = self.loop.create_task(self._faults.run())
        clients = self.loop.create_task(self._clients.run())
        await clients
        await faults
        await asyncio.sleep(max(0.0, self.plan.duration_s - self.loop.time()))
        converged_s = await self._settle()
        homes = self._homes()
        self._clients.history.final = self._final()
        await self._end()
        for name, count in (("message repeated", self.network.repeated), ("message late", self.network.late)):
            self.probes.hit(name, count)
        self.probes.hit("forwarded", sum(self.network.requests.get(name, 0) for name in ("Get", "Put")))
        return Run(
            self.plan,
            self._clients.history,
            self.trace.digest,
            self._faults.outcomes,
            self.probes.counts,
            self.bugs + self.loop.errors,
            homes,
            converged_s,
            self.loop.steps,
            self.network.sent,
            [line for line in self.trace.lines or () if line[1] not in ("request", "reply")],
        )

    async def _formed(self) -> None:
        while not all(m.node is not None and m.node.view.layout is not None for m in self._listed):
            if self.loop.time() > FORM_S_MAX:
                self.bugs.append(f"no cluster after {FORM_S_MAX:g} s")
                return
            await asyncio.sleep(_POLL_S)

    # --- the end ------------------------------------------------------------------------------------

    async def _settle(self) -> float | None:
        """All faults are over. Seconds until no hint was left and all replicas were equal; None if never."""
        began_s = self.loop.time()
        for machine in self._listed:
            machine.start()
        keys = sorted({key for m in self._listed for _, key in m.disk.keys(Kind.DATA)})
        while self.loop.time() - began_s < self.plan.settle_s:
            await asyncio.sleep(_POLL_S)
            if self._equal():
                return self.loop.time() - began_s
            for key in keys if self.plan.read_at_end else ():
                await self._read_everywhere(split_key(key)[1])
        return None

    async def _read_everywhere(self, key: bytes) -> None:
        """Read repair through every node, once past an unreadable copy and once of all copies."""
        for machine in self._listed:
            for r in dict.fromkeys((max(1, self.plan.n - 1), self.plan.n)):
                try:
                    await self._clients.ask(machine, Get(BUCKET, key, r=r, pr=0, monotonic=True))
                except KVStoreError:
                    continue

    def _equal(self) -> bool:
        """Whether everybody serves, no copy recovers, no hint is left, and all homes hold the same."""
        for machine in self._listed:
            node = machine.node
            if node is None or not node.recognition.recognized or node.replica.recovering:
                return False
            if machine.disk.keys(Kind.HINT):
                return False
        held: dict[bytes, set[bytes]] = {}
        homes = self._homes()
        for state in self._final():
            held.setdefault(state.key, set()).add(state.fingerprint)
        counted = Counter(s.key for s in self._final() if s.node in homes.get(s.key, ()))
        return all(len(prints) == 1 and counted[key] == len(homes[key]) for key, prints in held.items())

    def _homes(self) -> dict[bytes, tuple[str, ...]]:
        """Machines that are homes of each key that anybody holds or a client used."""
        node = next((m.node for m in self._listed if m.node is not None and m.node.view.layout), None)
        keys = {operation.key for operation in self._clients.history.operations}
        keys.update(split_key(key)[1] for m in self._listed for _, key in m.disk.keys(Kind.DATA))
        if node is None:
            return dict.fromkeys(sorted(keys), ())
        found = {}
        for key in sorted(keys):
            homes = node.view.homes(partition_of(full_key(BUCKET, key)), self.plan.n)
            found[key] = tuple(node.name_of(home) for home in homes)
        return found

    def _final(self) -> list[FinalState]:
        """What is on every disk now, home or not."""
        return [
            final_state(machine, partition, key, last_write_wins=self.plan.properties().last_write_wins)
            for machine in self._listed
            for partition, key in machine.disk.keys(Kind.DATA)
        ]

    async def _end(self) -> None:
        for machine in self._listed:
            if machine.process is not None:
                machine.process.end()
                machine.disk.crash(machine.disk.unsynced_batches)
        await asyncio.sleep(0.1)  # cancelled tasks see their cancellation


def final_state(
    machine: SimulatedMachine, partition: int, key: bytes, *, last_write_wins: bool = False
) -> FinalState:
    try:
        record = machine.disk.record(Kind.DATA, partition, key) or b""
        state = decode_state(record)
    except CorruptRecord:
        return FinalState(machine.name, split_key(key)[1], (), (), _UNREADABLE)
    view = last_write if last_write_wins else collapse
    versions = [version for _, version in sorted(view(state.siblings).items())]
    live = tuple(v.operation_id for v in versions if not v.tombstone)
    tombstones = tuple(v.operation_id for v in versions if v.tombstone)
    fingerprint = blake2b(record, digest_size=16).digest()
    return FinalState(machine.name, split_key(key)[1], live, tombstones, fingerprint)


def simulate(plan: Plan, *observers: Observer, keep_timeline: bool = False) -> Run:
    """Run a plan. Not inside a running event loop."""
    loop = VirtualTimeLoop()
    try:
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(World(plan, loop, list(observers), keep_timeline=keep_timeline).run())
    finally:
        asyncio.set_event_loop(None)
        loop.close()
