"""The invariants of every step, kept over a simulated world.

watch = WhiteBox()
run = simulate(plan, watch)
watch.invariants.breaches
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from kvstore.core.hint import decode_hint, split_hint_key
from kvstore.core.message import Get, Got, Put, Written
from kvstore.core.outcome import OK, AskOutcome, OutcomeTold
from kvstore.core.ring import full_key
from kvstore.errors import CorruptRecord
from kvstore.node.ports import Kind, Write
from kvstore.simulation.history import Operation
from kvstore.simulation.invariants import Invariants
from kvstore.simulation.machine import SimulatedMachine
from kvstore.simulation.plan import Plan
from kvstore.storage.memory import MemoryDisk


def _hint(record_key: bytes, record: bytes) -> tuple[bytes, bytes]:
    """(full key, encoded state) of a hint."""
    return split_hint_key(record_key)[1], decode_hint(record).state if record else b""


def _readable(disk: MemoryDisk) -> Iterator[Write]:
    for kind in (Kind.DATA, Kind.HINT):
        for partition, key in disk.keys(kind):
            with suppress(CorruptRecord):
                yield kind, partition, key, disk.record(kind, partition, key)


class WhiteBox:
    """An Observer that tells `Invariants` what happens."""

    def __init__(self) -> None:
        self.invariants = Invariants(hint_reader=_hint)
        self._machines: Mapping[str, SimulatedMachine] = {}
        self._disks: dict[str, MemoryDisk] = {}
        self._w = 1

    def began(self, machines: Mapping[str, SimulatedMachine], plan: Plan) -> None:
        self._machines, self._w = machines, plan.properties().default_quorum.w
        for name, machine in machines.items():
            self.invariants.now = machine.clock.elapsed_s
            self._disks[name] = machine.disk
            machine.disk.observer = self.invariants.of(name)

    def asked(self, node: str, request: Get | Put | AskOutcome) -> None:
        if isinstance(request, Put) and request.operation_id and request.if_match is None:
            self.invariants.asked(request.operation_id, request.context)

    def answered(
        self, node: str, request: Get | Put | AskOutcome, answer: Got | Written | OutcomeTold
    ) -> None:
        key = full_key(request.bucket, request.key)
        if isinstance(answer, Got):
            self.invariants.answered(key, answer.state)
            self.invariants.counted(key, node, answer.receipt)
        elif isinstance(answer, OutcomeTold):
            if answer.outcome == OK:
                self.invariants.durable(key, answer.context, self._w)
        else:
            self.invariants.acked(key, answer.context, self._w)

    def applied(self, node: str, batch: Sequence[Write]) -> None: ...

    def acked(self, node: str, operation: Operation) -> None: ...

    def crashed(self, node: str) -> None:
        self._new_disk(node)

    def restarted(self, node: str) -> None:
        self._new_disk(node)

    def _new_disk(self, node: str) -> None:
        """Another disk in this machine, an older copy perhaps: what is on it is where it goes on from."""
        disk = self._machines[node].disk
        if disk is not self._disks.get(node):
            self._disks[node] = disk
            self.invariants.wiped(node, _readable(disk))
            disk.observer = self.invariants.of(node)
