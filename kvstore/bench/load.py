"""One load as a value, and running it: in this process, or in several that share its connections and rate."""

from __future__ import annotations

import asyncio
import multiprocessing
import selectors
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from random import Random
from typing import Any

from kvstore.bench.client_lanes import BatchLane, ClientLane, closed_loop_of_threads
from kvstore.bench.drive import Lane, closed_loop, open_loop
from kvstore.bench.http import VALUES, Dialect, HttpLane, KvDialect, http_lanes, watch
from kvstore.bench.recording import Recording, need_histograms
from kvstore.bench.workload import Kind, Operation, Operations, key_text, value_of, workload_named
from kvstore.errors import BatchError, InvalidRequest

VIA = ("http", "client", "sync", "batch")
_SELECT_MAX = 900
"""select() takes descriptors below 1024; some are the process's own."""

_FILL_ATTEMPTS, _FILL_PAUSE_S, _ASK_AGAIN = 40, 0.05, ("429", "503")
_FILL_BATCH = 100
_FILL_LANES = 8


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent to whom, how fast and how long.

    `nodes`: base URLs. `workload`: a name of WORKLOADS. `rate_per_s` None: closed loop, the peak; else
    an open loop of so many operations per second. `connections`: of all processes together; tasks or
    threads, where the library is used. `via`: one of VIA. `batch_items`: operations of a batch.
    `reads`, `writes`: options, such as (("r", "1"),), by the names of the HTTP interface. `dialect`: of
    a store that is not kvstore. `series`: keep what became of every single operation.
    """

    nodes: tuple[str, ...]
    workload: str = "A"
    keys: int = 10_000
    value_bytes: int = 1024
    connections: int = 64
    rate_per_s: float | None = None
    duration_s: float = 30.0
    warm_up_s: float = 5.0
    via: str = "http"
    batch_items: int = 100
    reads: tuple[tuple[str, str], ...] = ()
    writes: tuple[tuple[str, str], ...] = ()
    bucket: str = "bench"
    token: str = ""
    timeout_s: float = 5.0
    seed: int = 0
    processes: int = 1
    series: bool = False
    dialect: Dialect | None = None

    def settings(self) -> dict[str, Any]:
        """What a result says of it; never the token."""
        return {
            "workload": self.workload,
            "keys": self.keys,
            "value_bytes": self.value_bytes,
            "connections": self.connections,
            "loop": "closed" if self.rate_per_s is None else f"open, {self.rate_per_s:g} per s",
            "duration_s": self.duration_s,
            "warm_up_s": self.warm_up_s,
            "via": self.via if self.dialect is None else "http",
            "nodes": len(self.nodes),
            "processes": self.processes,
            **({"batch_items": self.batch_items} if self.via == "batch" else {}),
            **({"reads": dict(self.reads)} if self.reads else {}),
            **({"writes": dict(self.writes)} if self.writes else {}),
        }


def run(load: Load) -> Recording:
    """Raises InvalidRequest, ConfigError, and ConnectError where no node can be reached."""
    need_histograms()
    check(load)
    if load.processes == 1:
        return _run_one(load, 0)
    with ProcessPoolExecutor(load.processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        recordings = list(pool.map(_run_one, [load] * load.processes, range(load.processes)))
    whole = recordings[0]
    for recording in recordings[1:]:
        whole.merge(recording)
    return whole


def fill(load: Load, *, first: int = 0, told: Callable[[int], None] = lambda done: None) -> None:
    """Every key from `first` on once, in batches where the store has them. `told`: how many are done.

    Raises InvalidRequest, and what the client raises, if a key could not be written.
    """
    need_histograms()
    check(load)
    _runner(load)(_fill(load, first, told))


def check(load: Load) -> None:
    workload_named(load.workload)
    if load.via not in VIA:
        raise InvalidRequest(f"via={load.via!r} must be one of {', '.join(VIA)}")
    if load.processes > load.connections:
        raise InvalidRequest(f"{load.processes} processes share {load.connections} connections")
    if load.via == "sync" and load.rate_per_s is not None:
        raise InvalidRequest("the synchronous client runs in a closed loop only", advice="leave out the rate")
    if load.via == "batch" and load.workload not in ("get", "put", "insert", "A", "B", "C"):
        raise InvalidRequest(f"a batch has gets and puts only, workload {load.workload} needs more")


# --- one process ----------------------------------------------------------------------------------------


def _run_one(load: Load, number: int) -> Recording:
    if load.processes > 1:
        share, more = divmod(load.connections, load.processes)
        rate = load.rate_per_s / load.processes if load.rate_per_s is not None else None
        turned = load.nodes[number % len(load.nodes) :] + load.nodes[: number % len(load.nodes)]
        load = replace(load, connections=share + (number < more), rate_per_s=rate, nodes=turned)
    if load.via == "sync":
        return _run_threads(load, number)
    recording: Recording = _runner(load)(_run(load, number))
    return recording


def _runner(load: Load) -> Callable[..., Any]:
    """asyncio.run on a loop that suits the load.

    An open loop wants timers of microseconds: epoll's and uvloop's are whole milliseconds, select's are
    not. A closed loop has no timers, and uvloop takes less of the processor from the nodes.
    """
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if load.rate_per_s is not None and load.connections < _SELECT_MAX:
        factory = lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())  # noqa: E731
    else:
        try:
            import uvloop
        except ImportError:
            factory = None
        else:
            factory = uvloop.new_event_loop

    def start(main: Any) -> Any:
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(main)

    return start


def _operations(load: Load, number: int, name: str = "") -> Operations:
    random = Random(f"{load.seed}/{number}/{name}")  # noqa: S311 - a load, no secret
    return Operations(
        workload_named(load.workload), load.keys, random, first=number, step=max(1, load.processes)
    )


def _values(load: Load) -> list[bytes]:
    random = Random(load.seed)  # noqa: S311
    return [value_of(load.value_bytes, random) for _ in range(VALUES)]


async def _run(load: Load, number: int) -> Recording:
    recording = Recording(keep_series=load.series)
    operations = _operations(load, number)
    async with AsyncExitStack() as stack:
        lanes = await _lanes(load, operations, stack)
        if load.via == "batch":
            recording.items_each = load.batch_items
        times = {"warm_up_s": load.warm_up_s, "duration_s": load.duration_s}
        if load.rate_per_s is None:
            await closed_loop(lanes, operations, recording, **times, clock=time.perf_counter)
        else:
            random = Random(f"{load.seed}/{number}/arrivals")  # noqa: S311
            await open_loop(
                lanes,
                operations,
                recording,
                rate_per_s=load.rate_per_s,
                random=random,
                **times,
                clock=time.perf_counter,
            )
    return recording


async def _lanes(load: Load, operations: Operations, stack: AsyncExitStack) -> Sequence[Lane]:
    if load.via == "http":
        return await _http(load, stack)
    from kvstore.client import AsyncClient

    client = AsyncClient(
        load.nodes,
        token=load.token or None,
        timeout_s=load.timeout_s,
        connections_max=max(load.connections, 16),
    )
    bucket = (await stack.enter_async_context(client)).bucket(load.bucket, **options(load))
    values = _values(load)
    if load.via == "batch":
        return [BatchLane(bucket, values, operations, load.batch_items) for _ in range(load.connections)]
    return [ClientLane(bucket, values) for _ in range(load.connections)]


async def _http(load: Load, stack: AsyncExitStack) -> list[HttpLane]:
    dialect = load.dialect or KvDialect(load.bucket, load.reads, load.writes, load.token)
    lanes = http_lanes(
        load.nodes,
        load.connections,
        dialect,
        value_bytes=load.value_bytes,
        random=Random(load.seed),  # noqa: S311
        timeout_s=load.timeout_s,
    )
    await asyncio.gather(*(lane.connect() for lane in lanes), return_exceptions=True)
    watching = asyncio.create_task(watch(lanes))

    async def end() -> None:
        watching.cancel()
        for lane in lanes:
            lane.close()

    stack.push_async_callback(end)
    return lanes


def options(load: Load) -> dict[str, Any]:
    """`reads` and `writes` as arguments of a bucket of the library, whole numbers as numbers."""
    return {
        name: int(text) if text.isdigit() else {"true": True, "false": False}.get(text, text)
        for name, text in (*load.reads, *load.writes)
    }


def _run_threads(load: Load, number: int) -> Recording:
    from kvstore.client import Client

    with ExitStack() as stack:
        client = stack.enter_context(Client(load.nodes, token=load.token or None, timeout_s=load.timeout_s))
        bucket = client.bucket(load.bucket, **options(load))
        return closed_loop_of_threads(
            [bucket] * load.connections,
            lambda thread: _operations(
                replace(load, processes=load.processes * load.connections),
                number * load.connections + thread,
            ),
            _values(load),
            warm_up_s=load.warm_up_s,
            duration_s=load.duration_s,
            clock=time.perf_counter,
        )


async def _fill(load: Load, first: int, told: Callable[[int], None]) -> None:
    numbers = iter(range(first, load.keys))
    done = 0
    if load.dialect is not None:
        async with AsyncExitStack() as stack:
            await _fill_one_by_one(await _http(replace(load, connections=32), stack), numbers, told)
        return
    from kvstore.client import AsyncClient

    values = _values(load)
    async with AsyncClient(load.nodes, token=load.token or None, timeout_s=30.0) as client:
        bucket = client.bucket(load.bucket, **options(replace(load, reads=())))

        async def work() -> None:
            nonlocal done
            while part := list(islice(numbers, _FILL_BATCH)):
                try:
                    async with bucket.batch() as batch:
                        for number in part:
                            batch.put(key_text(number), values[number % VALUES])
                except BatchError as error:
                    raise next(iter(error.errors.values()), error) from None
                done += len(part)
                told(done)

        await asyncio.gather(*(work() for _ in range(_FILL_LANES)))


async def _fill_one_by_one(lanes: list[HttpLane], numbers: Any, told: Callable[[int], None]) -> None:
    done = 0

    async def work(lane: HttpLane) -> None:
        nonlocal done
        for number in numbers:
            for _ in range(_FILL_ATTEMPTS):
                error = await lane.run(Operation(Kind.INSERT, number))
                if error not in _ASK_AGAIN:
                    break
                await asyncio.sleep(_FILL_PAUSE_S)  # a store that has too much to do says so
            if error:
                raise InvalidRequest(f"key {number} could not be written: {error}")
            done += 1
            told(done)

    await asyncio.gather(*(work(lane) for lane in lanes))
