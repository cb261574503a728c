"""What a cluster of S nodes says to itself, from 3 to 1,000 nodes: on paper, and checked in the simulator.

    python -m benchmarks.scale [--simulate 3,5,10] [--value-bytes 100] [--json]

Messages and bytes of an operation (N=3, R=2, W=2, the node asked is any), bytes that each node sends per
second for gossip and for comparing equal replicas, and what a node holds in memory because of the others.
Bytes are those of the encoded messages with the frame that each would have alone; under load frames are
shared, so they are an upper bound. The simulator runs the nodes as shipped; the formulas must come within a
tenth of what it counts, or the exit code is 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from random import Random
from typing import Any

from kvstore.bench.report import aligned
from kvstore.bench.result import number
from kvstore.core.encoding import digest, encode_context, encode_single, head_of
from kvstore.core.layout import Layout, _next_home
from kvstore.core.limits import DEFAULT_LIMITS
from kvstore.core.membership import Member
from kvstore.core.merkle_tree import LEAVES, MerkleTree
from kvstore.core.message import (
    REPLY_OF,
    CompareTrees,
    Get,
    Gossip,
    Gossiped,
    Got,
    Held,
    Put,
    Read,
    Receipt,
    Reply,
    Request,
    Store,
    Stored,
    TreesCompared,
    Written,
)
from kvstore.core.ring import PARTITIONS, full_key
from kvstore.core.sibling import Version
from kvstore.core.vector_clock import CausalContext
from kvstore.node.gossip import ROUND_S
from kvstore.node.ports import Write
from kvstore.rpc.frames import Sealer
from kvstore.rpc.wire import encode_answer, encode_request
from kvstore.simulation.history import Operation
from kvstore.simulation.machine import SimulatedMachine
from kvstore.simulation.plan import BUCKET, Action, Machine, Plan
from kvstore.simulation.world import simulate

N, R, W = 3, 2, 2
SIZES = (3, 5, 10, 30, 100, 300, 1000)
SIMULATED = (3, 5, 10)
TOLERANCE = 0.1
INTERVAL_SIMULATED_S = 5.0
"""The simulator's machines compare more often than a node does by default: a run sees enough of it."""

_PAUSE_OF_INTERVAL = 0.8  # the mean of what anti-entropy waits, as a share of its interval
_FROM_S, _TO_S = 20.0, 120.0
_NUMBERS = {request: number for number, request in enumerate(REPLY_OF)}
_KEYS = 50
OPERATIONS = 2000
"""Of each kind, in a simulated run."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Messages and bytes of a get and a put; bytes per node and second; copies of partitions per node."""

    get_messages: float
    get_bytes: float
    put_messages: float
    put_bytes: float
    gossip_bytes: float
    repair_bytes: float


# --- on paper -------------------------------------------------------------------------------------------


def formula(
    nodes: int, value_bytes: int, *, interval_s: float = DEFAULT_LIMITS.anti_entropy_interval_s
) -> Costs:
    """From the sizes of messages and how often each is sent.

    A node that is no home of the key forwards once: with equal shares all but N of S. A home has its own
    copy, asks R-1 others and writes to N-1. Each node begins one round of gossip per `ROUND_S` and takes
    part in another; both sides tell of all members. It compares with each peer it shares partitions with.
    """
    forwarded = 1 - N / nodes
    sizes = message_bytes(value_bytes)
    get = [("forward get", forwarded), ("read", R - 1.0)]
    put = [("forward put", forwarded), ("write", N - 1.0)]
    members = [sample_member(i) for i in range(nodes)]
    mine = Gossip(members[0], tuple(members), 1, b"d" * 8, 1_800_000_000_000)
    gossip = on_wire(mine) + on_wire_answer(Gossiped(*mine))
    return Costs(
        2 * sum(times for _, times in get),
        sum(sizes[what] * times for what, times in get),
        2 * sum(times for _, times in put),
        sum(sizes[what] * times for what, times in put),
        gossip / ROUND_S,
        compared_bytes(nodes) / (interval_s * _PAUSE_OF_INTERVAL),
    )


def compared_bytes(nodes: int) -> float:
    """What a node sends while it is compared once with every peer, and every peer with it; the mean."""
    shared: dict[tuple[int, int], list[int]] = {}
    for partition, homes in enumerate(homes_of(nodes)):
        for pair in permutations(homes, 2):
            shared.setdefault(pair, []).append(partition)
    total = 0
    for partitions in shared.values():
        hashes = b"h" * 8 * len(partitions)
        request = CompareTrees(b"t" * 8, N, tuple(partitions), 0, (0,), hashes)
        total += on_wire(request) + on_wire_answer(TreesCompared(b"\0" * len(partitions)))
    return total / nodes


def homes_of(nodes: int) -> list[list[int]]:
    """The homes of each partition: the first N places of `first_layout`, without the walks behind them."""
    members = [sample_member(i) for i in range(nodes)]
    walks: list[list[int]] = [[] for _ in range(PARTITIONS)]
    load = [0] * nodes
    for _ in range(N):
        for walk in walks:
            walk.append(_next_home(members, walk, load))
            load[walk[-1]] += 1
    return walks


