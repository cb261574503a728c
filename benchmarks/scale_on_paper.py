"""What a cluster of S nodes says to itself: formulas, from the sizes of messages and how often they go."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass
from itertools import permutations

from kvstore.core.encoding import digest, encode_context, encode_single, head_of
from kvstore.core.gossip_message import Gossip, Gossiped
from kvstore.core.layout import Layout, _next_home
from kvstore.core.limits import DEFAULT_LIMITS
from kvstore.core.membership import Member
from kvstore.core.merkle_tree import LEAVES, MerkleTree
from kvstore.core.message import (
    REPLY_OF,
    Get,
    Got,
    Held,
    Put,
    Read,
    Receipt,
    Reply,
    Request,
    Store,
    Stored,
    Written,
)
from kvstore.core.ring import PARTITIONS, full_key
from kvstore.core.sibling import Version
from kvstore.core.upkeep_message import CompareTrees, TreesCompared
from kvstore.core.vector_clock import CausalContext
from kvstore.node.gossip import ROUND_S
from kvstore.rpc.frames import Sealer
from kvstore.rpc.wire import encode_answer, encode_request
from kvstore.simulation.plan import BUCKET

N, R, W = 3, 2, 2
_PAUSE_OF_INTERVAL = 0.8  # the mean of what anti-entropy waits, as a share of its interval
_NUMBERS = {request: number for number, request in enumerate(REPLY_OF)}


@dataclass(frozen=True, slots=True)
class Costs:
    """Messages and bytes of a get and a put; bytes per node and second; copies of partitions per node."""

    get_messages: float
    get_bytes: float
    put_messages: float
    put_bytes: float
    gossip_bytes: float
    repair_bytes: float


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
