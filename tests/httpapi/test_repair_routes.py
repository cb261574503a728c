"""Repair, barrier, tasks and the metrics of what keeps replicas equal."""

from __future__ import annotations

import re
from urllib.parse import quote

import pytest

from kvstore import errors
from kvstore.node.upkeep import Figures
from tests.httpapi.conftest import Api, until


async def test_a_repair_is_a_task_that_can_be_asked_after(api: Api) -> None:
    api.service.upkeep.gate.clear()
    begun = await api.ask("POST", "/v1/repair?all")
    assert (begun.status, begun.json["state"], begun.json["total"]) == (202, "running", 256)
    assert begun.headers["Location"] == "/v1/tasks"
    api.service.upkeep.gate.set()
    await until(lambda: api.service.upkeep.shown_tasks()[0]["state"] == "done", "the task ends")
    (shown,) = (await api.get("/v1/tasks")).json["tasks"]
    assert (shown["id"], shown["done"], shown["healed"]) == (begun.json["id"], 256, 2)


async def test_waiting_for_a_repair(api: Api) -> None:
    answer = await api.ask("POST", "/v1/repair?partition=7&wait")
    assert (answer.status, answer.json["state"], answer.json["missing"]) == (200, "done", ["n3"])
    assert api.service.upkeep.repairs == [("", b"", 7)]
    api.service.upkeep.gate.clear()
    late = await api.ask("POST", "/v1/repair?all&wait&timeout=20ms")
    assert (late.status, late.json["state"]) == (202, "running")
    api.service.upkeep.gate.set()


@pytest.mark.parametrize("key", [b"k", b"a/b c", b"\xff\x00"])
async def test_one_key_is_repaired_by_its_bytes(api: Api, key: bytes) -> None:
    answer = await api.ask("POST", f"/v1/repair?bucket=users&key={quote(key, safe='')}&wait=true")
    assert answer.status == 200
    assert api.service.upkeep.repairs == [("users", key, None)]


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("", "say what to repair"),
        ("?all=false", "say what to repair"),
        ("?all&partition=3", "say what to repair"),
        ("?bucket=b", "say what to repair"),
        ("?key=k", "say what to repair"),
        ("?bucket=b&key=k&all", "say what to repair"),
        ("?bucket=b&key=", "the key is empty"),
        ("?partition=256", "from 0 to 255"),
        ("?partition=-1", "from 0 to 255"),
        ("?partiton=1", "did you mean 'partition'?"),
        ("?all&timeout=soon", "must lie between"),
        ("?bucket=%ff&key=k", "not UTF-8"),
    ],
)
async def test_what_is_no_repair_is_refused(api: Api, query: str, says: str) -> None:
    answer = await api.ask("POST", f"/v1/repair{query}")
    assert answer.status == 400
    assert says in f"{answer.problem['detail']} {answer.problem.get('advice', '')}"
    assert api.service.upkeep.repairs == []


async def test_too_long_a_key(api: Api) -> None:
    assert (await api.ask("POST", f"/v1/repair?bucket=b&key={'k' * 1025}")).status == 413


@pytest.mark.parametrize(
    ("failure", "status"),
    [(errors.NotReady("no layout"), 503), (errors.StorageFull("full"), 507), (errors.KVStoreError("?"), 500)],
)
async def test_a_repair_that_fails_says_why(api: Api, failure: errors.KVStoreError, status: int) -> None:
    api.service.upkeep.failure = failure
    answer = await api.ask("POST", "/v1/repair?all&wait")
    assert (answer.status, answer.problem["detail"]) == (status, failure.detail)


async def test_a_repair_that_cannot_begin_now(api: Api) -> None:
    api.service.upkeep.refusal = errors.Overloaded("4 tasks run on this node")
    answer = await api.ask("POST", "/v1/repair?all")
    assert (answer.status, answer.problem["type"]) == (503, "overloaded")
    assert answer.headers["Retry-After"] == "1"


async def test_a_barrier_returns_when_it_is_certain(api: Api) -> None:
    answer = await api.ask("POST", "/v1/barrier?timeout=5s")
    assert (answer.status, answer.json["missing"]) == (200, ["n3"])
    assert api.service.upkeep.barriers == [5.0]
    assert (await api.ask("POST", "/v1/barrier", headers={"KV-Timeout-Ms": "1500"})).status == 200
    assert (await api.ask("POST", "/v1/barrier")).status == 200
    assert api.service.upkeep.barriers[1:] == [1.5, 60.0]


async def test_a_barrier_whose_time_is_up(api: Api) -> None:
    api.service.upkeep.failure = errors.RequestTimeout(
        "3 partitions could not be compared", outcome="unknown"
    )
    answer = await api.ask("POST", "/v1/barrier?timeout=10ms")
    assert (answer.status, answer.problem["type"]) == (504, "timeout")
    assert answer.headers["KV-Outcome"] == "unknown"


async def test_the_status_of_comparisons(api: Api) -> None:
    assert (await api.get("/v1/repair")).json == api.service.upkeep.status()
    assert (await api.ask("DELETE", "/v1/repair")).status == 405


async def test_every_figure_is_a_metric_with_the_prefix_and_base_units(api: Api) -> None:
    text = (await api.get("/metrics")).body.decode()
    values = {}
    for name, value in re.findall(r"^(kvstore_\w+(?:{reason=\"\w+\"})?) (\d+)\.0$", text, re.MULTILINE):
        values[name] = int(value)
    figures = api.service.upkeep.figures()
    assert sorted(set(figures) - set(values.values())) == []
    assert values["kvstore_anti_entropy_keys_sent_total"] == figures.keys_sent
    assert values["kvstore_corrupt_records_healed_total"] == figures.corrupt_healed
    assert values["kvstore_anti_entropy_oldest_comparison_seconds"] == figures.oldest_comparison_s
    assert values["kvstore_background_paused_seconds_total"] == figures.paused_s
    assert values['kvstore_tombstones_postponed_total{reason="hint"}'] == figures.tombstones_postponed_hint
    assert len(Figures._fields) == 25
