"""One key over HTTP: every option, every header, every status that is no error."""

from __future__ import annotations

import base64
import email
import email.policy
from dataclasses import replace
from typing import Any

import msgpack
import pytest

from kvstore.core.encoding import decode_context, etag
from kvstore.core.message import Get, Put, Receipt
from kvstore.core.ring import full_key
from kvstore.core.token import open_token, seal
from kvstore.core.vector_clock import context_of
from kvstore.errors import QuorumNotMet
from tests.httpapi.conftest import Api
from tests.httpapi.fake_service import NODE_ID, PEER_ID, REPLICA_ID, START_MS

K = "/v1/kv/users/ann"


def last_put(api: Api) -> Put:
    request = api.service.seen[-1]
    assert isinstance(request, Put)
    return request


def last_get(api: Api) -> Get:
    request = api.service.seen[-1]
    assert isinstance(request, Get)
    return request


# --- values ---------------------------------------------------------------------------------------------


async def test_a_value_comes_back_with_its_type_its_time_and_its_metadata(api: Api) -> None:
    written = await api.put(
        K, b"\x00\xff", Content_Type="image/x-odd; a=b", KV_Meta_Owner="bob", kv_meta_A="1"
    )
    assert (written.status, written.body) == (204, b"")
    assert "Content-Length" not in written.headers
    got = await api.get(K)
    assert (got.status, got.body) == (200, b"\x00\xff")
    assert got.headers["Content-Type"] == "image/x-odd; a=b"
    assert got.headers["KV-Meta-owner"] == "bob"
    assert got.headers["KV-Meta-a"] == "1"
    assert got.headers["Last-Modified"] == "Tue, 14 Nov 2023 22:13:20 GMT"
    assert got.headers["Date"] == "Tue, 14 Nov 2023 22:13:20 GMT"


async def test_every_data_answer_carries_its_receipt(api: Api) -> None:
    for method, body in (("PUT", b"1"), ("GET", None), ("HEAD", None), ("DELETE", None), ("GET", None)):
        headers = (await api.ask(method, K, body)).headers
        assert headers["KV-Acks"] == "2/3"
        assert headers["KV-Required"] == "2"
        assert headers["KV-Outcome"] == "ok"
        assert headers["KV-Node"] == "n1"
        assert headers["KV-Layout"] == "1"
        assert headers["Server-Timing"] == 'n1;dur=0.05;desc="same", n2;dur=0.41;desc="same"'
        assert headers["KV-Request-Id"]
        assert headers["Cache-Control"] == "no-cache"
        assert "KV-Hinted" not in headers
        assert "KV-Coordinator" not in headers


async def test_a_receipt_names_forwarding_stand_ins_and_repairs(api: Api) -> None:
    api.service.receipt = Receipt(PEER_ID, 3, 2, 3, (), (NODE_ID,), 2, 9)
    headers = (await api.get(K)).headers
    assert headers["KV-Coordinator"] == "n2"
    assert headers["KV-Hinted"] == "1"
    assert headers["KV-Repairs"] == "2"
    assert headers["KV-Layout"] == "9"
    assert "Server-Timing" not in headers


async def test_a_name_that_no_header_can_carry_is_made_fit(api: Api) -> None:
    api.service.receipt = Receipt(NODE_ID, 3, 2, 2, (("x\r\nEvil: 1", 1.0, "ok"),), (), 0, 1)
    headers = (await api.get(K)).headers
    assert headers["Server-Timing"] == 'x__Evil_;dur=1.00;desc="ok"'
    assert "Evil" not in headers


async def test_a_put_answers_what_a_get_then_says(api: Api) -> None:
    written = await api.put(K, b"1")
    got = await api.get(K)
    assert written.headers["ETag"] == got.headers["ETag"] == f'"{etag([(REPLICA_ID, 1)])}"'
    assert written.headers["KV-Siblings"] == got.headers["KV-Siblings"] == "1"
    for token in (written.headers["KV-Context"], got.headers["KV-Context"]):
        context = open_token(token, full_key("users", b"ann"), api.service.signing_key, 4096)
        assert context.covers((REPLICA_ID, 1))


