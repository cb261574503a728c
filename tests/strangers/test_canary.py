"""What is secret is in no log, no metric and no error, whatever is asked of whichever route."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from pathlib import Path
from secrets import token_hex
from typing import Any

import aiohttp
from yarl import URL

from kvstore.testing import LocalCluster
from tests.testing.test_secrets import log as log  # the fixture: everything that is logged
from tests.testing.test_secrets import write_tokens

CANARY = token_hex(8)
SECRETS = {name: f"{name}-{CANARY}" for name in ("value", "meta", "token", "wrong")}
CLUSTER_KEY = token_hex(32)

ITEMS = [
    {"op": "put", "bucket": "users", "key": "bob", "value": SECRETS["value"], "meta": {"a": SECRETS["meta"]}},
    {"op": "put", "bucket": "users", "key": "bob", "value": SECRETS["value"], "options": {"w": 99}},
    {"op": "put", "bucket": "users", "key": "bob", "value": SECRETS["value"], "valeu": 1},
    {"op": "get", "bucket": "users", "key": "bob", "value": SECRETS["value"]},
    {"op": "put", "bucket": "-", "key": "bob", "value": SECRETS["value"]},
]
BODIES = [
    b"",
    SECRETS["value"].encode(),
    json.dumps(ITEMS).encode(),
    b'[{"op": "%b' % SECRETS["value"].encode(),
]
QUERIES = [
    "",
    "?nothing=1",
    "?w=3&pw=3&timeout=200ms",
    "?r=3&pr=3&timeout=200ms",
    "?bucket=users&key=ann&timeout=1s",
    "?timeout=no",
]


def attempts(context: str) -> list[dict[str, str]]:
    """Headers. The good token last but one, so that what it may do has been written when others ask."""
    good = {"Authorization": f"Bearer {SECRETS['token']}"}
    return [
        {},
        {"Authorization": f"Bearer {SECRETS['wrong']}"},
        {"Authorization": f"Basic {SECRETS['wrong']}"},
        good,
        good | {"KV-Context": context, "KV-Meta-A": SECRETS["meta"], "Content-Type": "application/json"},
        good | {"KV-Context": context[:-2], "Content-Type": "application/msgpack"},
        good | {"If-Match": '"0123456789abcdef"'},
        good | {"KV-Session": context, "Content-Encoding": "gzip"},
        good | {"KV-Meta-A": SECRETS["meta"] + "x" * 5000},
    ]


class Told:
    """Answers by status, and the text of those that are errors."""

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()
        self.errors: list[str] = []

    async def ask(self, session: aiohttp.ClientSession, method: str, url: str, **options: Any) -> str:
        async with session.request(method, URL(url, encoded=True), **options) as answer:
            self.statuses[answer.status] += 1
            body = (await answer.read()).decode(errors="replace")
            if answer.status >= 400:
                self.errors.append(body)
                self.errors.append(str({k: v for k, v in answer.headers.items() if k != "KV-Context"}))
            elif url.partition("?")[0].endswith("/v1/batch"):
                items = json.loads(body) if body.startswith("[") else []
                self.errors += [json.dumps(item) for item in items if item["status"] >= 400]
            return body


async def test_what_is_secret_is_in_no_log_no_metric_and_no_error(tmp_path: Path, log: io.StringIO) -> None:
    file, told = tmp_path / "tokens.toml", Told()
    write_tokens(file, admin=SECRETS["token"])
    async with (
        LocalCluster(nodes=3, client_tokens_file=file, cluster_key=CLUSTER_KEY) as cluster,
        aiohttp.ClientSession() as session,
    ):
        good = {"Authorization": f"Bearer {SECRETS['token']}"}
        root = cluster.endpoints[0]
        described = json.loads(await told.ask(session, "GET", f"{root}/openapi.json", headers=good))
        async with session.put(f"{root}/v1/kv/users/ann", data=SECRETS["value"], headers=good) as answer:
            context = answer.headers["KV-Context"]
        routes = [
            (method.upper(), path, "requestBody" in operation)
            for path, item in described["paths"].items()
            for method, operation in item.items()
        ]
        for down in (False, True):
            if down:
                await cluster.stop("n3")
            for method, path, takes_body in routes:
                filled = re.sub(r"\{(\w+)\}", "users", path)
                for headers in attempts(context) if not down else attempts(context)[3:5]:
                    for query in QUERIES if not down else QUERIES[2:4]:
                        for body in BODIES if takes_body else [None]:
                            target = f"{root}{filled}{query}"
                            await told.ask(session, method, target, headers=headers, data=body)
        metrics = "".join(
            [await told.ask(session, "GET", f"{url}/metrics", headers=good) for url in cluster.endpoints[:2]]
        )
        await cluster.start("n3")
    logged, errors = log.getvalue(), "\n".join(told.errors)
    print(
        f"\n{told.statuses.total()} requests of {len(routes)} routes: {dict(sorted(told.statuses.items()))}"
    )
    assert len(routes) >= 23
    assert {200, 204, 400, 401, 412, 413, 503} <= set(told.statuses), "it went wrong in many ways"
    assert "kvstore_http_requests_total" in metrics
    assert logged.count('"event"') > 20
    for name, secret in {**SECRETS, "cluster key": CLUSTER_KEY, "context": context}.items():
        for where, text in (("log", logged), ("metrics", metrics), ("errors", errors)):
            assert secret not in text, f"{name} in {where}: …{text[max(0, text.find(secret) - 200) :][:400]}"
