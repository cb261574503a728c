"""One machine of the simulated world: its disk, its clock, and the process that runs on it, if one does.

A process is a real `Node` over a simulated disk, network, clock and chance. Processes come and go; what
the machine keeps is what the disk keeps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from kvstore.core.limits import DEFAULT_LIMITS
from kvstore.core.membership import Member, NodeId
from kvstore.core.message import Get, Got, Put, Written
from kvstore.core.outcome import AskOutcome, OutcomeTold
from kvstore.errors import ConfigError, KVStoreError, StorageError
from kvstore.node.cluster_view import ClusterView
from kvstore.node.node import Node
from kvstore.node.ports import Write
from kvstore.simulation.chance import Chance
from kvstore.simulation.clock import SimulatedClock
from kvstore.simulation.disk import DiskCounts, SimulatedStorage
from kvstore.simulation.history import Operation
from kvstore.simulation.loop import Owner, VirtualTimeLoop
from kvstore.simulation.network import MESSAGE_LIFE_S, Endpoint, Network
from kvstore.simulation.plan import Machine, Plan
from kvstore.simulation.probes import Probes
from kvstore.simulation.trace import Trace
from kvstore.storage.memory import MemoryDisk

RESTART_S = 1.0
"""A supervisor starts a process again that ended by itself, after so long."""

# Half of the runs keep no causal parts in memory, so that their writes meet what the disk has become.
_LIMITS = tuple(
    replace(
        DEFAULT_LIMITS,
        anti_entropy_interval_s=5.0,
        tombstone_interval_s=3.0,
        tombstone_pause_s=MESSAGE_LIFE_S + 0.1,  # these links do not keep an order: a Flush proves nothing
        slow_peer_answers_min=1,  # a pair of nodes exchanges a read or two per second
        heads_max=heads_max,
    )
    for heads_max in (DEFAULT_LIMITS.heads_max, 0)
)
_SIGNING_KEY = b"k" * 32


class Observer(Protocol):
    """What a run tells whoever checks invariants on every step. Names are those of machines."""

    def began(self, machines: Mapping[str, SimulatedMachine], plan: Plan) -> None:
        """The world is there, and nothing runs yet."""

    def applied(self, node: str, batch: Sequence[Write]) -> None: ...

    def asked(self, node: str, request: Get | Put | AskOutcome) -> None:
        """A client sends this, to this node first."""

    def answered(
        self, node: str, request: Get | Put | AskOutcome, answer: Got | Written | OutcomeTold
    ) -> None: ...

    def acked(self, node: str, operation: Operation) -> None:
        """A client was told that its write is done. `World.machines` shows what is durable where."""

    def crashed(self, node: str) -> None: ...

    def restarted(self, node: str) -> None: ...


class World(Protocol):
    """What a machine needs to know of the rest."""

    loop: VirtualTimeLoop
    network: Network
    plan: Plan
    trace: Trace
    probes: Probes
    observers: list[Observer]
    bugs: list[str]
    machines: dict[str, SimulatedMachine]


def node_id(seed: int, name: str) -> NodeId:
    """The identity that the first process on an empty disk takes."""
    return f"{Chance(seed, 'node-id', name, 0).bits('id', 64):032x}"


class SimulatedMachine:
    """`process` is None while nothing runs here. `counts` tells how often faults of the disk mattered.

    `recover_as`: what a process on an empty disk is told. `twin`: runs on a copy of this disk.
    """

    def __init__(self, world: World, machine: Machine, number: int) -> None:
        self.name, self.number = machine.name, number
        self.disk, self.counts = MemoryDisk(), DiskCounts()
        self.clock = SimulatedClock(world.loop)
        self.process: Process | None = None
        self.starts = self.failures = self._clones = 0
        self.recover_as = ""
        self.twin: SimulatedMachine | None = None
        self.up_wanted = False
        self._world = world
        self._chance = Chance(world.plan.seed, "machine", machine.name)
        self._describe = Member(
            node_id(world.plan.seed, machine.name),
            machine.name,
            f"{machine.name}:1",
            f"{machine.name}:2",
            zone=machine.zone,
            host=machine.host or machine.name,
        )

    @property
    def node(self) -> Node | None:
        """The node, once it has started."""
        return self.process.node if self.process is not None and self.process.ready else None

    def start(self) -> None:
        self.up_wanted = True
        if self.process is not None:
            return
        self.starts += 1
        self._world.trace.add("start", self.name, self.starts)
        self.process = Process(self, self._world, self._describe, self._chance.sub("start", self.starts))
        self.process.start()

    def crash(self, *, keep: float = 0.0) -> bool:
        """kill -9, and of the unsynced tail the first `keep` of 1 survives. False if nothing ran."""
        process, self.process = self.process, None
        self.up_wanted = False
        if process is None:
            return False
        batches = int(self.disk.unsynced_batches * keep)
        self._world.trace.add("crash", self.name, self.disk.unsynced_batches, batches)
        process.end()
        self.disk.crash(batches)
        for observer in self._world.observers:
            observer.crashed(self.name)
        return True

    async def stop(self) -> bool:
        """SIGTERM: drain, stop, close the storage; then it is gone. False if it was not running."""
        process = self.process
        self.up_wanted = False
        if process is None or not process.ready:
            return self.crash()
        process.node.drain()
        await _ended(process.owner.task(process.node.stop()))
        if self.process is not process:
            return False
        self._world.trace.add("stop", self.name)
        self.process = None
        process.end()
        self.disk.crash(self.disk.unsynced_batches)
        for observer in self._world.observers:
            observer.crashed(self.name)
        return True

    def failed(self, process: Process, why: str) -> None:
        """The process ended itself; a supervisor starts another one soon, if nobody does before."""
        if self.process is not process:
            return
        self._world.probes.hit("process ended itself")
        self.failures += 1
        self._world.trace.add("failed", self.name, why)
        keep = self._chance.uniform("keep-after-failure", 0.0, 1.0)
        self.crash(keep=keep)
        self.up_wanted = True
        self._world.loop.call_later(RESTART_S, self.start_if_wanted)

    def wipe(self) -> None:
        """An empty disk. Whoever starts on it is told whose place it takes."""
        self.disk.wipe()
        self.recover_as = self._describe.node_id

    def cloned(self, disk: MemoryDisk) -> SimulatedMachine:
        """Another machine, whose processes take themselves for those of this one."""
        self._clones += 1
        name = self.name + "+" * self._clones
        twin = SimulatedMachine(self._world, Machine(name, name, name), self.number)
        twin.disk, twin._describe = disk, twin._describe._replace(name=self.name)
        return twin

    def start_if_wanted(self) -> None:
        if self.up_wanted:
            self.start()


class Process:
    """From a start to its end. `ready`: the node has started, clients may ask it."""

    node: Node

    def __init__(self, machine: SimulatedMachine, world: World, describe: Member, chance: Chance) -> None:
        self.machine, self._world, self._describe, self._chance = machine, world, describe, chance
        self.owner = Owner(machine.name)
        self.ready = False
        self.endpoint: Endpoint | None = None

    def start(self) -> None:
        self.owner.task(self._boot())

    async def _boot(self) -> None:
        try:
            await self._build()
        except StorageError as error:
            self._world.probes.hit("start failed")
            context = self._world.network.context
            self._world.loop.call_soon(self.machine.failed, self, type(error).__name__, context=context)

    async def _build(self) -> None:
        machine, world = self.machine, self._world
        storage = SimulatedStorage(
            machine.disk, machine.counts, sync_delay_s=world.plan.sync_delay_s, applied=self._applied
        )
        view = ClusterView.open(storage, self._describe, machine.recover_as)
        endpoint = Endpoint(machine.name, view.me.node_id, self.owner, self._serve, self._refused_as_twin)
        self.node = Node(
            storage=storage,
            peers=world.network.peers_of(endpoint),
            wall=machine.clock,
            random=self._chance,
            view=view,
            signing_key=_SIGNING_KEY,
            defaults=world.plan.properties(),
            limits=_LIMITS[world.plan.seed % 2],
            seeds=tuple(f"{m.name}:1" for m in world.plan.machines[:2]),
            bootstrap_expect=len(world.plan.machines),
            fatal=self._fatal,
            report=self._report,
        )
        self.endpoint = endpoint
        view.announce(f"{machine.name}:1", f"{machine.name}:2")
        world.network.attach(endpoint, f"{machine.name}:1")
        await self.node.start()
        self.ready = True
        for observer in world.observers:
            observer.restarted(machine.name)

    def end(self) -> None:
        """Nothing of this process acts from now on."""
        if self.endpoint is not None:
            self._world.network.detach(self.endpoint)
            self._world.probes.take(self.node)
        self._world.loop.end(self.owner)
        self.ready = False

    def _serve(self, *arguments: Any) -> Any:
        try:
            return self.node.serve(*arguments)
        except KVStoreError:
            raise
        except Exception as error:
            self._world.bugs.append(f"{self.machine.name}: serving a peer: {error!r}")
            raise

    def _applied(self, batch: Sequence[Write]) -> None:
        for observer in self._world.observers:
            observer.applied(self.machine.name, batch)

    def _fatal(self, error: KVStoreError) -> None:
        context = self._world.network.context
        self._world.loop.call_soon(self.machine.failed, self, type(error).__name__, context=context)

    def _refused_as_twin(self) -> None:
        self._world.probes.hit("twin ended itself")
        self._fatal(ConfigError("another process runs with this node's identity"))

    def _report(self, event: str, **fields: Any) -> None:
        self._world.probes.hit(f"report: {event}")
        if event == "background task failed":
            self._world.bugs.append(f"{self.machine.name}: {fields.get('reason')}")


async def _ended(task: asyncio.Task[Any]) -> None:
    """Waits for a task of a process from outside of it: however it ends."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    task.add_done_callback(lambda _: done.set_result(None))
    await done
