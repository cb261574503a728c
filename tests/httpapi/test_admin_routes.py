"""Buckets, cluster, layout, explain, health, version."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from kvstore import errors
from kvstore.core.bucket import BucketProperties
from tests.httpapi.conftest import Api


async def put_json(api: Api, target: str, value: object) -> tuple[int, dict[str, object]]:
    answer = await api.put(target, json.dumps(value).encode(), Content_Type="application/json")
    return answer.status, answer.json


async def test_properties_of_a_bucket_that_nobody_set(api: Api) -> None:
    answer = await api.get("/v1/buckets/b")
    assert answer.json == {"bucket": "b", "explicit": False, "properties": BucketProperties().as_dict()}


async def test_setting_some_properties_leaves_the_others(api: Api) -> None:
    status, document = await put_json(api, "/v1/buckets/b", {"n": 5, "w": 4})
    assert status == 200
    wanted = replace(BucketProperties(), n=5, w=4).as_dict()
    assert document == {"bucket": "b", "explicit": True, "properties": wanted}
    await put_json(api, "/v1/buckets/b", {"ttl_s": 60})
    assert (await api.get("/v1/buckets/b")).json["properties"] == wanted | {"ttl_s": 60.0}
    assert [b["bucket"] for b in (await api.get("/v1/buckets")).json["buckets"]] == ["b"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"w": 4}', "w=4 must lie between 1 and n=3"),
        (b'{"conflict": "last-write-wins", "blind": "reject"}', "blind"),
        (b'{"durabilty": "async"}', "did you mean 'durability'?"),
        (b'{"n": "3"}', "type int"),
        (b'{"n": true}', "type int"),
        (b"[1]", "a map"),
        (b"", "not JSON"),
        (b"{" * 60_000, "not JSON"),
        (b'{"a":' * 10_000, "not JSON"),
    ],
)
async def test_properties_that_are_wrong_or_contradict_each_other(api: Api, body: bytes, says: str) -> None:
    answer = await api.put("/v1/buckets/b", body)
    assert answer.status == 400
    assert says in f"{answer.problem['detail']} {answer.problem.get('advice', '')}"
    assert api.service.properties == {}


async def test_properties_in_another_form_or_too_many(api: Api) -> None:
    answer = await api.put("/v1/buckets/b", b"n: 5", Content_Type="text/yaml")
    assert "application/json" in answer.problem["advice"]
    assert (await api.put("/v1/buckets/b", b" " * 70_000)).status == 413
    assert (await api.put("/v1/buckets/-b", b"{}")).status == 400


async def test_properties_that_found_no_majority(api: Api) -> None:
    api.service.failure = errors.QuorumNotMet(required=2, received=1, asked=3)
    answer = await api.put("/v1/buckets/b", b'{"n": 1}')
    assert (answer.status, answer.problem["outcome"]) == (504, "unknown")


async def test_the_layout_is_cheap_to_ask_for_again(api: Api) -> None:
    first = await api.get("/v1/layout")
    assert first.json == api.service.layout_now
    assert first.headers["KV-Layout"] == "1"
    tag = first.headers["ETag"]
    same = await api.get("/v1/layout", If_None_Match=tag)
    assert (same.status, same.body, same.headers["ETag"]) == (304, b"", tag)
    # A node that came back elsewhere: the same version of the layout, other addresses.
    api.service.layout_now = {"version": 1, "members": [{"http": "127.0.0.1:2"}]}
    moved = await api.get("/v1/layout", If_None_Match=tag)
    assert moved.status == 200
    assert moved.headers["ETag"] != tag


async def test_before_there_is_a_layout(api: Api) -> None:
    api.service.layout_now = None
    answer = await api.get("/v1/layout")
    assert (answer.status, answer.problem["type"]) == (503, "not-ready")
    assert answer.headers["Retry-After"] == "1"


async def test_cluster_and_explain(api: Api) -> None:
    assert (await api.get("/v1/cluster")).json == api.service.cluster()
    explained = await api.get("/v1/explain/b/a%2Fb")
    assert explained.json["key"] == "a/b"
    assert explained.json["homes"][0]["answer"] == "nothing"
    assert (await api.get("/v1/explain/b/%ff")).json["key_base64"] == "/w=="
    assert (await api.get("/v1/explain/b/")).status == 400


async def test_hints_as_document_and_as_metrics(api: Api) -> None:
    assert (await api.get("/v1/hints")).json == api.service.pending_hints()
    text = (await api.get("/metrics")).body
    for line in (
        b'kvstore_hints_pending{target="n2"} 3.0',
        b'kvstore_hints_pending_bytes{target="n2"} 300.0',
        b"kvstore_hints_delivered_total 7.0",
        b"kvstore_hints_dropped_total 1.0",
        b'kvstore_clock_drift_seconds{peer="n2"} -1.5',
        b"kvstore_clock_times_refused_total 4.0",
    ):
        assert line in text


async def test_breakers_and_hedges_as_metrics(api: Api) -> None:
    text = (await api.get("/metrics")).body.decode()
    for line in (
        'kvstore_peer_breaker_state{kind="failures",peer="n2"} 0.0',
        'kvstore_peer_breaker_state{kind="latency",peer="n2"} 2.0',
        'kvstore_peer_breaker_state{kind="failures",peer="n3"} 1.0',
        'kvstore_peer_read_latency_seconds{peer="n2"} 0.2015',
        "kvstore_peers_found_slow_total 1.0",
        "kvstore_hedges_total 5.0",
        "kvstore_hedges_refused_total 2.0",
        "kvstore_hedge_delay_seconds 0.0125",
    ):
        assert line in text
    assert 'latency_seconds{peer="n3"}' not in text


async def test_liveness_is_not_readiness(api: Api) -> None:
    api.service.ready = [("layout", False, "2 of 3 nodes seen"), ("serving", True, "ready")]
    assert (await api.get("/livez")).body == b"ok\n"
    short = await api.get("/readyz")
    assert (short.status, short.body) == (503, b"layout: 2 of 3 nodes seen\nnot ready\n")
    assert short.headers["Retry-After"] == "1"
    verbose = await api.get("/readyz?verbose")
    assert (
        verbose.body == b"[-] layout: 2 of 3 nodes seen\n[+] serving: ready\n[+] http: serving\nnot ready\n"
    )
    api.service.ready = [("layout", True, "version 1")]
    ready = await api.get("/readyz")
    assert (ready.status, ready.body) == (200, b"ready\n")
    assert (await api.get("/readyz?verbos")).status == 400


async def test_the_version(api: Api) -> None:
    document = (await api.get("/version")).json
    assert document["name"] == "kvstore"
    assert document["api"] == "v1"
    assert document["node"] == "n1"
    assert document["version"][0].isdigit()