async def test_head_is_get_without_the_body(api: Api) -> None:
    await api.put(K, b"12345", Content_Type="text/plain")
    got, head = await api.get(K), await api.ask("HEAD", K)
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Length"] == "5"
    varying = ("KV-Request-Id",)
    assert {k: v for k, v in got.headers.items() if k not in varying} == {
        k: v for k, v in head.headers.items() if k not in varying
    }


async def test_an_empty_value_is_a_value(api: Api) -> None:
    assert (await api.put(K, b"")).status == 204
    got = await api.get(K)
    assert (got.status, got.body, got.headers["Content-Length"]) == (200, b"", "0")


async def test_a_large_value_survives(api: Api) -> None:
    value = bytes(range(256)) * 4096
    assert len(value) == api.service.limits.value_bytes_max
    assert (await api.put(K, value)).status == 204
    assert (await api.get(K)).body == value


async def test_a_missing_key_is_404_without_and_a_deleted_one_with_context(api: Api) -> None:
    missing = await api.get(K)
    assert missing.status == 404
    assert missing.problem["type"] == "no-such-key"
    assert "KV-Context" not in missing.headers
    assert missing.headers["KV-Siblings"] == "0"
    await api.put(K, b"1")
    assert (await api.ask("DELETE", K)).status == 204
    deleted = await api.get(K)
    assert deleted.status == 404
    assert "ETag" not in deleted.headers
    # The context covers the delete: a put that is based on it leaves nothing beside itself.
    await api.put(f"{K}", b"2", KV_Context=deleted.headers["KV-Context"])
    again = await api.get(K)
    assert (again.status, again.body, again.headers["KV-Siblings"]) == (200, b"2", "1")
    assert len(api.service.state("users", b"ann").siblings) == 1


async def test_a_delete_of_nothing_is_204(api: Api) -> None:
    assert (await api.ask("DELETE", "/v1/kv/users/nobody")).status == 204
    assert last_put(api).tombstone


async def test_an_expired_value_is_gone(api: Api) -> None:
    await api.put(f"{K}?ttl=1.5", b"1")
    assert (await api.get(K)).status == 200
    api.service.wall.ms += 1500
    assert (await api.get(K)).status == 404


# --- keys -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("a/b/c", b"a/b/c"),
        ("a%2Fb", b"a/b"),
        ("%00%ff%FE", b"\x00\xff\xfe"),
        ("a+b", b"a+b"),
        ("a%20b", b"a b"),
        ("%25", b"%"),
        ("a%3Fr=9", b"a?r=9"),
        ("/", b"/"),
        ("..%2F..", b"../.."),
        ("%2e%2e", b".."),
        ("sch%C3%B6n", "schön".encode()),
        ("k" * 1024, b"k" * 1024),
    ],
)
async def test_any_bytes_are_a_key(api: Api, path: str, key: bytes) -> None:
    assert (await api.put(f"/v1/kv/b/{path}", b"v")).status == 204
    assert last_put(api).key == key
    assert (await api.get(f"/v1/kv/b/{path}")).body == b"v"
    assert last_get(api).key == key


