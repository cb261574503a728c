"""A full node: who is worked on, who waits, who is refused, and that nobody loses a place."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections.abc import Awaitable
from functools import partial
from typing import Any
from unittest.mock import patch

from kvstore.core.degradation import Tier
from kvstore.core.message import Get, Got, Put, Written
from kvstore.errors import Overloaded
from kvstore.httpapi.admission import Admission
from kvstore.httpapi.routes import Pool
from tests.httpapi.conftest import DEADLINE_S, Answer, Api, Start, until

K = "/v1/kv/users/ann"


async def asked(api: Api, count: int, **headers: str) -> list[asyncio.Task[Answer]]:
    """So many gets that are on their way: worked on, or in the line."""
    metrics = api.server.metrics
    before = api.service.waiting + sum(metrics.queue_lengths())
    tasks = [asyncio.ensure_future(api.get(K, **headers)) for _ in range(count)]
    await until(lambda: api.service.waiting + sum(metrics.queue_lengths()) == before + count, "all arrived")
    return tasks


async def full(start: Start, **limits: float) -> tuple[Api, list[asyncio.Task[Answer]]]:
    """A node of two places, both taken by requests that wait for `api.service.gate`."""
    api: Api = await start(**{"in_flight_max": 2, "queue_max": 2, "queue_timeout_s": 0.1, **limits})
    api.service.gate.clear()
    return api, await asked(api, 2)


async def statuses(answers: Awaitable[list[Answer]]) -> list[int]:
    async with asyncio.timeout(DEADLINE_S):
        return [answer.status for answer in await answers]


async def test_what_does_not_fit_waits_and_what_does_not_fit_there_is_shed(start: Start) -> None:
    api, running = await full(start)
    queued = await asked(api, 2)
    assert api.service.waiting == 2
    shed = await api.get(K)
    assert (shed.status, shed.problem["type"], shed.problem["reason"]) == (503, "overloaded", "queue_full")
    assert shed.headers["Retry-After"] == "1"
    text = (await api.get("/metrics")).body
    assert b'kvstore_sheds_total{reason="queue_full"} 1.0' in text
    assert b'kvstore_queue_length{tier="quorum_read"} 2.0' in text
    assert b"kvstore_admission_limit 2.0" in text
    api.service.gate.set()
    assert await statuses(asyncio.gather(*running, *queued)) == [404] * 4
    assert len(api.service.seen) == 4
    assert api.server.metrics.queue_waits == 2
    assert (await api.put(K, b"v")).status == 204, "and places are free again"
    assert api.server.metrics.in_flight == 0


async def test_health_and_administration_wait_behind_no_data(start: Start) -> None:
    api, running = await full(start)
    queued = await asked(api, 2)
    free = ("/livez", "/readyz", "/metrics", "/version", "/openapi.json")
    for path in (*free, "/v1/cluster", "/v1/layout", "/v1/buckets", "/v1/hints", "/v1/tasks", "/v1/repair"):
        assert (await api.get(path)).status == 200, path
    assert (await api.put("/v1/buckets/users", b'{"n": 3}')).status == 200
    api.service.gate.set()
    await asyncio.gather(*running, *queued)


async def test_administration_has_a_bound_of_its_own(start: Start) -> None:
    api: Api = await start(admin_in_flight_max=1)
    api.service.upkeep.gate.clear()
    barrier = asyncio.ensure_future(api.ask("POST", "/v1/barrier", b""))
    await until(lambda: bool(api.service.upkeep.barriers), "the barrier runs")
    answer = await api.get("/v1/cluster")
    assert (answer.status, answer.problem["reason"]) == (503, "admin")
    assert (await api.get(K)).status == 404
    assert (await api.get("/livez")).status == 200
    api.service.upkeep.gate.set()
    assert (await barrier).status == 200
    assert (await api.get("/v1/cluster")).status == 200


async def test_the_lower_priority_gives_way(start: Start) -> None:
    api, running = await full(start)
    background = await asked(api, 2, KV_Priority="background")
    normal = asyncio.ensure_future(api.put(K, b"normal"))
    critical = asyncio.ensure_future(api.put(K, b"critical", KV_Priority="critical"))
    for task in background:
        assert (await task).problem["reason"] == "outranked"
    api.service.gate.set()
    assert await statuses(asyncio.gather(*running, normal, critical)) == [404, 404, 204, 204]
    written = [getattr(request, "value", b"") for request in api.service.seen[2:]]
    assert written == [b"critical", b"normal"]


async def test_background_work_leaves_half_of_the_places_free(start: Start) -> None:
    api: Api = await start(in_flight_max=4, queue_max=9)
    api.service.gate.clear()
    flood = await asked(api, 6, KV_Priority="background")
    assert api.service.waiting == 2
    others = await asked(api, 2)
    assert api.service.waiting == 4, "they pass who waits in the background"
    api.service.gate.set()
    assert await statuses(asyncio.gather(*flood, *others)) == [404] * 8


async def test_nobody_waits_longer_than_the_line_allows(start: Start) -> None:
    api, running = await full(start, queue_few_max=1)
    queued = await asked(api, 2)
    api.service.wall.s += 0.2
    assert (await queued.pop()).problem["reason"] == "queue_timeout", "it is not of the few in front"
    api.service.wall.s += 0.4
    for answer in await asyncio.gather(*queued):
        assert (answer.status, answer.problem["reason"]) == (503, "queue_timeout")
    assert len(api.service.seen) == 2, "no work was done for them"
    api.service.gate.set()
    assert await statuses(asyncio.gather(*running)) == [404] * 2


async def test_a_request_that_waited_for_nothing_leaves_no_garbage_to_collect(start: Start) -> None:
    """A flood made 10,000 objects in cycles in 3 s; one collection of 50,000 took 60 ms of everybody's."""
    api, running = await full(start)
    shed: list[weakref.ref[BaseException]] = []
    made = Overloaded.__init__

    def init(self: Overloaded, *arguments: Any, **options: Any) -> None:
        made(self, *arguments, **options)
        shed.append(weakref.ref(self))

    gc.disable()
    try:
        with patch.object(Overloaded, "__init__", init):
            queued = await asked(api, 2)
            api.service.wall.s += 0.6
            assert await statuses(asyncio.gather(*queued)) == [503, 503]
        assert api.server.metrics.sheds["queue_timeout"] == 2
        assert [ref() for ref in shed] == [None, None]
    finally:
        gc.enable()
    api.service.gate.set()
    await asyncio.gather(*running)


