"""Tokens of running nodes: reload, revocation; and a canary: what is secret is in no log and no answer."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from secrets import token_hex

import aiohttp
import pytest
import structlog

from kvstore import AsyncClient, Forbidden, Unauthorized
from kvstore.config.tokens import entry_text, principal_of
from kvstore.core.credential import hash_of
from kvstore.logs import configure_logging
from kvstore.testing import LocalCluster

DEADLINE_S = 10.0
ROLES = {"reader": "read", "writer": "write", "admin": "admin"}


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """Everything that is logged, at the level that tells most."""
    monkeypatch.setattr("kvstore.server.RELOAD_S", 0.02)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logging("debug", "json", stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def write_tokens(file: Path, **tokens: str) -> None:
    """Name -> token; their roles are those of ROLES."""
    entries = [
        entry_text(hash_of(t.encode()), principal_of(name, ROLES[name], ())) for name, t in tokens.items()
    ]
    beside = file.with_suffix(".new")
    beside.write_text("\n".join(entries))
    beside.replace(file)


@asynccontextmanager
async def as_(cluster: LocalCluster, token: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(cluster.endpoints, token=token) as client:
        yield client


async def test_roles_reach_through_client_and_nodes_and_tokens_change_without_a_restart(
    tmp_path: Path, log: io.StringIO
) -> None:
    file = tmp_path / "tokens.toml"
    write_tokens(file, reader="r" * 20, writer="w" * 20)
    async with LocalCluster(nodes=3, client_tokens_file=file) as cluster:
        async with as_(cluster, "w" * 20) as writer, as_(cluster, "r" * 20) as reader:
            await writer.bucket("users").put("ann", b"v")
            assert await reader.bucket("users").get("ann") == b"v"
            with pytest.raises(Forbidden, match="role write"):
                await reader.bucket("users").put("ann", b"w")
            with pytest.raises(Forbidden, match="role admin"):
                await writer.bucket("users").configure(n=1)

            file.write_text("no tokens at all")
            await logged(log, "client tokens not reloaded", times=3)
            assert await reader.bucket("users").get("ann") == b"v", "a wrong file changes nothing"

            write_tokens(file, writer="w" * 20, admin="a" * 20)
            await logged(log, "client tokens reloaded", times=3)
            with pytest.raises(Unauthorized):
                await reader.bucket("users").get("ann")
            assert await writer.bucket("users").get("ann") == b"v"
        async with as_(cluster, "a" * 20) as admin:
            await admin.bucket("users").configure(ttl_s=60.0)
    audit = [event for event in map(json.loads, log.getvalue().splitlines()) if event["event"] == "audit"]
    assert {(e["principal"], e["status"]) for e in audit} == {("writer", 403), ("admin", 200)}


async def logged(log: io.StringIO, event: str, *, times: int) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while log.getvalue().count(f'"{event}"') < times:
            await asyncio.sleep(0.01)


async def test_the_audit_log_comes_out_at_every_level(tmp_path: Path, log: io.StringIO) -> None:
    configure_logging("error", "json", log)
    async with (
        LocalCluster(nodes=1) as cluster,
        aiohttp.ClientSession() as session,
        session.post(f"{cluster.endpoints[0]}/v1/barrier") as answer,
    ):
        assert answer.status == 200
    (event,) = map(json.loads, log.getvalue().splitlines())
    assert (event["event"], event["path"], event["status"]) == ("audit", "/v1/barrier", 200)


async def test_what_is_secret_is_in_no_log_and_in_no_problem(tmp_path: Path, log: io.StringIO) -> None:
    canary = token_hex(8)
    secret, value, wrong = f"tok3n-{canary}", f"va1ue-{canary}", f"wr0ng-{canary}"
    key = token_hex(32)
    file = tmp_path / "tokens.toml"
    write_tokens(file, admin=secret)
    said = ""
    async with (
        LocalCluster(nodes=3, client_tokens_file=file, cluster_key=key) as cluster,
        aiohttp.ClientSession() as session,
    ):
        url = f"{cluster.endpoints[0]}/v1/kv/users/ann"
        good = {"Authorization": f"Bearer {secret}"}
        contexts = []
        for headers, path in (
            (good, ""), (good, "?mode=sibling"), (good, "?w=99"), (good | {"KV-Context": canary}, ""),
            (good | {"If-Match": '"0123456789abcdef"'}, ""), (good | {"KV-Meta-a": value}, ""),
            (good | {"Idempotency-Key": "id-1"}, ""), ({"Authorization": f"Bearer {wrong}"}, ""),
            ({"Authorization": f"Basic {wrong}"}, ""), ({}, ""),
        ):  # fmt: skip
            async with session.put(url + path, data=value, headers=headers) as answer:
                contexts.append(answer.headers.get("KV-Context", ""))
                said += await answer.text()
        for method, target in (("PUT", "/v1/buckets/users"), ("POST", "/v1/batch")):
            target = cluster.endpoints[0] + target
            async with session.request(method, target, data=value, headers=good) as answer:
                assert answer.status == 400
                said += await answer.text()
        await cluster.stop("n3")
        async with session.put(url + "?w=3&pw=3", data=value, headers=good) as answer:
            said += await answer.text()
        async with session.get(url + "?r=3&pr=3", headers=good) as answer:
            said += await answer.text()
        await cluster.start("n3")
        host, port = cluster.running["n1"].http_address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET / HTTP/9.9 {secret}\r\nAuthorization Bearer {secret}\r\n{value}\r\n\r\n".encode())
        said += (await reader.read()).decode()
        writer.close()
    told = log.getvalue()
    assert told.count('"event"') > 5, "it was logged at all"
    assert '"audit"' in told
    assert contexts[0]
    for what in (secret, wrong, key, *filter(None, contexts)):
        assert what not in told + said
    assert value not in told
    assert value not in said
