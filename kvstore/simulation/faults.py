"""What a fault of a plan does to the world, when it begins and when it ends, and whether it has hit.

kind            nodes                       others              amount
crash           who is killed                                   part of the unsynced tail that survives
kill-all        (everybody)                                     the same
restart         who is stopped cleanly
pause           who is stalled (SIGSTOP)
cut             from these ...              ... to these        one direction only
split           these ...                   ... from these      both directions
isolate         who is cut off from all others
bridge          one side ...                ... the other       whoever is on neither side reaches both
flap            these ...                   ... from these      seconds between cutting and healing
loss            whose messages, both ways                       probability
duplicates      whose messages, both ways                       probability
latency         whose messages, both ways                       seconds, at most
slow            whose data messages (a gray node: gossip is fine)    seconds, at most
clock-jump      whose clock                                     seconds, forwards or back
clock-drift     whose clock                                     seconds it shows per second
disk-full       whose disk
read-errors     whose disk
failed-sync     whose disk; its process must stop
write-errors    whose disk; its process must stop
bit-flips       whose disk                                      records, at most
wipe            whose disk is emptied while it is down; it is to recover as the node it was
restore         who comes back with its disk as it was when the fault began
clone           beside whom a second process runs on a copy of its disk, at another address; clients meet both
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from kvstore.core.ring import split_key
from kvstore.node.ports import Kind
from kvstore.simulation.chance import Chance
from kvstore.simulation.machine import SimulatedMachine, World
from kvstore.simulation.network import Effect
from kvstore.simulation.plan import Fault
from kvstore.storage.memory import MemoryDisk

EXTRA_S = 20.0
"""A fault that has not mattered yet when its time is over gets so much more."""

_POLL_S = 0.1


@dataclass(slots=True)
class Outcome:
    """`hit`: the fault has mattered: a message was lost, a process died, a record was met as corrupt."""

    fault: Fault
    hit: bool = False


class Faults:
    """Carries out the faults of one plan. `over()` ends all that is still in force."""

    def __init__(self, world: World, machines: list[SimulatedMachine]) -> None:
        self._world, self._loop = world, world.loop
        self._machines = {machine.name: machine for machine in machines}
        self.outcomes = [Outcome(fault) for fault in world.plan.faults]
        self._over: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """Every fault at its time; returns when the last one has ended."""
        for number, outcome in enumerate(self.outcomes):
            self._over.append(self._loop.create_task(self._one(number, outcome)))
        for task in self._over:
            await task

    async def _one(self, number: int, outcome: Outcome) -> None:
        fault = outcome.fault
        await asyncio.sleep(max(0.0, fault.at_s - self._loop.time()))
        self._world.trace.add("fault", *fault)
        chance = Chance(self._world.plan.seed, "fault", *fault)
        outcome.hit = await _HANDLERS[fault.kind](self, fault, chance)
        self._world.trace.add("fault over", number, fault.kind, outcome.hit)

    async def _in_force(self, fault: Fault, has_hit: Callable[[], bool]) -> bool:
        """As long as the plan says, and then until it has mattered, if it does so soon."""
        await asyncio.sleep(fault.for_s)
        return await self._wait_for(has_hit)

    async def _wait_for(self, condition: Callable[[], bool]) -> bool:
        end_s = self._loop.time() + EXTRA_S
        while not condition():
            if self._loop.time() >= end_s:
                return False
            await asyncio.sleep(_POLL_S)
        return True

    def _those_of(self, fault: Fault) -> list[SimulatedMachine]:
        return [self._machines[name] for name in fault.nodes or self._machines]

    # --- processes ----------------------------------------------------------------------------------

    async def _crash(self, fault: Fault, chance: Chance) -> bool:
        machines = self._those_of(fault)
        await self._wait_for(lambda: any(machine.process is not None for machine in machines))
        hit = [machine.crash(keep=chance.uniform("keep", 0.0, 1.0)) for machine in machines]
        await asyncio.sleep(fault.for_s)
        for machine in machines:
            machine.start()
        return any(hit)

    async def _restart(self, fault: Fault, _chance: Chance) -> bool:
        machines = self._those_of(fault)
        await self._wait_for(lambda: any(machine.node is not None for machine in machines))
        hit = [await machine.stop() for machine in machines]
        await asyncio.sleep(fault.for_s)
        for machine in machines:
            machine.start()
        return any(hit)

    async def _pause(self, fault: Fault, _chance: Chance) -> bool:
        machines = self._those_of(fault)
        await self._wait_for(lambda: any(machine.process is not None for machine in machines))
        paused = [process for machine in machines if (process := machine.process) is not None]
        for process in paused:
            self._loop.stall(process.owner)
        await asyncio.sleep(fault.for_s)
        for process in paused:
            self._loop.resume(process.owner)
            if process.endpoint is not None:
                self._world.network.release(process.endpoint)
        return bool(paused)

    # --- links --------------------------------------------------------------------------------------

    async def _cut(self, fault: Fault, _chance: Chance) -> bool:
        return await self._while("cuts", fault, self._pairs(fault, both=fault.kind != "cut"))

    async def _isolate(self, fault: Fault, _chance: Chance) -> bool:
        return await self._while("cuts", fault, self._around(fault))

    async def _flap(self, fault: Fault, _chance: Chance) -> bool:
        pairs, end_s, effect = self._pairs(fault, both=True), self._loop.time() + fault.for_s, Effect()
        while self._loop.time() < end_s or (not effect.hits and self._loop.time() < end_s + EXTRA_S):
            self._world.network.begin("cuts", effect, pairs)
            await asyncio.sleep(fault.amount)
            self._world.network.end(effect)
            await asyncio.sleep(fault.amount)
        return effect.hits > 0

    async def _lossy(self, fault: Fault, _chance: Chance) -> bool:
        what = {"loss": "losses", "duplicates": "duplicates"}.get(fault.kind, "delays")
        return await self._while(what, fault, self._around(fault))

    async def _while(self, what: str, fault: Fault, pairs: list[tuple[str, str]]) -> bool:
        effect = Effect(fault.amount, data_only=fault.kind == "slow")
        self._world.network.begin(what, effect, pairs)
        hit = await self._in_force(fault, lambda: effect.hits > 0)
        self._world.network.end(effect)
        return hit

    def _pairs(self, fault: Fault, *, both: bool) -> list[tuple[str, str]]:
        there = [(a, b) for a in fault.nodes for b in fault.others if a != b]
        return there + [(b, a) for a, b in there] if both else there

    def _around(self, fault: Fault) -> list[tuple[str, str]]:
        """All links of these nodes but those among themselves; those too if there are no others."""
        inside = fault.nodes or tuple(self._machines)
        outside = [name for name in self._machines if name not in inside] or list(inside)
        there = [(a, b) for a in inside for b in outside if a != b]
        return list(dict.fromkeys([*there, *((b, a) for a, b in there)]))

    # --- clocks -------------------------------------------------------------------------------------

    async def _clock(self, fault: Fault, _chance: Chance) -> bool:
        clocks = [machine.clock for machine in self._those_of(fault)]
        before = sum(clock.reads for clock in clocks)
        for clock in clocks:
            if fault.kind == "clock-jump":
                clock.jump(fault.amount)
            else:
                clock.drift(fault.amount)
        hit = await self._in_force(fault, lambda: sum(clock.reads for clock in clocks) > before)
        for clock in clocks:
            clock.correct()
        return hit

    # --- disks --------------------------------------------------------------------------------------

    async def _disk_full(self, fault: Fault, _chance: Chance) -> bool:
        return await self._while_set(fault, "full", lambda machine: machine.counts.full)

    async def _read_errors(self, fault: Fault, _chance: Chance) -> bool:
        return await self._while_set(fault, "fail_reads", lambda machine: machine.counts.failed_reads)

    async def _while_set(self, fault: Fault, trouble: str, met: Callable[[SimulatedMachine], int]) -> bool:
        """With this trouble of MemoryDisk; `met` counts how often a process met it."""
        machines = self._those_of(fault)
        before = sum(map(met, machines))
        for machine in machines:
            setattr(machine.disk, trouble, True)
        hit = await self._in_force(fault, lambda: sum(map(met, machines)) > before)
        for machine in machines:
            setattr(machine.disk, trouble, False)
        return hit

    async def _failing_disk(self, fault: Fault, _chance: Chance) -> bool:
        """The next sync or write fails, and the process must end itself. Then the disk is good again."""
        machines = self._those_of(fault)
        before = [machine.failures for machine in machines]
        self._fail(machines, fault.kind, fails=True)
        hit = await self._in_force(fault, lambda: [m.failures for m in machines] != before)
        self._fail(machines, fault.kind, fails=False)
        return hit

    def _fail(self, machines: list[SimulatedMachine], kind: str, *, fails: bool) -> None:
        for machine in machines:
            if kind == "failed-sync":
                machine.disk.fail_syncs = fails
            else:
                machine.disk.fail_writes = fails

    async def _bit_flips(self, fault: Fault, chance: Chance) -> bool:
        machines = self._those_of(fault)
        await self._wait_for(lambda: any(machine.disk.keys(Kind.DATA) for machine in machines))
        hit = False
        for machine in machines:
            records = machine.disk.keys(Kind.DATA)
            for partition, key in chance.sample("records", records, int(fault.amount)):
                machine.disk.flip_bit(Kind.DATA, partition, key, chance.bits("bit", 12))
                self._world.trace.add("flip", machine.name, split_key(key)[1])
                hit = True
        return hit

    # --- what a disk has forgotten --------------------------------------------------------------------

    async def _wipe(self, fault: Fault, _chance: Chance) -> bool:
        machines = self._those_of(fault)
        hit = [machine.crash() for machine in machines]
        for machine in machines:
            machine.wipe()
        await asyncio.sleep(fault.for_s)
        for machine in machines:
            machine.start()
        return any(hit)

    async def _restore(self, fault: Fault, chance: Chance) -> bool:
        machines = self._those_of(fault)
        copies = [await self._copied(machine, chance) for machine in machines]
        await asyncio.sleep(fault.for_s)
        hit = [machine.crash() for machine in machines]
        for machine, copy in zip(machines, copies, strict=True):
            machine.disk = copy
            machine.start()
        return any(hit)

    async def _clone(self, fault: Fault, chance: Chance) -> bool:
        """The copy is of a clean stop, or of a crash. The twin is killed at the end, whoever was let in."""
        (machine,) = self._those_of(fault)
        copy = await self._copied(machine, chance)
        machine.twin = twin = machine.cloned(copy)
        self._world.machines[twin.name] = twin
        await asyncio.sleep(chance.uniform("before-twin", 0.0, 1.0))
        twin.start()
        await asyncio.sleep(fault.for_s)
        machine.twin = None
        twin.crash()
        return twin.starts > 0

    async def _copied(self, machine: SimulatedMachine, chance: Chance) -> MemoryDisk:
        """Of the disk after a stop, clean or not; the machine runs again."""
        await self._wait_for(lambda: machine.node is not None)
        if chance.happens("clean", 0.6):
            await machine.stop()
        else:
            machine.crash(keep=1.0)
        copy = machine.disk.copy()
        machine.start()
        return copy


_Handler = Callable[[Faults, Fault, Chance], Awaitable[bool]]
_HANDLERS: dict[str, _Handler] = {
    "crash": Faults._crash,
    "kill-all": Faults._crash,
    "restart": Faults._restart,
    "pause": Faults._pause,
    "cut": Faults._cut,
    "split": Faults._cut,
    "isolate": Faults._isolate,
    "bridge": Faults._cut,
    "flap": Faults._flap,
    "loss": Faults._lossy,
    "duplicates": Faults._lossy,
    "latency": Faults._lossy,
    "slow": Faults._lossy,
    "clock-jump": Faults._clock,
    "clock-drift": Faults._clock,
    "disk-full": Faults._disk_full,
    "read-errors": Faults._read_errors,
    "failed-sync": Faults._failing_disk,
    "write-errors": Faults._failing_disk,
    "bit-flips": Faults._bit_flips,
    "wipe": Faults._wipe,
    "restore": Faults._restore,
    "clone": Faults._clone,
}
KINDS = tuple(_HANDLERS)
