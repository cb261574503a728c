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
slow            whose data messages (gossip is fine)            seconds, at most
clock-jump      whose clock                                     seconds, forwards or back
clock-drift     whose clock                                     seconds it shows per second
disk-full       whose disk
read-errors     whose disk
failed-sync     whose disk; its process must stop
bit-flips       whose disk                                      records, at most
wipe, restore, clone                                            see UNHANDLED
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

UNHANDLED = ("wipe", "restore", "clone")
"""Kinds that the nodes do not survive yet; off unless asked for by name."""


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

    # --- processes ----------------------------------------------------------------------------------

    async def _crash(self, fault: Fault, chance: Chance) -> bool:
        names = fault.nodes or tuple(self._machines)
        hit = [self._machines[name].crash(keep=chance.uniform("keep", 0.0, 1.0)) for name in names]
        await asyncio.sleep(fault.for_s)
        for name in names:
            self._machines[name].start()
        return any(hit)

    async def _restart(self, fault: Fault, _chance: Chance) -> bool:
        hit = [await self._machines[name].stop() for name in fault.nodes]
        await asyncio.sleep(fault.for_s)
        for name in fault.nodes:
            self._machines[name].start()
        return any(hit)

    async def _pause(self, fault: Fault, _chance: Chance) -> bool:
        paused = [p for name in fault.nodes if (p := self._machines[name].process) is not None]
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
        while self._loop.time() < end_s:
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
        await asyncio.sleep(fault.for_s)
        self._world.network.end(effect)
        return effect.hits > 0

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
        clocks = [self._machines[name].clock for name in fault.nodes]
        before = [clock.reads for clock in clocks]
        for clock in clocks:
            if fault.kind == "clock-jump":
                clock.jump(fault.amount)
            else:
                clock.drift(fault.amount)
        await asyncio.sleep(fault.for_s)
        for clock in clocks:
            clock.correct()
        return any(clock.reads > reads for clock, reads in zip(clocks, before, strict=True))

    # --- disks --------------------------------------------------------------------------------------

    async def _disk_full(self, fault: Fault, _chance: Chance) -> bool:
        machines = [self._machines[name] for name in fault.nodes]
        before = sum(machine.counts.full for machine in machines)
        for machine in machines:
            machine.disk.full = True
        await asyncio.sleep(fault.for_s)
        for machine in machines:
            machine.disk.full = False
        return sum(machine.counts.full for machine in machines) > before

    async def _read_errors(self, fault: Fault, _chance: Chance) -> bool:
        machines = [self._machines[name] for name in fault.nodes]
        before = sum(machine.counts.failed_reads for machine in machines)
        for machine in machines:
            machine.disk.fail_reads = True
        await asyncio.sleep(fault.for_s)
        for machine in machines:
            machine.disk.fail_reads = False
        return sum(machine.counts.failed_reads for machine in machines) > before

    async def _failed_sync(self, fault: Fault, _chance: Chance) -> bool:
        """The next sync fails. The process must end itself; after `for_s` the disk is good again."""
        machines = [self._machines[name] for name in fault.nodes]
        before = [machine.process for machine in machines]
        for machine in machines:
            machine.disk.fail_syncs = True
        await asyncio.sleep(fault.for_s)
        for machine in machines:
            machine.disk.fail_syncs = False
        pairs = zip(machines, before, strict=True)
        return any(process is not None and machine.process is not process for machine, process in pairs)

    async def _bit_flips(self, fault: Fault, chance: Chance) -> bool:
        hit = False
        for name in fault.nodes:
            disk = self._machines[name].disk
            records = disk.keys(Kind.DATA)
            for partition, key in chance.sample("records", records, int(fault.amount)):
                disk.flip_bit(Kind.DATA, partition, key, chance.bits("bit", 12))
                self._world.trace.add("flip", name, split_key(key)[1])
                hit = True
        return hit


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
    "failed-sync": Faults._failed_sync,
    "bit-flips": Faults._bit_flips,
}
KINDS = tuple(_HANDLERS)
