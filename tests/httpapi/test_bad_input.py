"""What is wrong is said with its remedy, as a problem document, and nothing reaches the node."""

from __future__ import annotations

import asyncio

import pytest

from kvstore.core.limits import KIB, MIB
from kvstore.core.ring import full_key
from kvstore.core.token import seal, token_key
from kvstore.core.vector_clock import context_of
from tests.httpapi.conftest import DEADLINE_S, Api, Start, until

K = "/v1/kv/users/ann"


async def refused(
    api: Api,
    method: str,
    target: str,
    says: str,
    *,
    headers: dict[str, str] | None = None,
    body: bytes | None = None,
    status: int = 400,
    slug: str = "invalid-request",
) -> None:
    """The answer is this problem, says so in detail or advice, and the node was not asked."""
    answer = await api.ask(method, target, body, headers)
    problem = answer.problem
    assert (answer.status, problem["type"]) == (status, slug)
    assert says in f"{problem['detail']} {problem.get('advice', '')}"
    assert problem["title"]
    assert problem["request_id"] == answer.headers["KV-Request-Id"]
    assert problem["instance"] == target.partition("?")[0][:1024]
    if method in ("PUT", "DELETE", "POST"):
        assert problem["outcome"] == answer.headers["KV-Outcome"] == "failed"
    else:
        assert "outcome" not in problem
    assert api.service.seen == []


# --- names ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bucket", ["", "-a", ".", "a%20b", "%C3%B6", "a%00b", "x" * 257, "%FF", "a%2Fb", "..", "%2e%2e"]
)
async def test_bucket_names(api: Api, bucket: str) -> None:
    await refused(api, "GET", f"/v1/kv/{bucket}/k", "")


async def test_an_empty_key(api: Api) -> None:
    await refused(api, "PUT", "/v1/kv/users/", "the key is empty", body=b"v")


@pytest.mark.parametrize("key", ["%", "%1", "%g1", "a%2", "%%41"])
async def test_a_broken_escape_is_no_key(api: Api, key: str) -> None:
    await refused(api, "GET", f"/v1/kv/users/{key}", "%25")


async def test_a_key_that_is_too_long(api: Api) -> None:
    await refused(api, "PUT", f"/v1/kv/users/{'k' * 1025}", "1024", body=b"v", status=413, slug="too-large")
    await refused(api, "PUT", f"/v1/kv/users/{'%00' * 1025}", "1025", body=b"v", status=413, slug="too-large")


# --- options --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "query", "says"),
    [
        ("GET", "w=1", "known here: n, r, pr"),
        ("GET", "timout=5", "did you mean 'timeout'?"),
        ("GET", "sloppy=maybe", "must be true or false"),
        ("PUT", "sloppy=2", "must be true or false"),
        ("GET", "R=2", "unknown option 'R'"),
        ("PUT", "tttl=5", "did you mean 'ttl'?"),
        ("DELETE", "ttl=5", "unknown option 'ttl'"),
        ("GET", "r=2&r=3", "'r' is named twice"),
        ("GET", "r", "r='' must be"),
        ("GET", "r=0", "from 1 to 99"),
        ("GET", "r=100", "from 1 to 99"),
        ("GET", "r=-1", "from 1 to 99"),
        ("GET", "r=2.0", "from 1 to 99"),
        ("GET", "r=%D9%A3", "from 1 to 99"),  # a digit, but not one of ours
        ("GET", "r=" + "1" * 5000, "from 1 to 99"),
        ("GET", "pr=x", "from 0 to 99"),
        ("GET", "read=strong", "must be monotonic"),
        ("GET", "resolve=first", "must be lww"),
        ("GET", "sibling=lww", "16 hex digits"),
        ("GET", "%FF=1", "not UTF-8"),
        ("GET", "timeout=0", "between 1 ms and 60 s"),
        ("GET", "timeout=61s", "between 1 ms and 60 s"),
        ("GET", "timeout=60001", "between 1 ms and 60 s"),
        ("GET", "timeout=5m", "2s for seconds"),
        ("GET", "timeout=1.5s", "2s for seconds"),
        ("GET", "timeout=", "2s for seconds"),
        ("PUT", "ttl=-1", "0 for never"),
        ("PUT", "ttl=1e3", "0 for never"),
        ("PUT", "ttl=nan", "0 for never"),
        ("PUT", "ttl=0.0001", "0 for never"),
        ("PUT", "ttl=9999999999", "0 for never"),
        ("PUT", "mode=overwrite", "must be blind or sibling"),
        ("PUT", "dw=-1", "from 0 to 99"),
        ("PUT", "w=0", "from 1 to 99"),
    ],
)
async def test_options(api: Api, method: str, query: str, says: str) -> None:
    await refused(api, method, f"{K}?{query}", says, body=b"v" if method == "PUT" else None)


async def test_two_ways_to_choose_a_sibling_contradict_each_other(api: Api) -> None:
    await api.siblings(K, b"a", b"b")
    answer = await api.get(f"{K}?sibling=00&resolve=lww")
    assert answer.status == 400
    assert "contradict" in answer.problem["detail"]


