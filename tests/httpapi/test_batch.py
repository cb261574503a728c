"""Many operations in one request: each as it would have been alone, in order, within bounds."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import msgpack
import pytest

from kvstore import errors
from kvstore.core.message import Get, Put
from kvstore.httpapi.batch import AT_ONCE
from tests.httpapi.conftest import Answer, Api, Start, until

BATCH = "/v1/batch"


async def post(api: Api, items: Any, media: str = "application/json", accept: str = "") -> Answer:
    if media == "application/msgpack":
        body = msgpack.packb(items)
    elif media == "application/x-ndjson":
        body = b"".join(json.dumps(item).encode() + b"\n" for item in items)
    else:
        body = json.dumps(items).encode()
    headers = {"Content-Type": media} | ({"Accept": accept} if accept else {})
    return await api.ask("POST", BATCH, body, headers)


def read(answer: Answer) -> list[dict[str, Any]]:
    assert answer.status == 200
    media = answer.headers["Content-Type"]
    if media == "application/msgpack":
        found: list[dict[str, Any]] = msgpack.unpackb(answer.body)
        return found
    if media == "application/x-ndjson":
        return [json.loads(line) for line in answer.body.splitlines()]
    assert media == "application/json"
    return list(answer.json)


MIXED: list[dict[str, Any]] = [
    {"op": "put", "bucket": "b", "key": "ö/1", "value": "text", "content_type": "text/plain"},
    {
        "op": "put",
        "bucket": "b",
        "key_base64": base64.b64encode(b"\xff\x00").decode(),
        "value_base64": "AAE=",
    },
    {"op": "get", "bucket": "b", "key": "nobody"},
    {"op": "delete", "bucket": "b", "key": "nobody"},
    {"op": "get", "bucket": "-", "key": "k"},
]


@pytest.mark.parametrize("media", ["application/json", "application/msgpack", "application/x-ndjson"])
async def test_every_form_gives_status_headers_and_body_in_order(api: Api, media: str) -> None:
    answers = read(await post(api, MIXED, media))
    assert [a["status"] for a in answers] == [204, 204, 404, 204, 400]
    assert answers[0]["headers"]["KV-Acks"] == "2/3"
    assert answers[0]["headers"]["KV-Context"]
    assert answers[2]["problem"]["type"] == "no-such-key"
    assert answers[4]["problem"]["type"] == "invalid-request"
    assert answers[4]["problem"]["instance"] == "/v1/batch#4"
    assert "outcome" not in answers[4]["problem"] or answers[4]["problem"]["outcome"] == "failed"
    assert {type(r): None for r in api.service.seen} == {Put: None, Get: None}
    keys = {r.key for r in api.service.seen if isinstance(r, Put) and not r.tombstone}
    assert keys == {"ö/1".encode(), b"\xff\x00"}
    again = read(await post(api, [
        {"op": "get", "bucket": "b", "key": "ö/1"},
        {"op": "get", "bucket": "b", "key_base64": base64.b64encode(b"\xff\x00").decode()},
    ], media))  # fmt: skip
    assert [a["status"] for a in again] == [200, 200]
    if media == "application/msgpack":
        assert [a["value"] for a in again] == [b"text", b"\x00\x01"]
    else:
        assert again[0]["value"] == "text"
        assert again[1]["value_base64"] == "AAE="
    assert again[0]["headers"]["Content-Type"] == "text/plain"


async def test_msgpack_takes_keys_and_values_as_bytes(api: Api) -> None:
    await post(api, [{"op": "put", "bucket": "b", "key": b"\xff", "value": b"\xfe"}], "application/msgpack")
    assert api.service.seen == [Put("b", b"\xff", b"\xfe")]


async def test_the_answer_can_have_another_form(api: Api) -> None:
    answer = await post(api, MIXED, "application/json", accept="application/msgpack")
    assert answer.headers["Content-Type"] == "application/msgpack"
    assert len(read(answer)) == len(MIXED)


async def test_an_operation_takes_what_a_single_one_takes(api: Api) -> None:
    first = read(await post(api, [{"op": "put", "bucket": "b", "key": "k", "value": "1"}]))[0]["headers"]
    api.service.seen.clear()
    items = [
        {
            "op": "put", "bucket": "b", "key": "k", "value": "2", "context": first["KV-Context"],
            "if_match": first["ETag"], "idempotency_key": "op-2", "content_type": "text/plain",
            "meta": {"Owner": "ann"}, "options": {"w": 3, "pw": "1", "ttl": 1.5, "dw": 0, "timeout": "2s"},
        },
        {"op": "get", "bucket": "b", "key": "k", "session": first["KV-Context"],
         "options": {"r": 1, "read": "monotonic"}, "if_none_match": "*"},
    ]  # fmt: skip
    written, got = read(await post(api, items))
    put, get = api.service.seen
    assert isinstance(put, Put)
    assert isinstance(get, Get)
    assert (put.w, put.pw, put.ttl_ms, put.durability, put.timeout_ms) == (3, 1, 1500, "async", 2000)
    assert (put.operation_id, put.metadata, put.content_type) == (b"op-2", (("owner", "ann"),), "text/plain")
    assert put.context
    assert put.if_match == first["ETag"].strip('"')
    assert get.monotonic
    assert get.r == 1
    assert get.session == put.context
    assert (written["status"], got["status"]) == (204, 304)


async def test_deadline_and_priority_of_the_batch_hold_for_its_operations(api: Api) -> None:
    items = [{"op": "get", "bucket": "b", "key": "k"}]
    body = json.dumps(items).encode()
    headers = {"Content-Type": "application/json", "KV-Timeout-Ms": "77"}
    assert (await api.ask("POST", BATCH, body, headers)).status == 200
    assert api.service.seen == [Get("b", b"k", timeout_ms=77)]
    wrong = await api.ask("POST", BATCH, body, {**headers, "KV-Priority": "huge"})
    assert (wrong.status, wrong.problem["type"]) == (400, "invalid-request")


async def test_siblings_in_a_batch(api: Api) -> None:
    await api.siblings("/v1/kv/b/k", b"a", b"b")
    item = [{"op": "get", "bucket": "b", "key": "k"}]
    as_json = read(await post(api, item))[0]
    assert as_json["status"] == 300
    assert [s["value"] for s in as_json["siblings"]] == ["a", "b"]
    assert as_json["context"] == as_json["headers"]["KV-Context"]
    as_msgpack = read(await post(api, item, "application/msgpack"))[0]
    assert [s["value"] for s in as_msgpack["siblings"]] == [b"a", b"b"]


async def test_one_that_fails_leaves_the_others_alone(api: Api) -> None:
    api.service.failure = errors.QuorumNotMet(required=2, received=1, asked=3)
    items = [{"op": "put", "bucket": "b", "key": str(i), "value": "v"} for i in range(3)]
    answers = read(await post(api, items))
    assert [a["status"] for a in answers] == [504, 204, 204]
    assert answers[0]["problem"]["outcome"] == answers[0]["headers"]["KV-Outcome"] == "unknown"
    assert answers[0]["problem"]["received"] == 1


async def test_a_bug_in_one_is_in_the_log_and_not_in_the_answer(api: Api) -> None:
    api.service.failure = ZeroDivisionError("secret")
    answer = await post(api, [{"op": "get", "bucket": "b", "key": str(i)} for i in range(2)])
    assert [a["status"] for a in read(answer)] == [500, 404]
    assert b"secret" not in answer.body
    assert api.reports[0][0] == "request failed"


OK = {"op": "get", "bucket": "b", "key": "k"}


@pytest.mark.parametrize(
    ("item", "says"),
    [
        (1, "a map"),
        ([], "a map"),
        ({}, "op='None'"),
        ({**OK, "op": "post"}, "get, put, delete"),
        ({**OK, "op": ["get"]}, "get, put, delete"),
        ({**OK, "bukket": "b"}, "did you mean 'bucket'?"),
        ({"op": "get", "key": "k"}, "bucket is missing"),
        ({**OK, "bucket": 5}, "bucket is missing"),
        ({**OK, "bucket": "a/b"}, "not of the form"),
        ({"op": "get", "bucket": "b"}, "either key or key_base64"),
        ({**OK, "key_base64": "AA=="}, "either key or key_base64"),
        ({**OK, "key": 5}, "key must be text"),
        ({**OK, "key": ""}, "the key is empty"),
        ({**OK, "key": "k" * 1025}, "1025 bytes"),
        ({**OK, "key": "\ud800"}, "no UTF-8"),
        ({"op": "get", "bucket": "b", "key_base64": "A"}, "no base64"),
        ({"op": "get", "bucket": "b", "key_base64": "!!!!"}, "no base64"),
        ({**OK, "value": "v"}, "get takes no value"),
        ({**OK, "op": "put"}, "either value or value_base64"),
        ({**OK, "op": "put", "value": {"a": 1}}, "value must be text"),
        ({**OK, "options": []}, "options must be a map"),
        ({**OK, "options": {"w": 1}}, "unknown option 'w'"),
        ({**OK, "options": {"r": [1]}}, "text or a number"),
        ({**OK, "options": {"r": True}}, "r='true'"),
        ({**OK, "options": {"timout": 1}}, "did you mean 'timeout'?"),
        ({**OK, "context": 5}, "context must be text"),
        ({**OK, "session": "forged"}, "causal context"),
        ({**OK, "op": "put", "value": "v", "meta": []}, "meta must be a map"),
        ({**OK, "op": "put", "value": "v", "meta": {"a": 1}}, "must be text"),
        ({**OK, "op": "put", "value": "v", "meta": {"a b": "1"}}, "no name of a header"),
        ({**OK, "op": "put", "value": "v", "meta": {"a": "1\r\nEvil: 1"}}, "percent-encode"),
        ({**OK, "op": "put", "value": "v", "meta": {"A": "1", "a": "2"}}, "twice"),
        ({**OK, "op": "put", "value": "v", "content_type": "a\r\nEvil: 1"}, "Content-Type"),
        ({**OK, "op": "put", "value": "v", "idempotency_key": "a\r\nb"}, "Idempotency-Key"),
        ({**OK, "op": "put", "value": "v", "if_match": "x"}, "strong entity tag"),
    ],
)
async def test_an_operation_that_is_wrong_says_so_and_runs_nothing(api: Api, item: Any, says: str) -> None:
    answers = read(await post(api, [item, {**OK, "key": "fine"}]))
    problem = answers[0]["problem"]
    assert answers[0]["status"] == problem["status"] in (400, 413)
    assert says in f"{problem['detail']} {problem.get('advice', '')}"
    assert answers[1]["status"] == 404
    assert api.service.seen == [Get("b", b"fine")]


async def test_values_have_the_same_limit_as_alone(start: Start) -> None:
    api: Api = await start(value_bytes_max=10)
    items = [{"op": "put", "bucket": "b", "key": "k", "value": "x" * n} for n in (10, 11)]
    assert [a["status"] for a in read(await post(api, items))] == [204, 413]


@pytest.mark.parametrize(
    ("media", "body", "says"),
    [
        ("application/json", b"", "not json"),
        ("application/json", b"[", "not json"),
        ("application/json", b"{}", "not an array"),
        ("application/json", b"[" * 100_000, "not json"),
        ("application/json", b"\xff[]", "not json"),
        ("application/json", b"[" + b"1" * 5000 + b"]", "not json"),
        ("application/msgpack", b"", "not msgpack"),
        ("application/msgpack", b"\xc1", "not msgpack"),
        ("application/msgpack", b"\x91", "not msgpack"),
        ("application/msgpack", b"\x90\x90", "not msgpack"),
        ("application/msgpack", b"\x80", "not an array"),
        ("application/msgpack", b"\xdd\xff\xff\xff\xff", "not msgpack"),
        ("application/msgpack", b"\x91" * 5000 + b"\x90", "not msgpack"),
        ("application/msgpack", b"\x91\xc7\x04\x01abcd", "not msgpack"),
        ("application/x-ndjson", b"{}\n{", "not x-ndjson"),
        ("text/csv", b"a,b", "cannot be 'text/csv'"),
    ],
)
async def test_garbage(api: Api, media: str, body: bytes, says: str) -> None:
    answer = await api.ask("POST", BATCH, body, {"Content-Type": media})
    assert (answer.status, answer.problem["type"]) == (400, "invalid-request")
    assert says in answer.problem["detail"]
    assert answer.problem["outcome"] == "failed"
    assert api.service.seen == []


async def test_an_empty_batch_has_an_empty_answer(api: Api) -> None:
    assert read(await post(api, [])) == []
    assert read(await post(api, [], "application/x-ndjson")) == []


@pytest.mark.parametrize("media", ["application/json", "application/msgpack", "application/x-ndjson"])
async def test_operations_and_bytes_are_bounded(start: Start, media: str) -> None:
    api: Api = await start(batch_items_max=70, batch_bytes_max=8000)
    items = [{**OK, "key": str(i)} for i in range(71)]
    assert len(read(await post(api, items[:70], media))) == 70
    api.service.seen.clear()
    answer = await post(api, items, media)
    assert answer.status in (400, 413)
    assert answer.problem["outcome"] == "failed"
    lines = await api.ask("POST", BATCH, b"{\n" * 71, {"Content-Type": "application/x-ndjson"})
    assert (lines.status, lines.problem["type"]) == (413, "too-large"), "counted before they are parsed"
    large = await post(api, [{**OK, "op": "put", "value": "x" * 8000}], media)
    assert (large.status, large.problem["type"]) == (413, "too-large")
    assert api.service.seen == []


async def test_operations_run_side_by_side_within_a_bound(api: Api) -> None:
    api.service.gate.clear()
    items = [{**OK, "key": str(i)} for i in range(AT_ONCE * 3)]
    task = asyncio.ensure_future(post(api, items))
    await until(lambda: api.service.waiting == AT_ONCE, "as many run as may")
    assert len(api.service.seen) == AT_ONCE
    assert api.server.metrics.in_flight == AT_ONCE
    api.service.gate.set()
    assert len(read(await task)) == AT_ONCE * 3
    assert api.server.metrics.in_flight == 0


async def test_a_batch_takes_the_places_there_are_and_goes_on_with_few(start: Start) -> None:
    api: Api = await start(in_flight_max=4, queue_max=4)
    items = [{**OK, "key": str(i)} for i in range(9)]
    api.service.gate.clear()
    batch = asyncio.ensure_future(post(api, items))
    await until(lambda: api.service.waiting == 4, "as many run as may")
    queued = asyncio.ensure_future(post(api, items))
    await until(lambda: sum(api.server.metrics.queue_lengths()) == 1, "the other one waits")
    api.service.gate.set()
    assert [e["status"] for e in read(await batch)] == [404] * 9
    assert [e["status"] for e in read(await queued)] == [404] * 9
    assert api.server.metrics.in_flight == 0
