"""Requests per second of a client and to a bucket, and connections from one address."""

from __future__ import annotations

import asyncio
import json

import pytest

from kvstore.core.bucket import BucketProperties
from kvstore.httpapi import connection, rate_limits
from tests.httpapi.conftest import Api, Start, until

K = "/v1/kv/users/ann"
OTHER = "/v1/kv/others/ann"


async def test_a_client_over_its_rate_is_told_when_to_come_back(start: Start) -> None:
    api: Api = await start(client_requests_per_s=0.25, rate_burst_s=8.0)
    assert [(await api.get(K)).status for _ in range(2)] == [404, 404]
    refused = await api.put(OTHER, b"v")
    assert (refused.status, refused.problem["type"]) == (429, "rate-limited")
    assert (refused.problem["reason"], refused.problem["outcome"]) == ("client_rate", "failed")
    assert refused.headers["Retry-After"] == "4"
    assert len(api.service.seen) == 2
    api.service.wall.s += 4.0
    assert (await api.put(OTHER, b"v")).status == 204
    assert (await api.get(OTHER)).status == 429
    assert b'kvstore_sheds_total{reason="client_rate"} 2.0' in (await api.get("/metrics")).body


async def test_health_and_administration_are_not_counted(start: Start) -> None:
    api: Api = await start(client_requests_per_s=0.001)
    for _ in range(3):
        for path in ("/livez", "/v1/cluster", "/v1/layout", "/metrics"):
            assert (await api.get(path)).status == 200
    assert (await api.get(K)).status == 404
    assert (await api.get(K)).status == 429


async def test_a_bucket_over_its_rate_leaves_the_others_alone(api: Api) -> None:
    assert (await api.put("/v1/buckets/users", b'{"requests_per_s": 2}')).status == 200
    await until(lambda: api.server._app.rates.active, "the property holds")
    answers = [await api.get(K) for _ in range(3)]
    assert [a.status for a in answers] == [404, 404, 429]
    assert answers[2].problem["reason"] == "bucket_rate"
    assert (await api.get("/v1/kv/users")).status == 429, "listing is a request, too"
    assert (await api.get(OTHER)).status == 404
    api.service.wall.s += 0.5
    assert (await api.get(K)).status == 404
    assert (await api.put("/v1/buckets/users", b'{"requests_per_s": 0}')).status == 200
    assert (await api.get(K)).status == 404
    await until(lambda: not api.server._app.rates.active, "nothing is limited any more")


async def test_a_rate_that_changes_holds_at_once(api: Api) -> None:
    for rate, statuses in ((1, [404, 429]), (3, [404, 404, 404, 429])):
        body = json.dumps({"requests_per_s": rate}).encode()
        assert (await api.put("/v1/buckets/users", body)).status == 200
        await until(lambda: api.server._app.rates.active, "something is limited")
        assert [(await api.get(K)).status for _ in statuses] == statuses


async def test_the_default_of_the_node_counts_for_each_bucket_alone(api: Api) -> None:
    api.service.defaults = BucketProperties(requests_per_s=1.0)
    await until(lambda: api.server._app.rates.active, "the default holds")
    assert [(await api.get(path)).status for path in (K, OTHER, K)] == [404, 404, 429]


async def test_each_item_of_a_batch_counts(start: Start) -> None:
    api: Api = await start(client_requests_per_s=1.0, rate_burst_s=2.0)
    items = [{"op": "get", "bucket": "users", "key": str(n)} for n in range(10)]
    headers = {"Content-Type": "application/json"}
    batch = await api.ask("POST", "/v1/batch", json.dumps(items).encode(), headers)
    assert [entry["status"] for entry in batch.json] == [404] * 10
    assert (await api.get(K)).status == 429
    api.service.wall.s += 8.9
    assert (await api.get(K)).status == 429, "nine on debt, and the one that it asks for"
    api.service.wall.s += 0.1
    assert (await api.get(K)).status == 404


async def test_items_of_a_batch_over_the_rate_of_their_bucket_fail_alone(api: Api) -> None:
    await api.put("/v1/buckets/users", b'{"requests_per_s": 1}')
    await until(lambda: api.server._app.rates.active, "the property holds")
    items = [{"op": "get", "bucket": bucket, "key": "k"} for bucket in ("users", "users", "others")]
    batch = await api.ask(
        "POST", "/v1/batch", json.dumps(items).encode(), {"Content-Type": "application/json"}
    )
    assert [entry["status"] for entry in batch.json] == [404, 429, 404]
    assert batch.json[1]["problem"]["reason"] == "bucket_rate"


async def test_clients_that_come_and_go_take_bounded_memory(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limits, "CLIENTS_MAX", 5)
    api: Api = await start(client_requests_per_s=1.0)
    rates = api.server._app.rates
    for number in range(20):
        rates.check(f"192.0.2.{number}", "")
    assert len(rates._clients) == 5
    api.service.wall.s += 1.0
    rates.refresh()
    assert rates._clients == {}, "who is full again is as good as new"


# --- connections ----------------------------------------------------------------------------------------


async def test_one_address_does_not_take_all_connections(start: Start) -> None:
    api: Api = await start(connections_per_address_max=2)
    async with api.raw() as (reader_1, writer_1), api.raw() as (reader_2, writer_2):
        for reader, writer in ((reader_1, writer_1), (reader_2, writer_2)):
            writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        answer = await api.send_raw(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b'"reason":"connections_per_address"' in answer
        assert b"2 connections from there" in answer
        other = await asyncio.open_connection(api.host, api.port, local_addr=("127.0.0.2", 0))
        other[1].write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await other[0].readline()).startswith(b"HTTP/1.1 200 ")
        other[1].transport.abort()
    await until(lambda: not api.server._pool.by_address, "the places are free again")
    assert (await api.get("/livez")).status == 200
    assert api.server.metrics.sheds["connections_per_address"] == 1


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        (("192.0.2.7", 1), "192.0.2.7"),
        (("::ffff:192.0.2.7", 1, 0, 0), "192.0.2.7"),
        (("2001:db8:1:2:3:4:5:6", 1, 0, 0), "2001:db8:1:2::/64"),
        (("2001:db8:1:2::1", 1, 0, 0), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 1, 0, 2), "fe80::/64"),
        (None, ""),
        ("", ""),
    ],
)
def test_who_has_one_address_of_a_network_has_all_of_them(peer: object, address: str) -> None:
    class Transport(asyncio.BaseTransport):
        def get_extra_info(self, name: str, default: object = None) -> object:
            return peer

    assert connection.address_of(Transport()) == address