def message_bytes(value_bytes: int) -> dict[str, int]:
    """Request and answer together, of the kinds that an operation is made of.

    Of a key that every home has coordinated a write of: its context names N copies.
    """
    key = full_key(BUCKET, b"k00")
    dots = [(2**63 + i, 300) for i in range(N)]
    dot, context = dots[0], CausalContext(dict(dots), frozenset())
    token = encode_context(context)
    state = encode_single(context, dot, Version(b"x" * value_bytes, operation_id=b"w100"), 1)
    nodes = tuple(sample_member(i).node_id for i in range(N))
    read = Receipt(nodes[0], N, R, R, tuple((node, 0.5, "same") for node in nodes[:R]), layout_version=1)
    written = Receipt(nodes[0], N, W, W, tuple((node, 0.5, "ok") for node in nodes[:W]), layout_version=1)
    put = Put(BUCKET, b"k00", b"x" * value_bytes, operation_id=b"w100", context=token, forwarded=True)
    return {
        "forward get": on_wire(Get(BUCKET, b"k00", forwarded=True)) + on_wire_answer(Got(state, False, read)),
        "forward put": on_wire(put) + on_wire_answer(Written(token, "e" * 16, 1, written)),
        "read": on_wire(Read(200, key, digest(state))) + on_wire_answer(Held(True)),
        "write": on_wire(Store(200, key, state, True, 0, head_of(state), 2**63)) + on_wire_answer(Stored()),
    }


def sample_member(i: int) -> Member:
    """As a node describes itself: addresses, zone and host of a few letters."""
    return Member(f"{i:032x}", f"n{i + 1}", f"n{i + 1}:1", f"n{i + 1}:2", host=f"n{i + 1}")


def on_wire(request: Request) -> int:
    return _framed(encode_request(1, _NUMBERS[type(request)], 0.5, 0, request))


def on_wire_answer(reply: Reply) -> int:
    return _framed(encode_answer(1, reply))


_SEALER = Sealer(b"k" * 32)


def _framed(message: bytes) -> int:
    return len(_SEALER.seal([message]))


def memory_bytes(nodes: int) -> int:
    """Members, layout and trees of a node, as allocated. Connections and caches are not among them."""
    copies = PARTITIONS * N / nodes
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    members = tuple(sample_member(1000 + i) for i in range(nodes))
    table = {member.node_id: member for member in members}
    layout = Layout(1, members, tuple(tuple(range(nodes)) for _ in range(PARTITIONS)))
    trees = [MerkleTree() for _ in range(round(copies))]
    for tree in trees:
        tree.toggle(1, 1)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(table) == len(layout.members) == nodes
    assert all(tree.hashes(LEAVES, [1]) for tree in trees)
    return after - before


# --- in the simulator -----------------------------------------------------------------------------------


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
    def asked(self, node: str, request: Get | Put) -> None: ...
    def answered(self, node: str, request: Get | Put, answer: Got | Written) -> None: ...
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


# --- the table ------------------------------------------------------------------------------------------


def deviations(paper: Costs, seen: Costs) -> dict[str, float]:
    """By how much the formula is off, 0.1 for ten percent; of figures that are not zero."""
    return {
        name: getattr(paper, name) / value - 1
        for name in Costs.__slots__
        if (value := getattr(seen, name)) > 0
    }


def table(sizes: Sequence[int], value_bytes: int) -> list[list[str]]:
    rows = [
        [
            "nodes",
            "get msgs",
            "get B",
            "put msgs",
            "put B",
            "gossip B/s",
            "repair B/s",
            "copies",
            "memory KiB",
        ]
    ]
    for nodes in sizes:
        c = formula(nodes, value_bytes)
        figures = (c.get_messages, c.get_bytes, c.put_messages, c.put_bytes, c.gossip_bytes, c.repair_bytes)
        copies, memory = PARTITIONS * N / nodes, memory_bytes(nodes) / 1024
        rows.append([f"{nodes:,}", *map(number, (*figures, copies, memory))])
    return rows


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulate", default=",".join(map(str, SIMULATED)), help="sizes to check, or none")
    parser.add_argument("--value-bytes", type=int, default=100)
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    a = parser.parse_args()
    sizes = [int(size) for size in a.simulate.split(",") if size not in ("", "none")]
    rows = table(SIZES, a.value_bytes)
    off: dict[int, dict[str, float]] = {}
    checked = [["nodes", *(name.replace("_", " ") for name in Costs.__slots__)]]
    for nodes in sizes:
        paper = formula(nodes, a.value_bytes, interval_s=INTERVAL_SIMULATED_S)
        seen = measured(nodes, a.value_bytes)
        off[nodes] = deviations(paper, seen)
        figures = (f"{number(getattr(seen, n))} ({number(getattr(paper, n))})" for n in Costs.__slots__)
        checked.append([str(nodes), *figures])
    if a.json:
        print(json.dumps({"table": rows, "deviations": off}))
    else:
        _print(rows, checked, a.value_bytes)
    wrong = {n: worst for n, found in off.items() if abs(worst := max(found.values(), key=abs)) > TOLERANCE}
    if wrong:
        print(f"the formula is off by more than {TOLERANCE:.0%}: {wrong}", file=sys.stderr)
    sys.exit(1 if wrong else 0)


def _print(rows: list[list[str]], checked: list[list[str]], value_bytes: int) -> None:
    print(f"N={N} R={R} W={W}, values of {value_bytes} bytes; per operation, and sent per node and second:\n")
    print("\n".join(aligned(rows)))
    print("\ncopies: of partitions, per node; below 1 some hold none. memory: members, layout, trees.")
    if len(checked) > 1:
        print(f"\nsimulated (formula); replicas are compared every {INTERVAL_SIMULATED_S:g} s there:\n")
        print("\n".join(aligned(checked)))


if __name__ == "__main__":
    main()
