"""Every route with every kind of credential; and what the audit log tells of it.

What each route needs is written down here once more, by hand: a route that is new has to be entered,
and one whose need changes in the table of the node is noticed.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import NamedTuple

import pytest

from kvstore.core.credential import Credentials, Principal, Role, hash_of, only
from tests.httpapi.conftest import DEADLINE_S, Api, Start
from tests.httpapi.fake_service import START_MS

K = "/v1/kv/users/ann"

NEEDS = {
    "GET /v1/kv/{bucket}/{key}": "read",
    "HEAD /v1/kv/{bucket}/{key}": "read",
    "PUT /v1/kv/{bucket}/{key}": "write",
    "DELETE /v1/kv/{bucket}/{key}": "write",
    "GET /v1/kv/{bucket}": "read",
    "POST /v1/batch": "read",  # its items are judged one by one
    "GET /v1/outcome/{operation}": "read",  # and of its bucket
    "GET /v1/buckets": "admin",
    "GET /v1/buckets/{bucket}": "read",
    "PUT /v1/buckets/{bucket}": "admin",
    "GET /v1/cluster": "read",
    "GET /v1/layout": "read",
    "GET /v1/explain/{bucket}/{key}": "read",
    "GET /v1/hints": "read",
    "GET /v1/degradation": "read",
    "PUT /v1/degradation": "admin",
    "GET /v1/repair": "read",
    "POST /v1/repair": "admin",
    "GET /v1/tasks": "read",
    "POST /v1/barrier": "admin",
    "GET /metrics": "read",
    "GET /openapi.json": "read",
    "GET /livez": "open",
    "GET /readyz": "open",
    "GET /version": "open",
}


class Kind(NamedTuple):
    """A credential. `rank`: 0 for none that is known. `buckets`: "all", "these" or "others"."""

    header: str
    rank: int
    buckets: str = "all"


RANKS = {"open": 0, "read": 1, "write": 2, "admin": 3}
BUCKETS = {"all": (), "these": ("us*", "carts"), "others": ("carts", "user", "ann*")}
KINDS = {
    "none": Kind("", 0),
    "not bearer": Kind("Basic tok3n-read-all", 0),
    "unknown": Kind("Bearer tok3n-who-knows", 0),
    "a beginning": Kind("Bearer tok3n-admin-al", 0),
    "its hash": Kind(f"Bearer {hash_of(b'tok3n-admin-all').hex()}", 0),
    "expired": Kind("Bearer tok3n-expired", 0),
    "revoked": Kind("Bearer tok3n-revoked", 0),
    **{
        f"{role} of {buckets}": Kind(f"Bearer tok3n-{role}-{buckets}", RANKS[role], buckets)
        for role in ("read", "write", "admin")
        for buckets in BUCKETS
    },
}


def credentials() -> Credentials:
    names = [(f"{role.name.lower()}-{which}", role, which) for role in Role for which in BUCKETS]
    principals = {
        hash_of(f"tok3n-{name}".encode()): Principal(name, role, BUCKETS[buckets])
        for name, role, buckets in names
    }
    principals[hash_of(b"tok3n-expired")] = Principal("old", Role.ADMIN, (), START_MS)
    return Credentials(principals)


def expected(route: str, kind: Kind) -> int:
    """401, 403, or 0 for whatever the handler says."""
    need = NEEDS[route]
    if need == "open":
        return 0
    if not kind.rank:
        return 401
    of_a_bucket = "{bucket}" in route
    covered = kind.buckets == "all" or (kind.buckets == "these" if of_a_bucket else need != "admin")
    return 0 if kind.rank >= RANKS[need] and covered else 403


def filled(path: str) -> str:
    return path.replace("{bucket}", "users").replace("{key}", "ann").replace("{operation}", "op-1")


@pytest.mark.parametrize("name", KINDS)
async def test_every_route_with_this_credential(start: Start, name: str) -> None:
    revoked = only("tok3n-revoked", "once")
    api: Api = await start(credentials=Credentials(revoked))
    assert (await api.get(K, Authorization="Bearer tok3n-revoked")).status == 404
    api.server.let_in(credentials())
    api.service.seen.clear()
    kind = KINDS[name]
    routes = api.server._app.router.routes
    assert {f"{route.method} {route.path}" for route in routes} == set(NEEDS)
    for route in routes:
        which = f"{route.method} {route.path}"
        body = b"[]" if route.path == "/v1/batch" else b"{}" if route.body else None
        headers = {"Authorization": kind.header} if kind.header else {}
        before = len(api.service.seen)
        answer = await api.ask(route.method, filled(route.path), body, headers)
        wanted = expected(which, kind)
        if wanted:
            assert answer.status == wanted, which
            assert len(api.service.seen) == before, "nothing was done"
            if route.method != "HEAD":
                assert answer.problem["type"] == ("unauthorized" if wanted == 401 else "forbidden")
                assert b"tok3n" not in answer.body
        else:
            assert answer.status not in (401, 403), which


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if not kind.rank])
async def test_who_is_not_known_learns_nothing(start: Start, name: str) -> None:
    api: Api = await start(credentials=credentials())
    headers = {"Authorization": KINDS[name].header}
    for path in ("/nowhere", "/v1/kv/-/k", "/livez/", "/v1/kv/users/ann?nothing=1"):
        answer = await api.ask("GET", path, None, headers)
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert (await api.ask("PATCH", K, None, headers)).status == 401


@pytest.mark.parametrize(("token", "status"), [(b"nobody", b"401"), (b"tok3n-read-all", b"403")])
async def test_who_may_not_is_told_before_any_of_the_body_is_there(
    start: Start, token: bytes, status: bytes
) -> None:
    """Strangers cannot make a node hold what they send: none of the announced mebibyte ever comes."""
    api: Api = await start(credentials=credentials())
    async with api.raw() as (reader, writer):
        writer.write(
            f"PUT {K} HTTP/1.1\r\nHost: x\r\nContent-Length: 1048576\r\n".encode()
            + b"Authorization: Bearer " + token + b"\r\n\r\n"
        )  # fmt: skip
        async with asyncio.timeout(DEADLINE_S):
            assert (await reader.readline()).split()[1] == status
    assert api.service.seen == []


async def test_with_one_token_everything_asks_for_it_but_health_and_version(start: Start) -> None:
    api: Api = await start(client_token="s3cret-tökén")
    for path in ("/livez", "/readyz", "/version"):
        assert (await api.get(path)).status == 200
    good = "Bearer s3cret-tökén"
    for path in (K, "/v1/kv/users", "/v1/buckets", "/v1/cluster", "/v1/layout", "/metrics", "/openapi.json"):
        assert (await api.get(path)).status == 401
        assert (await api.get(path, Authorization=good)).status in (200, 404)
    for header in ("", "Bearer", "Bearer ", "Bearer s3cret", "Bearer s3cret-tökénx", "s3cret-tökén"):
        answer = await api.put(K, b"v", Authorization=header)
        assert (answer.status, answer.problem["type"]) == (401, "unauthorized")
        assert b"s3cret" not in answer.body
    assert [type(r).__name__ for r in api.service.seen] == ["Get"]
    assert (await api.get(K, Authorization="bearer  s3cret-tökén ")).status == 404


async def test_without_one_a_credential_is_not_looked_at(api: Api) -> None:
    assert (await api.get(K, Authorization="Bearer whatever")).status == 404


async def test_items_of_a_batch_are_judged_one_by_one(start: Start) -> None:
    api: Api = await start(credentials=credentials())
    items = [
        {"op": "get", "bucket": "users", "key": "k"},
        {"op": "put", "bucket": "users", "key": "k", "value": "v"},
        {"op": "delete", "bucket": "users", "key": "k"},
        {"op": "get", "bucket": "private", "key": "k"},
    ]

    async def statuses(token: str) -> list[int]:
        headers = {"Authorization": f"Bearer tok3n-{token}", "Content-Type": "application/json"}
        answer = await api.ask("POST", "/v1/batch", json.dumps(items).encode(), headers)
        assert answer.status == 200
        return [entry["status"] for entry in answer.json]

    assert await statuses("read-these") == [404, 403, 403, 403]
    assert await statuses("write-these") == [404, 204, 204, 403]
    assert await statuses("write-all") == [404, 204, 204, 404]
    assert await statuses("admin-others") == [403] * 4


async def test_a_connection_is_who_its_last_header_says(start: Start) -> None:
    api: Api = await start(credentials=credentials())
    async with api.raw() as (reader, writer):
        for token, status in (
            (b"read-all", b"403"), (b"write-all", b"204"), (b"read-all", b"403"), (b"nobody", b"401"),
            (b"write-all", b"204"), (b"write-others", b"403"),
        ):  # fmt: skip
            writer.write(
                f"PUT {K} HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n".encode()
                + b"Authorization: Bearer tok3n-" + token + b"\r\n\r\nv"
            )  # fmt: skip
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"Content-Length: (\d+)", head)
            await reader.readexactly(int(length[1]) if length else 0)
            assert head.split()[1] == status, token
        writer.write(f"GET {K} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert (await reader.readline()).split()[1] == b"401", "who said nothing is nobody"


async def test_credentials_that_change_hold_for_open_connections(start: Start) -> None:
    api: Api = await start(credentials=credentials())
    assert (await api.get(K, Authorization="Bearer tok3n-read-all")).status == 404
    api.server.let_in(Credentials(only("another", "operator")))
    assert (await api.get(K, Authorization="Bearer tok3n-read-all")).status == 401
    assert (await api.get(K, Authorization="Bearer another")).status == 404
    api.server.let_in(None)
    assert (await api.get(K)).status == 404


async def test_a_token_that_expires_while_it_is_used(start: Start) -> None:
    principal = Principal("shop", Role.READ, (), START_MS + 5000)
    api: Api = await start(credentials=Credentials({hash_of(b"t"): principal}))
    api.service.wall.ms += 4999
    assert (await api.get(K, Authorization="Bearer t")).status == 404
    api.service.wall.ms += 1
    refused = await api.get(K, Authorization="Bearer t")
    assert (refused.status, "expired" in refused.problem["detail"]) == (401, True)


async def test_limits_are_those_of_the_name_wherever_it_connects_from(start: Start) -> None:
    api: Api = await start(credentials=credentials(), client_requests_per_s=0.5, rate_burst_s=2.0)
    tokens = ("read-all", "read-all", "write-all")
    assert [(await api.get(K, Authorization=f"Bearer tok3n-{t}")).status for t in tokens] == [404, 429, 404]


# --- the audit log --------------------------------------------------------------------------------------


async def test_calls_that_need_the_role_admin_are_audited_whatever_came_of_them(start: Start) -> None:
    api: Api = await start(credentials=credentials())
    admin, reader = {"Authorization": "Bearer tok3n-admin-all"}, {"Authorization": "Bearer tok3n-read-these"}
    await api.ask("PUT", "/v1/buckets/users", b'{"n": 3}', admin)
    await api.ask("PUT", "/v1/buckets/users", b'{"n": "many"}', admin)
    await api.ask("PUT", "/v1/buckets/users", b'{"n": 3}', reader)
    await api.ask("POST", "/v1/repair?partition=7", b"", {**admin, "KV-Request-Id": "r-1"})
    api.service.upkeep.refusal = RuntimeError("a bug")
    await api.ask("POST", "/v1/repair?all", b"", admin)
    for path in (K, "/v1/cluster", "/v1/buckets/users", "/metrics", "/livez"):
        await api.ask("GET", path, None, admin)
    told = [(e["principal"], e["method"], e["path"], e["status"]) for e in api.audited]
    assert told == [
        ("admin-all", "PUT", "/v1/buckets/users", 200),
        ("admin-all", "PUT", "/v1/buckets/users", 400),
        ("read-these", "PUT", "/v1/buckets/users", 403),
        ("admin-all", "POST", "/v1/repair", 202),
        ("admin-all", "POST", "/v1/repair", 500),
    ]
    assert api.audited[3]["options"] == {"partition": "7"}
    assert api.audited[3]["request_id"] == "r-1"
    assert {e["address"] for e in api.audited} == {"127.0.0.1"}
    assert "tok3n" not in json.dumps(api.audited)


async def test_without_credentials_it_says_so(api: Api) -> None:
    await api.ask("POST", "/v1/barrier", b"")
    assert [(e["principal"], e["path"]) for e in api.audited] == [("anybody", "/v1/barrier")]