# --- headers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("KV-Contxt", "x", "did you mean 'kv-context'?"),  # else it were a blind write
        ("KV-Session", "x", "unknown header of a write 'kv-session'"),
        ("KV-Meta-", "x", "no name of a header"),
        ("KV-Meta-a", "caf\u00e9", "percent-encode"),
        ("KV-Priority", "high", "critical, normal, background"),
        ("KV-Timeout-Ms", "soon", "KV-Timeout-Ms='soon'"),
        ("Idempotency-Key", "a b", "without spaces"),
        ("Idempotency-Key", "", "without spaces"),
        ("If-Match", 'W/"0011223344556677"', "strong entity tag"),
        ("If-Match", '"0011223344556677", "0011223344556678"', "strong entity tag"),
        ("If-Match", "", "strong entity tag"),
        ("If-None-Match", '"0011223344556677"', "must be *"),
        ("Content-Type", "text/caf\u00e9", "Content-Type"),
        ("Content-Encoding", "gzip", "as they are to be stored"),
    ],
)
async def test_headers_of_a_put(api: Api, name: str, value: str, says: str) -> None:
    await refused(api, "PUT", K, says, headers={name: value}, body=b"v")


@pytest.mark.parametrize(
    ("name", "value", "limit"),
    [
        ("Idempotency-Key", "x" * 65, "64"),
        ("Content-Type", "x" * 257, "256"),
        ("KV-Meta-a", "x" * (4 * KIB), "4096"),
    ],
)
async def test_headers_that_are_too_long(api: Api, name: str, value: str, limit: str) -> None:
    await refused(api, "PUT", K, limit, headers={name: value}, body=b"v", status=413, slug="too-large")


async def test_metadata_is_bounded_in_total(api: Api) -> None:
    headers = {f"KV-Meta-{i}": "x" * 1000 for i in range(5)}
    await refused(api, "PUT", K, "metadata", headers=headers, body=b"v", status=413, slug="too-large")


async def test_metadata_of_one_name_twice(api: Api) -> None:
    request = f"PUT {K} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n"
    answer = await api.send_raw(f"{request}KV-Meta-A: 1\r\nkv-meta-a: 2\r\n\r\n".encode())
    assert b"is there twice" in answer
    assert api.service.seen == []


async def test_conditions_that_contradict_each_other(api: Api) -> None:
    both = {"If-Match": "*", "If-None-Match": "*"}
    await refused(api, "PUT", K, "contradict", headers=both, body=b"v")
    await refused(api, "DELETE", K, "If-Match", headers={"If-None-Match": "*"})


async def test_a_mode_and_a_context_contradict_each_other(api: Api) -> None:
    token = seal(context_of([(1, 1)]), full_key("users", b"ann"), api.service.signing_key)
    await refused(api, "PUT", f"{K}?mode=blind", "one of the two", headers={"KV-Context": token}, body=b"v")


async def test_tokens_that_are_forged_foreign_or_of_another_key(api: Api) -> None:
    context, key = context_of([(1, 1)]), full_key("users", b"ann")
    good = seal(context, key, api.service.signing_key)
    assert (await api.put(K, b"v", KV_Context=good)).status == 204
    api.service.seen.clear()
    wrong = [
        good[:-1] + ("A" if good[-1] != "A" else "B"),
        good[:-4],
        seal(context, key, token_key(b"other cluster" * 3)),
        seal(context, full_key("users", b"bob"), api.service.signing_key),
        seal(context, full_key("others", b"ann"), api.service.signing_key),
        "",
        "!!!",
        good + "=",
        "A" * 4097,
    ]
    for token in wrong:
        for method, name in (("PUT", "KV-Context"), ("DELETE", "KV-Context"), ("GET", "KV-Session")):
            body = b"v" if method == "PUT" else None
            await refused(api, method, K, "", headers={name: token}, body=body, slug="invalid-context")


# --- bodies ---------------------------------------------------------------------------------------------


async def test_a_body_over_the_limit_is_refused_before_it_is_read(api: Api) -> None:
    async with api.raw() as (reader, writer):
        writer.write(f"PUT {K} HTTP/1.1\r\nHost: x\r\nContent-Length: {MIB + 1}\r\n\r\n".encode())
        async with asyncio.timeout(DEADLINE_S):
            head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 413 ")
    assert b"Connection: close" in head
    assert api.service.seen == []


async def test_a_body_over_the_limit_is_answered_even_if_it_is_sent(api: Api) -> None:
    head = f"PUT {K} HTTP/1.1\r\nHost: x\r\nContent-Length: {4 * MIB}\r\n\r\n"
    answer = await api.first_answer(head.encode() + b"x" * (4 * MIB))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"type":"too-large"' in answer
    assert str(MIB).encode() in answer
    assert api.service.seen == []


async def test_a_chunked_body_is_cut_off_at_the_limit(api: Api) -> None:
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    async with api.raw() as (reader, writer):
        writer.write(f"PUT {K} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        for _ in range(MIB // 0x10000 + 1):  # and it never ends
            writer.write(chunk)
        async with asyncio.timeout(DEADLINE_S):
            head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 413 ")
    assert api.service.seen == []


async def test_a_chunked_body_within_the_limit_is_taken(api: Api) -> None:
    request = f"PUT {K} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = await api.send_raw(request.encode() + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 204 ")
    assert (await api.get(K)).body == b"abcde"


