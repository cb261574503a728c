"""The server around the routes: credentials, admission, connections, slow and silent clients, drain."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from contextlib import suppress
from itertools import pairwise

import pytest

from kvstore.core.limits import DEFAULT_LIMITS
from kvstore.errors import ConfigError
from kvstore.httpapi import HttpServer
from kvstore.machine import descriptors_open
from tests.httpapi.conftest import DEADLINE_S, Api, Start, until
from tests.httpapi.fake_service import FakeService

K = "/v1/kv/users/ann"
REQUEST = f"GET {K} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


# --- connections ----------------------------------------------------------------------------------------


async def test_one_connection_too_many_is_told_so(start: Start) -> None:
    api: Api = await start(connections_max=2)
    async with api.raw() as (reader_1, writer_1), api.raw() as (reader_2, writer_2):
        for reader, writer in ((reader_1, writer_1), (reader_2, writer_2)):
            writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        answer = await api.send_raw(REQUEST)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"Connection: close" in answer
        assert b"Retry-After: 1" in answer
        assert b'"type":"overloaded"' in answer
        assert b"2 connections" in answer
    await until(lambda: api.server.metrics.connections() == 0, "the places are free again")
    assert (await api.get("/livez")).status == 200
    assert api.server.metrics.sheds["connections"] == 1


async def test_refused_connections_do_not_pile_up(start: Start) -> None:
    api: Api = await start(connections_max=0)
    sockets = [await asyncio.open_connection(api.host, api.port) for _ in range(100)]
    await until(lambda: api.server.metrics.sheds["connections"] == 100, "all were refused")
    assert len(api.server._pool.refused) <= 64
    for _, writer in sockets:
        writer.transport.abort()
    await until(lambda: not api.server._pool.refused, "they are let go")


async def test_a_header_that_trickles_in_is_cut_off(start: Start) -> None:
    api: Api = await start(header_timeout_s=0.1)
    async with api.raw() as (reader, writer):
        writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n")
        async with asyncio.timeout(DEADLINE_S):
            answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"type":"too-slow"' in answer


async def test_a_second_header_that_trickles_in_is_cut_off_too(start: Start) -> None:
    api: Api = await start(header_timeout_s=0.1)
    async with api.raw() as (reader, writer):
        writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readuntil(b"ok\n")).startswith(b"HTTP/1.1 200 ")
        writer.write(b"GET ")
        async with asyncio.timeout(DEADLINE_S):
            assert (await reader.read()).startswith(b"HTTP/1.1 408 ")


async def test_what_takes_long_after_its_header_is_not_cut_off(start: Start) -> None:
    """Neither a node that thinks, nor a connection that rests between requests."""
    api: Api = await start(header_timeout_s=0.05)
    api.service.gate.clear()
    loop = asyncio.get_running_loop()
    async with api.raw() as (reader, writer):
        for _ in range(2):
            api.service.gate.clear()
            writer.write(REQUEST)
            await until(lambda: api.service.waiting == 1, "the request is with the node")
            start_s = loop.time()
            await until(lambda since=start_s: loop.time() - since > 0.2, "several sweeps")  # type: ignore[misc]
            api.service.gate.set()
            async with asyncio.timeout(DEADLINE_S):
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 404 ")
                await reader.readuntil(b"}")
            start_s = loop.time()
            await until(lambda since=start_s: loop.time() - since > 0.2, "several sweeps")  # type: ignore[misc]


async def test_an_idle_connection_is_closed(start: Start) -> None:
    api: Api = await start(idle_timeout_s=0.1)
    async with api.raw() as (reader, writer):
        async with asyncio.timeout(DEADLINE_S):
            assert await reader.read() == b"", "one that never asked"
    async with api.raw() as (reader, writer):
        writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(DEADLINE_S):
            assert (await reader.read()).endswith(b"ok\n"), "one that asked once"


async def test_a_client_that_does_not_read_is_let_go(start: Start) -> None:
    """Answers to pipelined requests must not pile up here."""
    api: Api = await start(body_timeout_s=0.2)
    await api.put(K, b"x" * 500_000)
    async with api.raw() as (_, writer):
        for _ in range(40):
            writer.write(REQUEST)
        await until(lambda: api.server.metrics.connections() == 1, "only the session's own is left")
    gets = len(api.service.seen) - 1
    assert gets < 40, "the rest was not even asked for"


async def test_pipelined_requests_are_answered_in_order(api: Api) -> None:
    await api.put("/v1/kv/b/1", b"one")
    await api.put("/v1/kv/b/2", b"two")
    requests = b"".join(b"GET /v1/kv/b/%d HTTP/1.1\r\nHost: x\r\n\r\n" % i for i in (1, 2, 1))
    async with api.raw() as (reader, writer):
        writer.write(requests)
        async with asyncio.timeout(DEADLINE_S):
            for value in (b"one", b"two", b"one"):
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200 ")
                assert await reader.readexactly(3) == value


async def test_http_1_0(api: Api) -> None:
    await api.put(K, b"v")
    closed = await api.send_raw(f"GET {K} HTTP/1.0\r\n\r\n".encode())
    assert b"Connection: close\r\n" in closed
    assert closed.endswith(b"\r\n\r\nv")
    async with api.raw() as (reader, writer):
        for _ in range(2):
            writer.write(f"GET {K} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n".encode())
            async with asyncio.timeout(DEADLINE_S):
                head = await reader.readuntil(b"\r\n\r\n")
                assert b"Connection: keep-alive\r\n" in head
                assert await reader.readexactly(1) == b"v"


async def test_a_client_that_leaves_early_changes_nothing(api: Api) -> None:
    """A put that began is carried out: nobody may stop it half way."""
    api.service.gate.clear()
    async with api.raw() as (_, writer):
        writer.write(f"PUT {K} HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nv".encode())
        await until(lambda: api.service.waiting == 1, "the put is with the node")
    api.service.gate.set()
    await until(lambda: api.server.metrics.in_flight == 0, "it ended")
    assert (await api.get(K)).body == b"v"
    assert api.reports == []


# --- start and stop -------------------------------------------------------------------------------------


async def test_a_port_in_use_names_the_remedy(api: Api) -> None:
    other = HttpServer(FakeService(DEFAULT_LIMITS))
    with pytest.raises(ConfigError, match="in use") as caught:
        await other.start(api.host, api.port)
    assert "http_listen" in caught.value.advice
    await other.close()


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
async def test_an_address_that_is_not_ours(host: str) -> None:
    server = HttpServer(FakeService(DEFAULT_LIMITS))
    with pytest.raises(ConfigError) as caught:
        await server.start(host, 0)
    assert "http_listen" in caught.value.advice
    await server.close()


async def test_two_nodes_in_one_process_have_metrics_of_their_own(start: Start) -> None:
    one, two = await start(), await start()
    await one.get(K)
    assert one.server.metrics.requests["GET"][4] == 1
    assert two.server.metrics.requests["GET"][4] == 0


async def test_a_drain_lets_what_is_in_flight_end(start: Start) -> None:
    api: Api = await start()
    api.service.gate.clear()
    put = asyncio.ensure_future(api.put(K, b"v"))
    await until(lambda: api.service.waiting == 1, "the put is with the node")
    closing = asyncio.ensure_future(api.server.close())
    await until(lambda: not can_connect(api), "nobody gets in any more")
    assert not closing.done()
    api.service.gate.set()
    answer = await put
    assert answer.status == 204
    assert answer.headers["Connection"] == "close"
    await closing
    assert api.server.metrics.connections() == 0


async def test_a_drain_takes_in_a_body_that_is_on_its_way(start: Start) -> None:
    api: Api = await start()
    async with api.raw() as (reader, writer):
        writer.write(f"PUT {K} HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab".encode())
        await until(lambda: api.server._app._active == 1, "the request began")
        closing = asyncio.ensure_future(api.server.close())
        await until(lambda: not can_connect(api), "nobody gets in any more")
        writer.write(b"cd")
        async with asyncio.timeout(DEADLINE_S):
            assert (await reader.readline()) == b"HTTP/1.1 204 No Content\r\n"
    await closing
    assert api.service.states


async def test_a_drain_has_an_end(start: Start) -> None:
    api: Api = await start(drain_timeout_s=0.1)
    api.service.gate.clear()
    async with api.raw() as (reader, writer):
        writer.write(REQUEST)
        await until(lambda: api.service.waiting == 1, "the get is with the node")
        async with asyncio.timeout(DEADLINE_S):
            await api.server.close()
            assert await reader.read() == b""


async def test_draining_says_not_ready_and_closes_connections_one_by_one(api: Api) -> None:
    assert "Connection" not in (await api.get("/livez")).headers
    api.server.drain()
    answer = await api.get("/readyz")
    assert answer.status == 503
    assert b"draining" in answer.body
    assert answer.headers["Connection"] == "close"
    assert (await api.get(K)).status == 404, "it still serves"


async def test_closing_twice_and_closing_what_never_started(api: Api) -> None:
    await api.server.close()
    await api.server.close()
    await HttpServer(FakeService(DEFAULT_LIMITS)).close()


def can_connect(api: Api) -> bool:
    try:
        socket.create_connection((api.host, api.port), timeout=1).close()
    except OSError:
        return False
    return True


# --- metrics --------------------------------------------------------------------------------------------


async def test_metrics_count_what_happened(api: Api) -> None:
    from kvstore.errors import QuorumNotMet

    await api.put(K, b"1")
    await api.siblings("/v1/kv/users/s", b"a", b"b", b"c")
    for target in (K, K, "/v1/kv/users/s", "/v1/kv/users/nobody"):
        await api.get(target)
    for method in ("GET", "PUT"):
        api.service.failure = QuorumNotMet("lost")
        await api.ask(method, K, b"x" if method == "PUT" else None)
    await api.ask("PATCH", K)
    await api.send_raw(b"garbage\r\n\r\n")
    items = b'[{"op":"get","bucket":"b","key":"k"},{"op":"delete","bucket":"b","key":"k"}]'
    await api.ask("POST", "/v1/batch", items, {"Content-Type": "application/json"})
    answer = await api.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    lines = answer.body.decode().splitlines()
    for line in (
        'kvstore_http_requests_total{method="GET",status="2xx"} 2.0',
        'kvstore_http_requests_total{method="GET",status="3xx"} 1.0',
        'kvstore_http_requests_total{method="GET",status="4xx"} 1.0',
        'kvstore_http_requests_total{method="GET",status="5xx"} 1.0',
        'kvstore_http_requests_total{method="PUT",status="2xx"} 4.0',
        'kvstore_http_requests_total{method="other",status="4xx"} 2.0',
        'kvstore_http_request_duration_seconds_count{operation="get"} 5.0',
        'kvstore_http_request_duration_seconds_bucket{le="+Inf",operation="put"} 5.0',
        'kvstore_http_request_duration_seconds_count{operation="batch"} 1.0',
        'kvstore_quorum_failures_total{kind="read"} 1.0',
        'kvstore_quorum_failures_total{kind="write"} 1.0',
        'kvstore_batch_items_total{operation="get"} 1.0',
        'kvstore_batch_items_total{operation="delete"} 1.0',
        "kvstore_reads_with_siblings_total 1.0",
        "kvstore_siblings_shown_total 3.0",
        "kvstore_http_requests_in_flight 0.0",
        "kvstore_http_connections 1.0",
    ):
        assert line in lines
    counts = [float(x.rsplit(" ", 1)[1]) for x in lines if "seconds_bucket" in x and '"get"' in x]
    assert all(a <= b for a, b in pairwise(counts)), "buckets are cumulative"
    assert not any("ann" in line for line in lines), "no keys in labels"


async def test_durations_fall_into_their_buckets(api: Api) -> None:
    for api.service.takes_s in (0.004, 0.02):
        await api.get(K)
    api.service.takes_s = 99.0
    await api.put(K, b"v")
    lines = (await api.get("/metrics")).body.decode().splitlines()
    name = "kvstore_http_request_duration_seconds"
    for le, count in (("0.003", 0), ("0.005", 1), ("0.015", 1), ("0.025", 2), ("+Inf", 2)):
        assert f'{name}_bucket{{le="{le}",operation="get"}} {count}.0' in lines
    assert f'{name}_bucket{{le="10.0",operation="put"}} 0.0' in lines
    assert f'{name}_bucket{{le="+Inf",operation="put"}} 1.0' in lines
    (total,) = (line for line in lines if line.startswith(f'{name}_sum{{operation="get"}}'))
    assert float(total.rsplit(" ", 1)[1]) == pytest.approx(0.024)


async def test_metrics_speak_openmetrics_and_other_rooms_add_theirs(api: Api) -> None:
    from prometheus_client import Counter

    Counter("kvstore_elsewhere", "Of another room", registry=api.server.metrics.registry).inc()
    answer = await api.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    assert b"kvstore_elsewhere_total 1.0" in answer.body
    assert answer.body.endswith(b"# EOF\n")


# --- descriptors ----------------------------------------------------------------------------------------


def _all_descriptors() -> list[int]:
    """Takes what is left of them."""
    taken = []
    with suppress(OSError):
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    return taken


async def test_the_node_goes_on_accepting_after_it_was_out_of_descriptors(start: Start) -> None:
    """Whether by a pause or by a descriptor in reserve: the loop's own way of accepting survives EMFILE."""
    api: Api = await start()
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)  # asyncio reports each
    assert (await api.get(K)).status == 404
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    clients = [socket.socket() for _ in range(20)]
    for client in clients:
        client.setblocking(False)
    taken: list[int] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors_open() + 20, before[1]))
        taken = _all_descriptors()
        for client in clients:
            with suppress(BlockingIOError):
                client.connect((api.host, api.port))
        assert (await api.get(K)).status == 404, "the connection that is there is served"
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for client in clients:
            client.close()
    async with asyncio.timeout(DEADLINE_S):
        async with api.raw() as (reader, writer):
            writer.write(REQUEST)
            assert (await reader.readline()).startswith(b"HTTP/1.1 404 ")


async def test_fewer_connections_can_be_allowed_while_it_runs(start: Start) -> None:
    api: Api = await start()
    assert (await api.get(K)).status == 404
    api.server.bound_connections(1)
    assert b" 503 " in await api.first_answer(REQUEST)
    api.server.bound_connections(10_000)
    assert b" 404 " in await api.first_answer(REQUEST)
    assert api.server._pool.connections_max == DEFAULT_LIMITS.connections_max