async def test_whose_time_is_up_is_dropped_before_any_work(start: Start) -> None:
    api, running = await full(start)
    hasty = await asked(api, 1, KV_Timeout_Ms="30")
    patient = await asked(api, 1)
    api.service.wall.s += 0.05
    answer = await hasty[0]
    assert (answer.status, answer.problem["reason"]) == (503, "expired")
    api.service.gate.set()
    assert await statuses(asyncio.gather(*running, *patient)) == [404] * 3
    assert len(api.service.seen) == 3


async def test_the_time_spent_in_the_line_is_not_there_for_the_work(start: Start) -> None:
    api, running = await full(start)
    queued = await asked(api, 1, KV_Timeout_Ms="300")
    api.service.wall.s += 0.08
    api.service.gate.set()
    await asyncio.gather(*running, *queued)
    assert [request.timeout_ms for request in api.service.seen] == [2000, 2000, 220]


async def test_a_client_that_hangs_up_while_it_is_worked_on_gives_its_place_back(start: Start) -> None:
    api: Api = await start(in_flight_max=1, queue_max=0)
    api.service.gate.clear()
    async with api.raw() as (_, writer):
        writer.write(f"GET {K} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await until(lambda: api.service.waiting == 1, "it is worked on")
    api.service.gate.set()
    await until(lambda: api.server.metrics.in_flight == 0, "no place is lost")


async def test_for_a_client_that_hung_up_in_the_line_nothing_is_done(start: Start) -> None:
    api, running = await full(start)
    connections = api.server.metrics.connections()
    async with api.raw() as (_, writer):
        writer.write(f"GET {K} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await until(lambda: sum(api.server.metrics.queue_lengths()) == 1, "it waits")
    await until(lambda: api.server.metrics.connections() == connections, "it hung up")
    api.service.gate.set()
    await asyncio.gather(*running)
    await until(lambda: api.server.metrics.in_flight == 0, "no place is lost")
    assert api.server.metrics.sheds["gone"] == 1
    assert len(api.service.seen) == 2


async def test_a_slow_body_holds_no_place(start: Start) -> None:
    api: Api = await start(in_flight_max=1, queue_max=0)
    async with api.raw() as (reader, writer):
        writer.write(f"PUT {K} HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nsl".encode())
        await until(lambda: api.server._app._active == 1, "its header is there")
        assert api.server.metrics.in_flight == 0
        assert (await api.put(K, b"quick")).status == 204
        writer.write(b"ow")
        async with asyncio.timeout(DEADLINE_S):
            assert (await reader.readline()).startswith(b"HTTP/1.1 204 ")


async def test_a_body_that_would_be_shed_is_not_waited_for(start: Start) -> None:
    api, running = await full(start, queue_max=0)
    head = f"PUT {K} HTTP/1.1\r\nHost: x\r\nContent-Length: 4000\r\n\r\n".encode()
    assert (await api.first_answer(head)).startswith(b"HTTP/1.1 503 ")
    api.service.gate.set()
    await asyncio.gather(*running)


async def test_slow_answers_lower_the_limit_and_quick_ones_raise_it(start: Start) -> None:
    api: Api = await start(in_flight_min=4, in_flight_max=64)
    limit = api.server._app.admission.limit
    api.service.takes_s = 0.5
    for _ in range(300):
        await api.get(K)
    assert limit.value == 4
    api.service.takes_s = 0.02
    for _ in range(700):
        await api.get(K)
    assert limit.value == 64


async def busy(api: Api, count: int, seconds: float, **headers: str) -> list[Answer]:
    """So many gets at once, each of which keeps the loop busy for so long."""
    whole = api.service.get

    async def get(request: Get) -> Got:
        time.sleep(seconds)  # noqa: ASYNC251 - as work does that never waits
        return await whole(request)

    api.service.get = get  # type: ignore[method-assign]
    async with asyncio.timeout(DEADLINE_S):
        answers = await asyncio.gather(*(api.get(K, **headers) for _ in range(count)))
    api.service.get = whole  # type: ignore[method-assign]
    return answers


async def test_what_does_not_fit_into_a_turn_of_the_loop_waits_and_others_are_heard_meanwhile(
    start: Start,
) -> None:
    """Work that never waits is not in flight side by side: without this the only line is that of the loop."""
    api: Api = await start()
    flood = asyncio.ensure_future(busy(api, 20, 0.02))
    await until(lambda: api.server.metrics.queue_waits > 2, "a few were done, one by one")
    began_s = time.perf_counter()
    assert (await api.get("/livez")).status == 200
    assert time.perf_counter() - began_s < 0.15
    assert api.server.metrics.queue_lengths()[Tier.QUORUM_READ] > 4, "and not behind all of them"
    assert [answer.status for answer in await flood] == [404] * 20


async def in_turns(api: Api) -> list[int]:
    """Statuses of 64 clients that put large values one after the other; each put takes 2 ms of the loop."""
    whole = api.service.put

    async def put(request: Put) -> Written:
        time.sleep(0.002)  # noqa: ASYNC251 - as work does that never waits
        api.service.wall.s += 0.002
        return await whole(request)

    api.service.put = put  # type: ignore[method-assign]

    async def client() -> list[int]:
        return [(await api.put(K, bytes(100_000))).status for _ in range(4)]

    async with asyncio.timeout(DEADLINE_S):
        clients = await asyncio.gather(*(client() for _ in range(64)))
    api.service.put = whole  # type: ignore[method-assign]
    assert api.server.metrics.queue_waits > 64, "a line stood"
    return [status for statuses in clients for status in statuses]


async def test_of_64_clients_that_put_large_values_one_after_the_other_none_is_shed(start: Start) -> None:
    """Their line stands, and is no overload."""
    assert await in_turns(await start()) == [204] * 256


async def test_reads_behind_some_that_wait_for_a_stalled_peer_are_not_refused(start: Start) -> None:
    """Six places are taken by reads that wait for a peer that stands still, half a second at most; before
    that no line was there that could have told how quickly places become free."""
    api: Api = await start(in_flight_max=6)
    api.service.gate.clear()
    waiting = await asked(api, 16)
    admission = api.server._app.admission
    for _ in range(30):
        api.service.wall.s += 0.01
        await until(lambda: admission._swept_s == api.service.wall.s, "the line is swept")
    waiting += await asked(api, 4)
    api.service.gate.set()
    assert await statuses(asyncio.gather(*waiting)) == [404] * 20


async def test_a_pause_in_which_nobody_is_served_makes_no_line_hopeless(start: Start) -> None:
    api: Api = await start(in_flight_max=2)
    assert await in_turns(api) == [204] * 256
    api.service.gate.clear()
    waiting = await asked(api, 12)
    sweeps = api.server._app.admission
    for _ in range(20):
        api.service.wall.s += 0.005
        await until(lambda: sweeps._swept_s == api.service.wall.s, "the line is swept")
    waiting += await asked(api, 12)
    api.service.gate.set()
    assert await statuses(asyncio.gather(*waiting)) == [200] * 24


async def test_a_write_goes_before_a_read_that_waits_and_takes_its_place_in_a_full_line(start: Start) -> None:
    api, running = await full(start)
    queued = await asked(api, 2)
    put = asyncio.ensure_future(api.put(K, b"v"))
    assert (await queued[1]).problem["reason"] == "outranked"
    api.service.gate.set()
    assert await statuses(asyncio.gather(*running, queued[0], put)) == [404, 404, 200, 204]


def reached(admission: Admission, level: int) -> bool:
    return admission.level == level


async def test_a_tier_that_gets_nothing_is_refused_at_once_and_let_in_when_it_is_calm(start: Start) -> None:
    api: Api = await start()
    admission = api.server._app.admission
    for _ in range(20):
        admission.degradation.served(Tier.WRITE)
        admission.degradation.shed(Tier.SCAN)
    api.service.wall.s += 1.0
    await until(lambda: admission.level == 2, "the level follows")
    scan, background = await api.get("/v1/kv/users"), await api.get(K, KV_Priority="background")
    for refused in (scan, background):
        assert (refused.status, refused.problem["reason"]) == (503, "degraded")
        assert refused.headers["Retry-After"] == "1"
    assert (await api.get(K)).status == 404
    assert (await api.get("/v1/kv/users", KV_Priority="critical")).status == 200
    assert b"kvstore_degradation_level 2.0" in (await api.get("/metrics")).body
    for _ in range(2):
        api.service.wall.s += 2.0
        level = admission.level
        await until(partial(reached, admission, level - 1), "one tier after the other comes back")
    assert (await api.get("/v1/kv/users")).status == 200


async def test_an_operator_says_what_is_refused_at_least(start: Start) -> None:
    api: Api = await start()
    assert (await api.get("/v1/degradation")).json["level"] == "normal"
    answer = await api.put("/v1/degradation", b'{"floor": "relaxed_reads"}')
    assert (answer.status, answer.json["level"], answer.json["floor"]) == (
        200,
        "relaxed_reads",
        "relaxed_reads",
    )
    for target in (f"{K}?r=1", f"{K}?consistency=best_effort", "/v1/kv/users"):
        assert (await api.get(target)).problem["reason"] == "degraded"
    assert (await api.get(K)).status == 404
    body = f"PUT {K} HTTP/1.1\r\nHost: x\r\nKV-Priority: background\r\nContent-Length: 4000\r\n\r\n"
    assert (await api.first_answer(body.encode())).startswith(b"HTTP/1.1 503 "), "its body is not waited for"
    assert (await api.put("/v1/degradation", b'{"floor": "normal"}')).status == 200
    assert (await api.get(f"{K}?r=1")).status == 404
    for wrong in (b"{}", b"[]", b'{"floor": "none"}', b'{"floor": 2}', b"x"):
        assert (await api.put("/v1/degradation", wrong)).status == 400


async def test_the_lag_of_the_loop_is_counted(start: Start) -> None:
    api: Api = await start()
    metrics = api.server.metrics
    await until(lambda: sum(metrics.lags) > 0, "it beats")
    await busy(api, 1, 0.12)
    await until(lambda: sum(metrics.lags[5:]) > 0, "and noticed that it was late by 25 ms or more")
    assert b"kvstore_loop_lag_seconds_count" in (await api.get("/metrics")).body


async def test_refusals_and_mistakes_say_nothing_about_how_fast_the_node_is(start: Start) -> None:
    api: Api = await start()
    limit = api.server._app.admission.limit
    for target in ("/v1/kv/users/ann?nothing=1", "/v1/kv/-/x", "/nowhere", "/livez", "/v1/cluster"):
        await api.get(target)
    assert limit._count == 0
    await api.get(K)
    assert limit._count == 1


async def test_what_reading_the_body_of_a_refused_request_took_is_no_work_of_that_turn(start: Start) -> None:
    """It would leave one place a turn: of 8,000 puts of 100 KiB a second 240 were served, 2,500 could be."""
    api, running = await full(start, queue_max=0)
    admission = api.server._app.admission
    spent_s = []
    for body in (b"v", bytes(1_000_000)):
        before_s = admission._refused_s
        assert (await api.put(K, body)).status == 503
        spent_s.append(admission._refused_s - before_s)
    assert 0.0 < spent_s[0] < spent_s[1]
    assert spent_s[1] - spent_s[0] > 0.0001
    api.service.gate.set()
    await asyncio.gather(*running)


async def test_a_failed_request_gives_its_place_back(start: Start) -> None:
    api: Api = await start(in_flight_max=1, queue_max=0)
    for _ in range(3):
        api.service.failure = RuntimeError("a bug")
        assert (await api.get(K)).status == 500
    assert api.server.metrics.in_flight == 0


async def test_of_large_requests_only_a_few_are_worked_on_at_once(start: Start) -> None:
    api: Api = await start(batches_in_flight_max=2, queue_timeout_s=5.0)
    api.service.gate.clear()
    body = b'[{"op": "get", "bucket": "users", "key": "a"}]'
    batches = [
        asyncio.ensure_future(api.ask("POST", "/v1/batch", body, {"Content-Type": "application/json"}))
        for _ in range(5)
    ]
    await until(lambda: api.server.metrics.queue_lengths()[Tier.WRITE] == 3, "three of them wait")
    assert api.service.waiting == 2
    api.service.gate.set()
    assert await statuses(asyncio.gather(*batches)) == [200] * 5
    assert not any(api.server._app.admission._in_pool[pool] for pool in (Pool.BATCHES, Pool.SCANS))