async def test_leave_to_send_is_given_within_the_limit_only(api: Api) -> None:
    ask = f"PUT {K} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: "
    async with api.raw() as (reader, writer):
        writer.write(f"{ask}3\r\n\r\n".encode())
        async with asyncio.timeout(DEADLINE_S):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"abc")
            assert (await reader.readline()) == b"HTTP/1.1 204 No Content\r\n"
    async with api.raw() as (reader, writer):
        writer.write(f"{ask}{MIB + 1}\r\n\r\n".encode())
        async with asyncio.timeout(DEADLINE_S):
            assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")


async def test_another_expectation_is_refused(api: Api) -> None:
    head = f"PUT {K} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: magic\r\nContent-Length: 3\r\n\r\n"
    answer = await api.first_answer(head.encode())
    assert b"magic" in answer
    assert answer.startswith(b"HTTP/1.1 400 ")


async def test_half_a_body_is_no_value(api: Api) -> None:
    async with api.raw() as (_, writer):
        writer.write(f"PUT {K} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc".encode())
        await writer.drain()
        await until(lambda: api.server._app._active == 1, "the request began")
    await until(lambda: api.server._app._active == 0, "the request ended")
    assert api.service.seen == []


@pytest.mark.parametrize("chunks", [b"zz\r\nabc\r\n", b"3\r\nabcdef\r\n0\r\n\r\n"])
async def test_broken_chunks_are_no_value(api: Api, chunks: bytes) -> None:
    head = f"PUT {K} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    answer = await api.send_raw(head + chunks)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert api.service.seen == []


async def test_broken_chunks_that_come_late_are_no_value_either(start: Start) -> None:
    """aiohttp does not tell the reader of the body about them, so its deadline has to."""
    api: Api = await start(body_timeout_s=0.1)
    async with api.raw() as (reader, writer):
        writer.write(f"PUT {K} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        await writer.drain()
        await until(lambda: api.server._app._active == 1, "the request began")
        writer.write(b"zz\r\nabc\r\n")
        async with asyncio.timeout(DEADLINE_S):
            assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
    assert api.service.seen == []


async def test_a_slow_body_is_cut_off(start: Start) -> None:
    api: Api = await start(body_timeout_s=0.1)
    request = f"PUT {K} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc"
    answer = await api.first_answer(request.encode())
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"type":"too-slow"' in answer
    assert b'"outcome":"failed"' in answer
    assert api.service.seen == []


# --- HTTP itself ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
        b"GET\r\n\r\n",
        b"GET /livez HTTP/9.9\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nBad Header: 1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nX: a\x00b\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nX: " + b"x" * 10_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 10_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n" + b"".join(b"X%d: 1\r\n" % i for i in range(200)) + b"\r\n",
        b"PUT /v1/kv/b/k HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"PUT /v1/kv/b/k HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"PUT /v1/kv/b/k HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /v1/kv/b/sch\xc3\xb6n HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_a_problem_too(api: Api, data: bytes) -> None:
    answer = await api.send_raw(data)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"Content-Type: application/problem+json" in head
    assert b"Connection: close" in head
    assert b'"type":"invalid-request"' in body
    assert b"Traceback" not in body
    assert api.service.seen == []


@pytest.mark.parametrize("method", ["POST", "PATCH", "OPTIONS", "TRACE", "BREW"])
async def test_a_method_that_a_key_does_not_know(api: Api, method: str) -> None:
    answer = await api.ask(method, K)
    if method == "BREW" and answer.status == 400:
        return  # the C parser knows all methods there are
    assert (answer.status, answer.problem["type"]) == (405, "method-not-allowed")
    assert answer.headers["Allow"] == "GET, HEAD, PUT, DELETE"


async def test_methods_of_other_paths(api: Api) -> None:
    assert (await api.ask("PUT", "/livez")).headers["Allow"] == "GET, HEAD"
    assert (await api.ask("GET", "/v1/batch")).headers["Allow"] == "POST"
    assert (await api.ask("HEAD", "/livez")).status == 200
    assert (await api.ask("DELETE", "/v1/kv/users")).headers["Allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    "target",
    ["/", "/v1", "/v1/kv", "/v2/kv/a/b", "/v1/explain/b", "/v1/buckets/a/b", "/LIVEZ", "//livez", "/livez/"],
)
async def test_a_path_that_does_not_exist(api: Api, target: str) -> None:
    answer = await api.get(target)
    assert (answer.status, answer.problem["type"]) == (404, "no-such-route")
    assert "/openapi.json" in answer.problem["advice"]


async def test_targets_without_a_path(api: Api) -> None:
    for request in (b"OPTIONS * HTTP/1.1", b"CONNECT host:80 HTTP/1.1", b"GET http://host HTTP/1.1"):
        answer = await api.send_raw(request + b"\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert answer.startswith((b"HTTP/1.1 404 ", b"HTTP/1.1 405 ")), request
