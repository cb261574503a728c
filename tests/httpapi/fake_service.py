"""A node of one copy in memory that follows the rules of core/sibling.py, and fails when told to."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from kvstore.core.bucket import BucketProperties, properties_from
from kvstore.core.encoding import decode_context, decode_state, encode_context, encode_state, etag
from kvstore.core.hybrid_clock import tick
from kvstore.core.limits import Limits
from kvstore.core.message import Get, Got, Put, Receipt, Written
from kvstore.core.outcome import AskOutcome, OutcomeTold, dots_of, outcome_of
from kvstore.core.ring import full_key, split_key
from kvstore.core.sibling import EMPTY_STATE, KeyState, Version, find_operation, shown, write
from kvstore.core.token import token_key
from kvstore.core.vector_clock import EMPTY_CONTEXT, CausalContext, context_of
from kvstore.errors import ContextRequired, PreconditionFailed
from kvstore.node.scan import Page
from kvstore.node.slices import Slices
from kvstore.node.tasks import Task, Tasks
from kvstore.node.upkeep import Figures

NODE_ID = "a" * 32
PEER_ID = "b" * 32
NAMES = {NODE_ID: "n1", PEER_ID: "n2"}
REPLICA_ID = 77
START_MS = 1_700_000_000_000


class FakeClock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.ms = START_MS
        self.s = 0.0

    def now_ms(self) -> int:
        return self.ms

    def elapsed_s(self) -> float:
        return self.s


class FakeUpkeep:
    """`failure` is raised by the work of the next task, which waits for `gate`."""

    def __init__(self) -> None:
        self.failure: BaseException | None = None
        self.refusal: BaseException | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.repairs: list[tuple[str, bytes, int | None]] = []
        self.barriers: list[float] = []
        self._running: list[asyncio.Task[None]] = []
        self._tasks = Tasks(lambda name, work: self._running.append(asyncio.ensure_future(work)))

    def begin_repair(self, bucket: str, key: bytes, partition: int | None, /) -> Task:
        if self.refusal is not None:
            raise self.refusal
        self.repairs.append((bucket, key, partition))
        return self._tasks.begin("repair", 1 if key else 256, self._work)

    def begin_barrier(self, timeout_s: float, /) -> Task:
        self.barriers.append(timeout_s)
        return self._tasks.begin("barrier", 256, self._work)

    async def _work(self, task: Task) -> dict[str, Any]:
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        task.done = task.total
        return {"healed": 2, "missing": ["n3"]}

    def shown_tasks(self) -> list[dict[str, Any]]:
        return self._tasks.shown()

    def status(self) -> dict[str, Any]:
        return {"peers": [{"name": "n2", "oldest_comparison_s": 1.5}]}

    def figures(self) -> Figures:
        return Figures(*range(1, len(Figures._fields) + 1))


class FakeService:
    """`failure` is raised by the next data call, once. `gate`: data calls wait for it while it is closed.

    `seen` holds every request that came through, as messages; each takes `takes_s` by the clock.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.wall = FakeClock()
        self.signing_key = token_key(b"k" * 32)
        self.node_id, self.name = NODE_ID, "n1"
        self.states: dict[bytes, KeyState] = {}
        self.properties: dict[str, BucketProperties] = {}
        self.defaults = BucketProperties()
        self.counter = 0
        self.seen: list[Get | Put] = []
        self.scans: list[dict[str, Any]] = []
        self.outcomes: list[AskOutcome] = []
        self.acks = 3
        self.failure: BaseException | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = 0
        self.takes_s = 0.0
        self.ready = [("layout", True, "version 1, 3 members")]
        self.layout_now: dict[str, Any] | None = {"version": 1, "members": [{"http": "127.0.0.1:1"}]}
        self.complete = True
        self.upkeep = FakeUpkeep()
        self.slices = Slices()
        self.receipt = Receipt(NODE_ID, 3, 2, 2, ((NODE_ID, 0.05, "same"), (PEER_ID, 0.41, "same")), (), 0, 1)

    def name_of(self, node: str, /) -> str:
        return NAMES.get(node, node[:8])

    # --- data -----------------------------------------------------------------------------------------

    async def _enter(self, request: Get | Put) -> None:
        self.seen.append(request)
        self.wall.s += self.takes_s
        if not self.gate.is_set():
            self.waiting += 1
            await self.gate.wait()
            self.waiting -= 1
        self._fail()

    def _fail(self) -> None:
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure

    def state(self, bucket: str, key: bytes) -> KeyState:
        return self.states.get(full_key(bucket, key), EMPTY_STATE)

    async def get(self, request: Get, /) -> Got:
        await self._enter(request)
        state = self.state(request.bucket, request.key)
        encoded = encode_state(state) if state.context != EMPTY_CONTEXT else b""
        return Got(encoded, self.bucket(request.bucket)[0].last_write_wins, self.receipt)

    async def put(self, request: Put, /) -> Written:
        await self._enter(request)
        properties = self.bucket(request.bucket)[0]
        state = self.state(request.bucket, request.key)
        values = shown(state, self.wall.now_ms())
        tag = etag(state.siblings) if values else None
        if request.if_absent and values:
            raise PreconditionFailed("the key has a value already (If-None-Match: *)")
        if request.if_match is not None and (tag is None or request.if_match not in ("*", tag)):
            raise PreconditionFailed(f"the current ETag is {tag}, not {request.if_match}")
        token = None if request.context is None else decode_context(request.context)
        if find_operation(state, request.operation_id) is None:
            state = self._write(request, properties, state, token)
        own = (token or EMPTY_CONTEXT).add((REPLICA_ID, self.counter))
        return Written(
            encode_context(own),
            etag(state.siblings),
            len(shown(state, self.wall.now_ms())),
            self.receipt,
        )

    async def outcome(self, asked: AskOutcome, /) -> OutcomeTold:
        self.outcomes.append(asked)
        self._fail()
        state = self.state(asked.bucket, asked.key)
        dots = dots_of([encode_state(state)], asked.operation_id)
        acks = self.acks if dots else 0
        context = encode_context(context_of(dots)) if dots else b""
        return OutcomeTold(outcome_of(dots, acks=acks, w=2), context, 3, 2, 3, acks)

    def _write(
        self, request: Put, properties: BucketProperties, state: KeyState, token: CausalContext | None
    ) -> KeyState:
        mode = request.mode or properties.blind
        if token is None and mode == "reject":
            raise ContextRequired(f"bucket {request.bucket} takes no blind writes")
        seen = token if token is not None else state.context if mode == "overwrite" else EMPTY_CONTEXT
        self.counter += 1
        ttl_ms = int(properties.ttl_s * 1000) if request.ttl_ms is None else request.ttl_ms
        version = Version(
            request.value,
            request.tombstone,
            request.content_type,
            request.metadata,
            tick(0, self.wall.now_ms()) + self.counter,
            request.operation_id,
            self.wall.now_ms() + ttl_ms if ttl_ms else 0,
        )
        state = write(state, seen, version, (REPLICA_ID, self.counter))
        self.states[full_key(request.bucket, request.key)] = state
        return state

    async def scan(
        self,
        bucket: str,
        *,
        prefix: bytes,
        after: bytes,
        limit: int,
        values: bool,
        r: int | None,
        timeout_s: float,
    ) -> Page:
        self._fail()
        self.scans.append({"prefix": prefix, "after": after, "limit": limit, "r": r, "timeout_s": timeout_s})
        keys = sorted(
            key for name, key in map(split_key, self.states)
            if name == bucket and key.startswith(prefix) and key > after
        )  # fmt: skip
        items = []
        for key in keys[:limit]:
            state = self.state(bucket, key)
            if not values:
                bare = {dot: version._replace(value=b"") for dot, version in state.siblings.items()}
                state = KeyState(bare, state.context)
            items.append((key, decode_state(encode_state(state))))
        last = items[-1][0] if len(keys) > limit else None
        return Page(tuple(items), last, self.complete)

    # --- everything else ------------------------------------------------------------------------------

    def bucket(self, name: str, /) -> tuple[BucketProperties, bool]:
        return self.properties.get(name, self.defaults), name in self.properties

    async def set_bucket(self, name: str, values: Mapping[str, Any], /) -> BucketProperties:
        self._fail()
        self.properties[name] = properties_from(values, self.bucket(name)[0])
        return self.properties[name]

    def buckets(self) -> dict[str, BucketProperties]:
        return self.properties

    def cluster(self) -> dict[str, Any]:
        return {"cluster_id": "c1", "members": [{"id": NODE_ID, "name": "n1"}]}

    def peers(self) -> dict[str, Any]:
        slow = {"breaker": "closed", "latency_breaker": "open", "read_median_ms": 201.5}
        new = {"breaker": "half-open", "latency_breaker": "closed", "read_median_ms": None}
        return {
            "hedges": 5,
            "hedges_refused": 2,
            "hedge_delay_s": 0.0125,
            "slow_found": 1,
            "peers": [{"name": "n2", **slow}, {"name": "n3", **new}],
        }

    def keeps(self, bucket: str, key: bytes, /) -> bool:
        return bucket != "elsewhere"

    def clocks(self) -> tuple[dict[str, int], int]:
        return {"n2": -1500}, 4

    def layout(self) -> dict[str, Any] | None:
        return self.layout_now

    async def explain(self, bucket: str, key: bytes, /) -> dict[str, Any]:
        self._fail()
        return {"bucket": bucket, "homes": [{"id": NODE_ID, "answer": "nothing"}]}

    def pending_hints(self) -> dict[str, Any]:
        away = {"id": PEER_ID, "name": "n2", "count": 3, "bytes": 300, "oldest_age_s": 1.5}
        return {
            "node": "n1",
            "count": 3,
            "bytes": 300,
            "count_max": 10,
            "bytes_max": 1000,
            "delivered": 7,
            "dropped": 1,
            "marks": 1,
            "targets": [{**away, "in_reach": False, "next_attempt_s": None}],
        }

    def readiness(self) -> list[tuple[str, bool, str]]:
        return self.ready
