"""A node on which something runs out: what it refuses, and that reads and deletes go on."""

from __future__ import annotations

import pytest

from kvstore.core.watermarks import Mark
from tests.httpapi.conftest import Api

K = "/v1/kv/users/ann"


@pytest.mark.parametrize(
    ("resource", "status", "kind"), [("disk", 507, "storage-full"), ("memory", 503, "overloaded")]
)
async def test_read_only_refuses_writes_with_the_reason_and_nothing_else(
    api: Api, resource: str, status: int, kind: str
) -> None:
    assert (await api.put(K, b"v")).status == 204
    api.server.growth.set(
        {"disk": Mark.NORMAL, "memory": Mark.NORMAL, resource: Mark.READ_ONLY}, {resource: "7 MiB"}
    )
    refused = await api.put(K, b"w")
    assert (refused.status, refused.problem["type"], refused.problem["outcome"]) == (status, kind, "failed")
    assert refused.problem["detail"] == "7 MiB"
    assert "deletes go on" in refused.problem["advice"]
    body = b'[{"op": "put", "bucket": "users", "key": "a", "value": "v"}]'
    (item,) = (await api.ask("POST", "/v1/batch", body, {"Content-Type": "application/json"})).json
    assert item["status"] == status
    assert (await api.get(K)).body == b"v"
    assert (await api.ask("DELETE", K)).status == 204
    assert f'kvstore_watermark{{resource="{resource}"}} 3.0'.encode() in (await api.get("/metrics")).body
    api.server.growth.set({"disk": Mark.NORMAL, "memory": Mark.NORMAL}, {})
    assert (await api.put(K, b"w")).status == 204, "and without a restart"


async def test_a_full_disk_is_no_reason_to_refuse_what_is_kept_elsewhere(api: Api) -> None:
    api.server.growth.set({"disk": Mark.READ_ONLY}, {"disk": "7 MiB"})
    assert (await api.put("/v1/kv/elsewhere/k", b"v")).status == 204


async def test_no_growth_refuses_background_writes_only(api: Api) -> None:
    api.server.growth.set({"disk": Mark.NO_GROWTH}, {"disk": "200 MiB are free"})
    assert (await api.put(K, b"v", KV_Priority="background")).status == 507
    assert (await api.put(K, b"v")).status == 204
    assert (await api.get(K, KV_Priority="background")).status == 200