async def test_the_absolute_form_of_a_target_is_understood(api: Api) -> None:
    await api.send_raw(b"GET http://other:1/v1/kv/b/k?r=3 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert (last_get(api).key, last_get(api).r) == (b"k", 3)


# --- options --------------------------------------------------------------------------------------------


async def test_a_get_without_options_asks_as_the_bucket_says(api: Api) -> None:
    await api.get(K)
    assert last_get(api) == Get("users", b"ann", timeout_ms=2000)


async def test_options_of_a_get(api: Api) -> None:
    await api.get(f"{K}?n=5&r=3&pr=1&read=monotonic&timeout=250")
    assert last_get(api) == Get("users", b"ann", 5, 3, 1, True, b"", 250)
    await api.get(f"{K}?sloppy=false")
    assert last_get(api) == Get("users", b"ann", timeout_ms=2000, sloppy=False)


async def test_a_put_without_options_asks_as_the_bucket_says(api: Api) -> None:
    await api.put(K, b"v")
    assert last_put(api) == Put("users", b"ann", b"v")


async def test_options_and_headers_of_a_put(api: Api) -> None:
    await api.put(
        f"{K}?n=5&w=3&pw=1&sloppy=true&ttl=60&mode=sibling&timeout=2s",
        b"v",
        Content_Type="text/plain",
        KV_Meta_B="2",
        KV_Meta_A="1",
        Idempotency_Key="op-1",
        KV_Priority="critical",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )
    assert last_put(api) == Put(
        "users", b"ann", b"v", False, "text/plain", (("a", "1"), ("b", "2")), b"op-1", None, "sibling",
        None, False, 60_000, None, 5, 3, 1, 2000, sloppy=True,
    )  # fmt: skip


async def test_options_of_a_delete(api: Api) -> None:
    await api.ask("DELETE", f"{K}?w=1&dw=0", None, {"Idempotency-Key": "x", "If-Match": "*"})
    request = last_put(api)
    assert request.tombstone
    assert (request.w, request.durability, request.operation_id) == (1, "async", b"x")
    assert request.if_match == "*"


@pytest.mark.parametrize(
    ("text", "timeout_ms"), [("1", 1), ("500", 500), ("500ms", 500), ("2s", 2000), ("60s", 60_000)]
)
async def test_timeouts(api: Api, text: str, timeout_ms: int) -> None:
    await api.get(f"{K}?timeout={text}", KV_Timeout_Ms="7")
    assert last_get(api).timeout_ms == timeout_ms
    await api.get(K, KV_Timeout_Ms=text)
    assert last_get(api).timeout_ms == timeout_ms


@pytest.mark.parametrize(
    ("query", "durability", "w"),
    [
        ("", None, None),
        ("?dw=0", "async", None),
        ("?dw=0&w=3", "async", 3),
        ("?dw=1", "sync", 2),  # the bucket's own w of 2 asks for more
        ("?dw=3", "sync", 3),
        ("?dw=1&w=1", "sync", 1),
        ("?dw=3&w=1", "sync", 3),
    ],
)
async def test_durable_copies_are_votes_of_synced_replicas(
    api: Api, query: str, durability: str | None, w: int | None
) -> None:
    await api.put(f"{K}{query}", b"v")
    assert (last_put(api).durability, last_put(api).w) == (durability, w)


async def test_mode_blind_overwrites_whatever_the_bucket_says(api: Api) -> None:
    await api.put(f"{K}?mode=blind", b"v")
    assert last_put(api).mode == "overwrite"


async def test_ttl_zero_is_never_and_nothing_is_as_the_bucket_says(api: Api) -> None:
    await api.put(f"{K}?ttl=0", b"v")
    assert last_put(api).ttl_ms == 0
    await api.put(K, b"v")
    assert last_put(api).ttl_ms is None


# --- contexts and conditions ----------------------------------------------------------------------------


async def test_a_context_supersedes_what_it_has_shown(api: Api) -> None:
    await api.siblings(K, b"a", b"b")
    both = await api.get(K)
    resolved = await api.put(K, b"c", KV_Context=both.headers["KV-Context"])
    assert resolved.headers["KV-Siblings"] == "1"
    assert (await api.get(K)).body == b"c"
    # What came after the context was taken stays beside.
    stale = await api.put(K, b"d", KV_Context=both.headers["KV-Context"])
    assert stale.headers["KV-Siblings"] == "2"


async def test_a_session_reaches_the_node_as_the_context_it_seals(api: Api) -> None:
    seen = context_of([(REPLICA_ID, 4), (9, 2)])
    token = seal(seen, full_key("users", b"ann"), api.service.signing_key)
    await api.get(K, KV_Session=token)
    assert decode_context(last_get(api).session) == seen
    other = context_of([(7, 1)])
    await api.get(K, KV_Session=f"{token}, {seal(other, full_key('users', b'ann'), api.service.signing_key)}")
    assert decode_context(last_get(api).session) == seen.join(other)


async def test_if_none_match_of_a_get(api: Api) -> None:
    await api.put(K, b"1")
    tag = (await api.get(K)).headers["ETag"]
    for condition in (tag, f'"0000000000000000", {tag}', f"W/{tag}", "*"):
        same = await api.get(K, If_None_Match=condition)
        assert (same.status, same.body) == (304, b"")
        assert same.headers["ETag"] == tag
        assert same.headers["KV-Context"]
        assert "Content-Length" not in same.headers
    assert (await api.get(K, If_None_Match='"0000000000000000"')).status == 200


async def test_a_connection_goes_on_after_304_and_204(api: Api) -> None:
    await api.put(K, b"1")
    tag = (await api.get(K)).headers["ETag"]
    async with api.raw() as (reader, writer):
        for _ in range(2):
            writer.write(f"GET {K} HTTP/1.1\r\nHost: x\r\nIf-None-Match: {tag}\r\n\r\n".encode())
            assert (await reader.readline()) == b"HTTP/1.1 304 Not Modified\r\n"
            await reader.readuntil(b"\r\n\r\n")


async def test_conditional_puts(api: Api) -> None:
    assert (await api.put(K, b"1", If_Match="*")).status == 412
    first = await api.put(K, b"1", If_None_Match="*")
    assert first.status == 204
    assert last_put(api).if_absent
    lost = await api.put(K, b"2", If_None_Match="*")
    assert (lost.status, lost.problem["type"]) == (412, "precondition-failed")
    assert lost.problem["outcome"] == lost.headers["KV-Outcome"] == "failed"
    assert (await api.put(K, b"2", If_Match=first.headers["ETag"])).status == 204
    assert last_put(api).if_match == first.headers["ETag"].strip('"')
    assert (await api.put(K, b"3", If_Match=first.headers["ETag"])).status == 412
    assert (await api.get(K)).body == b"2"


async def test_a_retried_put_is_one_write(api: Api) -> None:
    for _ in range(2):
        assert (await api.put(f"{K}?mode=sibling", b"1", Idempotency_Key="op")).headers["KV-Siblings"] == "1"


# --- siblings -------------------------------------------------------------------------------------------


async def test_siblings_as_multipart_by_default(api: Api) -> None:
    await api.put(f"{K}?mode=sibling", b"\r\n--x\x00", Content_Type="image/png", KV_Meta_Who="ann")
    await api.put(f"{K}?mode=sibling", b"", Content_Type="text/plain")
    got = await api.get(K, Accept="*/*")
    assert got.status == 300
    assert got.headers["KV-Siblings"] == "2"
    assert got.headers["Vary"] == "Accept"
    head = f"Content-Type: {got.headers['Content-Type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + got.body, policy=email.policy.HTTP)
    assert message.get_content_type() == "multipart/mixed"
    first, second = message.iter_parts()
    assert first.get_content_type() == "image/png"
    assert first["KV-Meta-who"] == "ann"
    assert first["ETag"] == f'"{etag([(REPLICA_ID, 1)])}"'
    assert first["Last-Modified"] == "Tue, 14 Nov 2023 22:13:20 GMT"
    assert second["ETag"] == f'"{etag([(REPLICA_ID, 2)])}"'
    boundary = got.headers["Content-Type"].split('"')[1].encode()
    parts = got.body.split(b"--" + boundary)
    assert [p.partition(b"\r\n\r\n")[2][:-2] for p in parts[1:-1]] == [b"\r\n--x\x00", b""]
    assert parts[-1] == b"--\r\n"


async def test_siblings_as_json(api: Api) -> None:
    await api.put(
        f"{K}?mode=sibling&ttl=60", '{"ö":1}'.encode(), Content_Type="application/json", KV_Meta_a="1"
    )
    await api.put(f"{K}?mode=sibling", b"\xff", Content_Type="text/plain")
    await api.put(f"{K}?mode=sibling", b"plain")
    got = await api.get(K, Accept="text/html, application/json;q=0.9, multipart/mixed;q=0.1")
    assert (got.status, got.headers["Content-Type"]) == (300, "application/json")
    assert got.json["etag"] == got.headers["ETag"].strip('"')
    assert got.json["context"] == got.headers["KV-Context"]
    first, second, third = got.json["siblings"]
    assert first == {
        "id": etag([(REPLICA_ID, 1)]),
        "content_type": "application/json",
        "modified_ms": START_MS,
        "expires_at_ms": START_MS + 60_000,
        "meta": {"a": "1"},
        "value": '{"ö":1}',
    }
    assert base64.b64decode(second["value_base64"]) == b"\xff"
    assert "value" not in second
    assert base64.b64decode(third["value_base64"]) == b"plain"


@pytest.mark.parametrize("media", ["application/msgpack", "application/x-msgpack", "application/vnd.msgpack"])
async def test_siblings_as_msgpack(api: Api, media: str) -> None:
    await api.siblings(K, b"a", b"\xff")
    got = await api.get(K, Accept=media)
    assert (got.status, got.headers["Content-Type"]) == (300, "application/msgpack")
    document: Any = msgpack.unpackb(got.body)
    assert [sibling["value"] for sibling in document["siblings"]] == [b"a", b"\xff"]
    assert document["context"] == got.headers["KV-Context"]


async def test_head_of_siblings(api: Api) -> None:
    await api.siblings(K, b"a", b"b")
    head = await api.ask("HEAD", K)
    assert (head.status, head.headers["KV-Siblings"], head.body) == (300, "2", b"")


async def test_one_sibling_by_its_id(api: Api) -> None:
    await api.siblings(K, b"a", b"b")
    both = await api.get(K, Accept="application/json")
    for entry in both.json["siblings"]:
        one = await api.get(f"{K}?sibling={entry['id']}")
        assert (one.status, one.body) == (200, entry["value"].encode())
        assert one.headers["KV-Siblings"] == "2"
        assert one.headers["ETag"] == both.headers["ETag"]
    gone = await api.get(f"{K}?sibling=0000000000000000")
    assert (gone.status, gone.problem["type"]) == (404, "no-such-sibling")


async def test_resolve_lww_shows_the_last_write_and_says_what_it_hides(api: Api) -> None:
    await api.siblings(K, b"first", b"last")
    got = await api.get(f"{K}?resolve=lww")
    assert (got.status, got.body, got.headers["KV-Siblings"]) == (200, b"last", "2")


async def test_a_last_write_wins_bucket_has_no_siblings(api: Api) -> None:
    api.service.properties["users"] = replace(api.service.defaults, conflict="last-write-wins")
    await api.siblings(K, b"first", b"last")
    got = await api.get(K)
    assert (got.status, got.body, got.headers["KV-Siblings"]) == (200, b"last", "1")


async def test_a_tombstone_beside_a_value_does_not_show(api: Api) -> None:
    await api.siblings(K, b"a")
    deleted = await api.ask("DELETE", f"{K}?mode=sibling")
    assert deleted.headers["KV-Siblings"] == "1"
    got = await api.get(K)
    assert got.body == b"a"
    assert got.headers["ETag"] == deleted.headers["ETag"], "of all siblings, also of those not shown"
    assert (await api.put(K, b"b", If_Match=got.headers["ETag"])).status == 204


# --- names of requests ----------------------------------------------------------------------------------


async def test_the_clients_request_id_is_kept_if_it_is_fit_for_a_log(api: Api) -> None:
    assert (await api.get(K, KV_Request_Id="job-1:2")).headers["KV-Request-Id"] == "job-1:2"
    for odd in ("", "a b", "x" * 65, "<script>"):
        made = (await api.get(K, KV_Request_Id=odd)).headers["KV-Request-Id"]
        assert made != odd
        assert made
    ids = {(await api.get(K)).headers["KV-Request-Id"] for _ in range(3)}
    assert len(ids) == 3


async def test_best_effort_says_what_was_served(api: Api) -> None:
    await api.put(K, b"v")
    target = f"{K}?consistency=best_effort&r=3"
    whole = await api.get(target)
    assert (whole.status, whole.headers["KV-Served"]) == (200, "quorum")
    api.service.failure = QuorumNotMet(required=3, received=1, asked=3)
    rest = await api.get(target)
    assert (rest.status, rest.body, rest.headers["KV-Served"]) == (200, b"v", "stale")
    assert last_get(api).r == 1
    api.service.failure = QuorumNotMet(required=3, received=1, asked=3)
    assert (await api.get(f"{K}?r=3")).status == 503
    assert "KV-Served" not in (await api.get(K)).headers
    assert (await api.get(f"{K}?consistency=strict")).status == 400
    assert (await api.get("/v1/kv/users/nobody?consistency=best_effort")).headers["KV-Served"] == "quorum"
