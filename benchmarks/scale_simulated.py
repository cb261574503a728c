"""What a cluster of S nodes says to itself: counted in the simulator, which runs the nodes as shipped."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

from benchmarks.scale_on_paper import Costs, N, R, W, on_wire, on_wire_answer
from kvstore.core.message import Get, Got, Put, Reply, Request, Written
from kvstore.core.outcome import AskOutcome, OutcomeTold
from kvstore.node.ports import Write
from kvstore.simulation.history import Operation
from kvstore.simulation.machine import SimulatedMachine
from kvstore.simulation.plan import Action, Machine, Plan
from kvstore.simulation.world import simulate

INTERVAL_SIMULATED_S = 5.0
"""The simulator's machines compare more often than a node does by default: a run sees enough of it."""

OPERATIONS = 2000
"""Of each kind, in a run."""

_FROM_S, _TO_S = 20.0, 120.0
_KEYS = 50


class Meter:
    """Counts what is sent between `_FROM_S` and `_TO_S`, by class: messages and bytes, answers among them."""

    def __init__(self) -> None:
        self.messages: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def began(self, machines: Mapping[str, SimulatedMachine], plan: Plan) -> None:
        world = next(iter(machines.values()))._world
        network, loop = world.network, world.loop
        send: Callable[..., asyncio.Future[Reply]] = network.call

        def call(source: Any, target: Any, request: Request, deadline_s: float) -> asyncio.Future[Reply]:
            reply = send(source, target, request, deadline_s)
            if _FROM_S <= loop.time() < _TO_S:
                self._count(type(request).__name__, on_wire(request))
                reply.add_done_callback(lambda done: self._answered(type(request).__name__, done))
            return reply

        network.call = call  # type: ignore[method-assign]

    def _answered(self, name: str, reply: asyncio.Future[Reply]) -> None:
        if not reply.cancelled() and reply.exception() is None:
            self._count(name, on_wire_answer(reply.result()))

    def _count(self, name: str, size_bytes: int) -> None:
        self.messages[name] += 1
        self.bytes[name] += size_bytes

    # The rest of what observers are told.
    def applied(self, node: str, batch: Sequence[Write]) -> None: ...
    def asked(self, node: str, request: Get | Put | AskOutcome) -> None: ...
    def answered(
        self, node: str, request: Get | Put | AskOutcome, answer: Got | Written | OutcomeTold
    ) -> None: ...
    def acked(self, node: str, operation: Operation) -> None: ...
    def crashed(self, node: str) -> None: ...
    def restarted(self, node: str) -> None: ...


def measured(nodes: int, value_bytes: int, *, operations: int = OPERATIONS) -> Costs:
    """Three runs: nothing happens; gets; puts. Keys are written, and equal everywhere, before it counts."""
    idle = _run(nodes, "", value_bytes, 0)
    window_s = _TO_S - _FROM_S
    costs = {}
    for kind, parts in (("get", ("Get", "Read", "Store")), ("put", ("Put", "Store"))):
        meter = _run(nodes, kind, value_bytes, operations)
        for what, counts in (("messages", meter.messages), ("bytes", meter.bytes)):
            costs[f"{kind}_{what}"] = sum(counts[part] for part in parts) / operations
    return Costs(
        **costs,
        gossip_bytes=idle.bytes["Gossip"] / nodes / window_s,
        repair_bytes=idle.bytes["CompareTrees"] / nodes / window_s,
    )


def _run(nodes: int, kind: str, value_bytes: int, operations: int) -> Meter:
    random = Random(7)
    machines = tuple(Machine(f"n{i + 1}") for i in range(nodes))

    def action(i: int, at_s: float, what: str, key: int) -> Action:
        node = random.randrange(nodes)
        return Action(i, at_s, what, f"k{key:02d}", node, value_bytes=value_bytes)

    first = [action(i, 8 + i * 0.1, "put", i) for i in range(_KEYS)]
    step_s = (_TO_S - _FROM_S - 2) / max(1, operations)
    later = [
        action(100 + i, _FROM_S + 1 + i * step_s, kind, random.randrange(_KEYS)) for i in range(operations)
    ]
    clients = (tuple(first + later),)
    meter = Meter()
    plan = Plan(0, _TO_S + 5, machines, n=N, r=R, w=W, clients=clients)
    run = simulate(plan, meter)
    if run.bugs or run.converged_s is None:
        raise SystemExit(f"the simulated run of {nodes} nodes went wrong: {run.bugs}")
    return meter
