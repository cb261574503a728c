"""Single parts of kvstore, in this process: storage, calls between nodes, encoding, causality, trees."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

from benchmarks.limits import run_main
from benchmarks.suite import VALUE_BYTES, Suite, timed
from kvstore.core.encoding import (
    decode_causal,
    decode_state,
    digest,
    encode_single,
    encode_state,
    head_of,
    merge_encoded,
)
from kvstore.core.merkle_tree import MerkleTree, item_hash, segment_of
from kvstore.core.message import Held, Read, Reply, Request, Store, Stored
from kvstore.core.ring import full_key, partition_of
from kvstore.core.sibling import EMPTY_STATE, Version, write
from kvstore.core.token import open_token, seal
from kvstore.core.vector_clock import EMPTY_CONTEXT, CausalContext
from kvstore.node.ports import Kind
from kvstore.rpc.identity import Identity
from kvstore.rpc.peer_client import PeerClient
from kvstore.rpc.peer_server import PeerServer
from kvstore.rpc.wire import REQUESTS, encode_answer, encode_request
from kvstore.storage.rocksdb import RocksStorage

_COUNT = 20_000
_CALLS = 20_000
_SYNCS = 300
KEY = full_key("bench", b"user000000000001")
_SIGNING_KEY = bytes(range(32))


def run(suite: Suite, directory: Path) -> None:
    for group, parts in (("encoding", codec()), ("causality and trees", causality())):
        for name, work in parts.items():
            suite.rounds(f"Micro: {group}", name, partial(_of, work))
    for number in range(suite.budget.rounds):
        figures = run_main(storage(directory / f"storage{number}"))
        _collect(suite, "Micro: storage", figures, number)
    for number in range(suite.budget.rounds):
        _collect(suite, "Micro: calls between nodes", run_main(calls()), number)


def _of(work: Callable[[], object], _: int) -> dict[str, Any]:
    return {"us": round(timed(work, _COUNT), 3)}


def _collect(suite: Suite, group: str, figures: dict[str, dict[str, Any]], number: int) -> None:
    for name, found in figures.items():
        case = suite.case(group, name) if number == 0 else suite.result.case(name)
        suite.add(case, found)


def codec() -> dict[str, Callable[[], object]]:
    version = Version(b"x" * VALUE_BYTES)
    state = write(EMPTY_STATE, EMPTY_CONTEXT, version, (77, 1))
    encoded = encode_state(state)
    store = Store(7, KEY, encoded, True, 0, head_of(encoded), 77)
    in_turn = cycle((store, store._replace(partition=8)))  # of one alone the bytes would be remembered
    number = REQUESTS.index(Store)
    return {
        "encode a state of one version": partial(encode_single, state.context, (77, 1), version, 0),
        "decode a state": partial(decode_state, encoded),
        "decode its causal part": partial(decode_causal, encoded),
        "digest of a state": partial(digest, encoded),
        "encode a replica write for the wire": lambda: encode_request(1, number, 0.5, 0, next(in_turn)),
        "encode an answer for the wire": partial(encode_answer, 1, Held(False, encoded)),
    }


def causality() -> dict[str, Callable[[], object]]:
    one = write(EMPTY_STATE, EMPTY_CONTEXT, Version(b"x" * VALUE_BYTES), (77, 1))
    newer = encode_state(write(one, one.context, Version(b"y" * VALUE_BYTES), (77, 2)))
    aside = encode_state(write(EMPTY_STATE, EMPTY_CONTEXT, Version(b"z" * VALUE_BYTES), (78, 1)))
    encoded = encode_state(one)
    wide = CausalContext(dict.fromkeys(range(100), 1000), frozenset())
    token = seal(one.context, KEY, _SIGNING_KEY)
    tree = MerkleTree()
    return {
        "merge: one supersedes the other": partial(merge_encoded, encoded, newer),
        "merge: two become siblings": partial(merge_encoded, encoded, aside),
        "join two contexts of 100 replicas": partial(wide.join, wide),
        "seal a token": partial(seal, one.context, KEY, _SIGNING_KEY),
        "open a token": partial(open_token, token, KEY, _SIGNING_KEY, 4096),
        "toggle a key in a tree": lambda: tree.toggle(segment_of(KEY), item_hash(KEY, encoded)),
        "partition of a key": partial(partition_of, KEY),
    }


async def storage(path: Path) -> dict[str, dict[str, Any]]:
    engine = RocksStorage(path, cache_bytes=64 << 20)
    value = b"x" * VALUE_BYTES
    keys = [full_key("bench", b"user%012d" % i) for i in range(_COUNT)]
    found = {}

    def took(name: str, count: int, began_s: float) -> None:
        us = (time.perf_counter() - began_s) / count * 1e6
        found[name] = {"us": round(us, 3)}

    began_s = time.perf_counter()
    for key in keys:
        engine.apply([(Kind.DATA, 7, key, value)])
    took("apply one write", _COUNT, began_s)
    began_s = time.perf_counter()
    for key in keys:
        engine.get(Kind.DATA, 7, key)
    took("get", _COUNT, began_s)
    began_s = time.perf_counter()
    count = sum(1 for _ in engine.scan(Kind.DATA, 7))
    took("scan, per record", count, began_s)
    assert count == _COUNT
    began_s = time.perf_counter()
    for key in keys[:_SYNCS]:
        engine.apply([(Kind.DATA, 7, key, value)])
        await engine.sync()
    took("write and sync, one at a time", _SYNCS, began_s)
    began_s = time.perf_counter()
    for at in range(0, _SYNCS * 32, 32):
        waiting = []
        for key in keys[at : at + 32]:
            engine.apply([(Kind.DATA, 7, key, value)])
            waiting.append(engine.sync())
        await asyncio.gather(*waiting)
    took("write and sync, 32 at a time, per write", _SYNCS * 32, began_s)
    await engine.close()
    return found


async def calls() -> dict[str, dict[str, Any]]:
    """Both ends in one process and one loop."""
    ann, bob = (Identity(name * 32, bytes(range(32)), 1, lambda: "bench") for name in "ab")
    state = b"x" * VALUE_BYTES

    def serve(sender: str, request: Request, deadline_s: float) -> Reply:
        return Held(False, state) if isinstance(request, Read) else Stored()

    server = PeerServer(bob, serve)
    address = await server.start("127.0.0.1:0")
    client = PeerClient(ann, uniform=lambda low, high: low)
    await client.start()
    client.learn("b" * 32, address)
    found = {}
    reads: Request = Read(7, KEY)
    for name, request in (("read", reads), ("write", Store(7, KEY, state))):
        for at_once in (1, 64):
            began_s = time.perf_counter()
            count = _CALLS if at_once > 1 else _CALLS // 10
            for _ in range(count // at_once):
                await asyncio.gather(*(client.call("b" * 32, request, 5.0) for _ in range(at_once)))
            us = (time.perf_counter() - began_s) / count * 1e6
            found[f"replica {name}, {at_once} at once"] = {"us": round(us, 2), "per_s": round(1e6 / us)}
    await client.close()
    await server.close()
    return found
