"""The keys of a bucket: pages, links, bytes as keys, values only if asked for."""

from __future__ import annotations

import asyncio
import base64
from collections import Counter
from dataclasses import replace
from typing import Any

import msgpack
import pytest

from kvstore.core.ring import full_key
from kvstore.core.token import open_token
from kvstore.errors import NotReady
from kvstore.httpapi import listing
from kvstore.httpapi.media import encode
from tests.httpapi.conftest import Api, Start

B = "/v1/kv/b"


async def fill(api: Api, *keys: str) -> None:
    for key in keys:
        await api.put(f"{B}/{key}", f"v{key}".encode(), Content_Type="text/plain")


async def test_a_page_lists_keys_in_order_without_values(api: Api) -> None:
    await fill(api, "b", "a", "c")
    await api.put("/v1/kv/other/x", b"1")
    page = await api.get(B)
    assert page.status == 200
    assert [item["key"] for item in page.json["items"]] == ["a", "b", "c"]
    assert page.json["complete"] is True
    assert "next" not in page.json
    assert "Link" not in page.headers
    first = page.json["items"][0]
    assert first["siblings"] == 1
    assert "context" not in first, "who has not seen the value must not supersede it"
    assert "value" not in first["values"][0]
    assert first["values"][0]["content_type"] == "text/plain"


async def test_with_values_come_contexts_that_hold_for_their_key(api: Api) -> None:
    await fill(api, "a")
    await api.siblings(f"{B}/s", b"1", b"2")
    for query in ("values", "values=true", "values=1"):
        a, s = (await api.get(f"{B}?{query}")).json["items"]
        assert a["values"][0]["value"] == "va"
        assert [entry["value"] for entry in s["values"]] == ["1", "2"]
        assert s["siblings"] == 2
        context = open_token(s["context"], full_key("b", b"s"), api.service.signing_key, 4096)
        assert context.includes(api.service.state("b", b"s").context)
        assert a["etag"] == (await api.get(f"{B}/a")).headers["ETag"].strip('"')


async def test_links_lead_through_all_pages(api: Api) -> None:
    keys = ["%00", "%ff%fe", "a%2Fb", "a%26r=9", "b+c", "z"]
    await fill(api, *keys)
    found: list[bytes] = []
    target = f"{B}?limit=2&r=3&timeout=5s"
    pages = 0
    while target:
        page = await api.get(target)
        found += [
            item["key"].encode() if "key" in item else base64.b64decode(item["key_base64"])
            for item in page.json["items"]
        ]
        target = page.json.get("next", "")
        assert page.headers.get("Link", "") == (f'<{target}>; rel="next"' if target else "")
        pages += 1
        assert pages <= len(keys), "the links go in circles"
    assert found == [b"\x00", b"a&r=9", b"a/b", b"b+c", b"z", b"\xff\xfe"]
    assert pages == 3
    assert {(s["limit"], s["r"], s["timeout_s"]) for s in api.service.scans} == {(2, 3, 5.0)}


async def test_a_prefix(api: Api) -> None:
    await fill(api, "a1", "a2", "b1", "a%201", "a%2B1")
    for raw, count in (("a", 4), ("a+", 1), ("a%20", 1), ("a%2B", 1), ("c", 0)):
        page = await api.get(f"{B}?prefix={raw}")
        assert len(page.json["items"]) == count, raw
    await api.get(f"{B}?prefix=a&limit=1")
    following = (await api.get(f"{B}?prefix=a&limit=1")).json["next"]
    assert "prefix=a" in following


async def test_deleted_and_expired_keys_are_passed_over_and_the_page_goes_on(api: Api) -> None:
    await fill(api, "a", "b", "c")
    await api.ask("DELETE", f"{B}/a")
    await api.put(f"{B}/b?ttl=1", b"soon")
    api.service.wall.ms += 1000
    page = await api.get(f"{B}?limit=2")
    assert page.json["items"] == []
    assert page.json["next"]
    assert [item["key"] for item in (await api.get(page.json["next"])).json["items"]] == ["c"]


async def test_a_last_write_wins_bucket_lists_what_a_get_would_show(api: Api) -> None:
    api.service.properties["b"] = replace(api.service.defaults, conflict="last-write-wins")
    await api.siblings(f"{B}/k", b"1", b"2")
    (item,) = (await api.get(f"{B}?values")).json["items"]
    assert [entry["value"] for entry in item["values"]] == ["2"]


async def test_an_incomplete_page_says_so(api: Api) -> None:
    api.service.complete = False
    page = await api.get(B)
    assert page.json["complete"] is False
    assert page.headers["KV-Complete"] == "false"


async def test_as_msgpack(api: Api) -> None:
    await api.put(f"{B}/%ff", b"\xfe")
    page = await api.get(f"{B}?values", Accept="application/msgpack")
    assert page.headers["Content-Type"] == "application/msgpack"
    document: Any = msgpack.unpackb(page.body)
    assert document["items"][0]["key"] == b"\xff"
    assert document["items"][0]["values"][0]["value"] == b"\xfe"


async def test_an_empty_bucket(api: Api) -> None:
    assert (await api.get(B)).json == {"items": [], "complete": True}


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("limit=0", "1 to 1000"),
        ("limit=1001", "1 to 1000"),
        ("values=maybe", "true or false"),
        ("start=a", "unknown option 'start'"),
        ("prefx=a", "did you mean 'prefix'?"),
        ("prefix=%g", "%25"),
        ("r=0", "1 to 99"),
        ("timeout=x", "2s for seconds"),
    ],
)
async def test_bad_options(api: Api, query: str, says: str) -> None:
    answer = await api.get(f"{B}?{query}")
    assert answer.status == 400
    assert says in f"{answer.problem['detail']} {answer.problem.get('advice', '')}"
    assert api.service.scans == []


async def test_bounds(start: Start) -> None:
    api: Api = await start(scan_items_max=5)
    assert (await api.get(f"{B}?limit=6")).status == 400
    assert (await api.get(B)).status == 200
    assert api.service.scans[-1]["limit"] == 5
    long = await api.get(f"{B}?prefix={'a' * 1025}")
    assert (long.status, long.problem["type"]) == (413, "too-large")


async def test_errors_of_the_node(api: Api) -> None:
    api.service.failure = NotReady("no layout")
    assert (await api.get(B)).problem["type"] == "not-ready"


async def test_who_asks_beside_a_page_waits_for_no_more_than_8_of_its_keys(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """32 of them took 0.4 ms, and a put beside a flood of pages waits for several such slices."""
    for number in range(40):
        await api.put(f"/v1/kv/users/{number:02}", b"v")
    turn = 0
    at_once: Counter[int] = Counter()

    async def count_turns() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    def encoded(item: object, media: str) -> bytes:
        at_once[turn] += 1
        return encode(item, media)

    monkeypatch.setattr(listing, "encode", encoded)
    turns = asyncio.ensure_future(count_turns())
    page = await api.get("/v1/kv/users")
    turns.cancel()
    assert len(page.json["items"]) == at_once.total() == 40
    assert max(at_once.values()) <= 8
