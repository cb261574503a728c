"""GET /v1/outcome/{operation}: what became of a write, by its Idempotency-Key."""

from __future__ import annotations

import pytest

from kvstore.core.credential import Credentials, Principal, Role, hash_of
from kvstore.errors import NotReady
from tests.httpapi.conftest import Api, Start

K = "/v1/kv/users/ann"
ASK = "/v1/outcome/order-17?bucket=users&key=ann"


async def test_a_write_that_is_there_is_ok_and_its_context_supersedes_it(api: Api) -> None:
    await api.put(K, b"v", Idempotency_Key="order-17")
    answer = await api.get(ASK)
    assert (answer.status, answer.headers["KV-Outcome"]) == (200, "ok")
    assert answer.json == {
        "operation": "order-17", "outcome": "ok", "n": 3, "required": 2, "answered": 3, "acks": 3
    }  # fmt: skip
    await api.put(K, b"w", KV_Context=answer.headers["KV-Context"])
    assert (await api.get(K)).body == b"w"


async def test_what_nobody_holds_is_unknown_and_says_what_to_do(api: Api) -> None:
    answer = await api.get(ASK)
    assert (answer.status, answer.headers["KV-Outcome"], answer.json["outcome"]) == (
        200,
        "unknown",
        "unknown",
    )
    assert "KV-Context" not in answer.headers
    assert "send it again" in answer.json["advice"]


async def test_what_too_few_hold_durably_is_unknown_and_may_be_superseded(api: Api) -> None:
    await api.put(K, b"v", Idempotency_Key="order-17")
    api.service.acks = 1
    answer = await api.get(ASK)
    assert (answer.json["outcome"], answer.json["acks"]) == ("unknown", 1)
    assert "KV-Context" in answer.headers
    assert "ask again" in answer.json["advice"]


async def test_counts_time_and_any_bytes_reach_the_node(api: Api) -> None:
    await api.get("/v1/outcome/a%2Fb%25?bucket=b~1&key=%00%FF&n=2&w=1&timeout=250ms")
    asked = api.service.outcomes[0]
    assert (asked.bucket, asked.key, asked.operation_id) == ("b~1", b"\x00\xff", b"a/b%")
    assert (asked.n, asked.w, asked.timeout_ms) == (2, 1, 250)


@pytest.mark.parametrize(
    ("target", "status", "says"),
    [
        ("/v1/outcome/op", 400, "bucket=NAME&key=KEY"),
        ("/v1/outcome/op?bucket=users", 400, "bucket=NAME&key=KEY"),
        ("/v1/outcome/op?bucket=users&key=", 400, "the key is empty"),
        ("/v1/outcome/op?bucket=-&key=k", 400, "not of the form"),
        ("/v1/outcome/?bucket=users&key=k", 400, "printable ASCII"),
        ("/v1/outcome/a%20b?bucket=users&key=k", 400, "printable ASCII"),
        ("/v1/outcome/%FF?bucket=users&key=k", 400, "UTF-8"),
        ("/v1/outcome/%zz?bucket=users&key=k", 400, "hex digits"),
        (f"/v1/outcome/{'x' * 65}?bucket=users&key=k", 413, "65 bytes"),
        (f"/v1/outcome/op?bucket=users&key={'x' * 1025}", 413, "1025 bytes"),
        ("/v1/outcome/op?bucket=users&key=k&w=0", 400, "whole number"),
        ("/v1/outcome/op?bucket=users&key=k&r=1", 400, "unknown option"),
        ("/v1/outcome", 404, "no /v1/outcome"),
    ],
)
async def test_what_is_wrong_is_said_and_nobody_is_asked(
    api: Api, target: str, status: int, says: str
) -> None:
    answer = await api.get(target)
    assert answer.status == status
    assert says in f"{answer.problem['detail']} {answer.problem.get('advice', '')}"
    assert api.service.outcomes == []


async def test_other_methods_are_not_known(api: Api) -> None:
    answer = await api.ask("DELETE", ASK)
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")


async def test_a_node_that_starts_says_so(api: Api) -> None:
    api.service.failure = NotReady("this node starts")
    assert (await api.get(ASK)).status == 503


async def test_it_is_a_read_of_its_bucket(start: Start) -> None:
    """The path names no bucket, so the token's buckets are looked at where the bucket is known."""
    api: Api = await start(
        credentials=Credentials(
            {
                hash_of(name.encode()): Principal(name, Role.READ, buckets)
                for name, buckets in (("all", ()), ("these", ("us*",)), ("others", ("carts",)))
            }
        )
    )
    statuses = {}
    for name in ("all", "these", "others", "nobody"):
        statuses[name] = (await api.get(ASK, Authorization=f"Bearer {name}")).status
    assert statuses == {"all": 200, "these": 200, "others": 403, "nobody": 401}
    assert len(api.service.outcomes) == 2


async def test_it_counts_for_the_limit_of_its_bucket(api: Api) -> None:
    await api.ask("PUT", "/v1/buckets/users", b'{"requests_per_s": 1}')
    api.server._app.rates.refresh()
    assert [(await api.get(ASK)).status for _ in range(2)] == [200, 429]
    assert (await api.get("/v1/outcome/op?bucket=carts&key=k")).status == 200
