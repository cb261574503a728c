"""Every error of the tree has its status, its type and its headers; a bug of ours shows nothing of itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kvstore import errors
from kvstore.errors import KVStoreError
from kvstore.httpapi.status_codes import TABLE, headers_of, status_of
from tests.httpapi.conftest import Api

K = "/v1/kv/users/ann"

READ = {
    errors.InvalidRequest: (400, "invalid-request"),
    errors.InvalidContext: (400, "invalid-context"),
    errors.Unauthorized: (401, "unauthorized"),
    errors.NotFound: (404, "no-such-route"),
    errors.Conflict: (409, "conflict"),
    errors.SiblingsError: (409, "siblings"),
    errors.PreconditionFailed: (412, "precondition-failed"),
    errors.TooLarge: (413, "too-large"),
    errors.ContextRequired: (428, "context-required"),
    errors.Forbidden: (403, "forbidden"),
    errors.Overloaded: (503, "overloaded"),
    errors.RateLimited: (429, "rate-limited"),
    errors.NotReady: (503, "not-ready"),
    errors.QuorumUnavailable: (503, "quorum-unavailable"),
    errors.QuorumNotMet: (503, "quorum-not-met"),
    errors.StaleRead: (503, "stale"),
    errors.Unavailable: (503, "unavailable"),
    errors.ConnectError: (503, "unavailable"),
    errors.RequestTimeout: (504, "timeout"),
    errors.StorageFull: (507, "storage-full"),
    errors.StorageFailed: (503, "storage-failed"),
    errors.CorruptRecord: (500, "corrupt-record"),
    errors.RequestError: (400, "invalid-request"),
    errors.StorageError: (500, "internal"),
    errors.ConfigError: (500, "internal"),
    errors.BatchError: (500, "internal"),
    errors.PeerError: (500, "internal"),
    errors.PeerUnreachable: (500, "internal"),
    errors.PeerTimeout: (500, "internal"),
    errors.PeerRefused: (500, "internal"),
    KVStoreError: (500, "internal"),
}
# A write whose votes were lost half way; a stale session is of reads only, but it is no exception.
WRITE = READ | {errors.QuorumNotMet: (504, "write-timeout"), errors.StaleRead: (504, "write-timeout")}


def tree(root: type[KVStoreError] = KVStoreError) -> Iterator[type[KVStoreError]]:
    yield root
    for child in root.__subclasses__():
        if child.__module__ == "kvstore.errors":
            yield from tree(child)


def test_these_are_all_errors_there_are() -> None:
    assert set(tree()) == set(READ)


def test_types_of_problems_are_told_apart() -> None:
    """One slug has one status."""
    by_slug: dict[str, set[int]] = {}
    for status in TABLE.values():
        by_slug.setdefault(status.type, set()).add(status.code)
    assert all(len(codes) == 1 for codes in by_slug.values())


@pytest.mark.parametrize("kind", READ, ids=lambda kind: kind.__name__)
async def test_of_a_read(api: Api, kind: type[KVStoreError]) -> None:
    api.service.failure = error = kind("what happened")
    error.advice = "what to do"
    answer = await api.get(K)
    assert (answer.status, answer.problem["type"]) == READ[kind]
    assert answer.problem["detail"] == "what happened"
    assert answer.problem["advice"] == "what to do"
    assert "outcome" not in answer.problem
    assert answer.headers["KV-Node"] == "n1"
    assert ("Retry-After" in answer.headers) == (answer.status in (429, 503))
    assert ("WWW-Authenticate" in answer.headers) == (answer.status == 401)


@pytest.mark.parametrize("kind", WRITE, ids=lambda kind: kind.__name__)
async def test_of_a_write(api: Api, kind: type[KVStoreError]) -> None:
    api.service.failure = kind("what happened")
    answer = await api.put(K, b"v")
    assert (answer.status, answer.problem["type"]) == WRITE[kind]
    assert answer.problem["outcome"] == answer.headers["KV-Outcome"] == kind.outcome_default


async def test_a_write_that_failed_everywhere_is_no_timeout(api: Api) -> None:
    api.service.failure = errors.QuorumNotMet(required=2, received=1, asked=3, outcome="failed")
    answer = await api.put(K, b"v")
    assert (answer.status, answer.problem["type"]) == (503, "quorum-not-met")
    assert answer.problem["outcome"] == "failed"


async def test_a_stand_down_of_the_session_is_not_a_write_timeout(api: Api) -> None:
    api.service.failure = errors.StaleRead("too old", outcome="failed")
    assert (await api.get(K)).problem["type"] == "stale"


async def test_a_lost_quorum_says_who_did_what(api: Api) -> None:
    replicas = (("n2", "PeerTimeout"), ("n3", "answered"))
    api.service.failure = errors.QuorumNotMet(required=3, received=1, asked=3, hinted=1, replicas=replicas)
    problem = (await api.put(K, b"v")).problem
    assert {name: problem[name] for name in ("required", "received", "asked", "hinted")} == {
        "required": 3, "received": 1, "asked": 3, "hinted": 1,
    }  # fmt: skip
    assert problem["replicas"] == [
        {"node": "n2", "answer": "PeerTimeout"},
        {"node": "n3", "answer": "answered"},
    ]
    assert problem["detail"] == "1 of 3 replicas answered, 3 needed"


@pytest.mark.parametrize(("wait_s", "header"), [(0.2, "1"), (1.0, "1"), (2.1, "3")])
async def test_an_overloaded_node_says_when_to_come_back(api: Api, wait_s: float, header: str) -> None:
    api.service.failure = errors.Overloaded("busy", retry_after_s=wait_s)
    assert (await api.get(K)).headers["Retry-After"] == header


async def test_a_bug_is_500_with_a_name_for_the_log_and_nothing_else(api: Api) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    api.service.failure = ZeroDivisionError("a secret value")
    answer = await api.put(K, b"v", KV_Request_Id="req-1", traceparent=trace)
    assert (answer.status, answer.problem["type"]) == (500, "internal")
    assert answer.problem["outcome"] == "unknown"
    assert "req-1" in answer.problem["detail"]
    assert b"secret" not in answer.body
    assert b"ZeroDivision" not in answer.body
    ((event, fields),) = api.reports
    assert event == "request failed"
    assert (fields["request_id"], fields["trace"]) == ("req-1", trace)
    assert isinstance(fields["exc_info"], ZeroDivisionError)
    assert (await api.get(K)).status == 404, "the server goes on"


async def test_a_disk_that_fails_is_in_the_log_and_refusals_are_not(api: Api) -> None:
    for failure in (errors.CorruptRecord("bad"), errors.StorageFailed("worse")):
        api.service.failure = failure
        await api.get(K)
    assert [fields["reason"] for _, fields in api.reports] == ["bad", "worse"]
    for other in (errors.Overloaded("busy"), errors.QuorumNotMet("lost"), errors.StorageFull("full")):
        api.service.failure = other
        await api.get(K)
    assert len(api.reports) == 2


async def test_odd_text_in_an_error_survives(api: Api) -> None:
    api.service.failure = errors.NotReady('quote " line\r\nEvil: 1 \udcff')
    answer = await api.get(K)
    assert answer.problem["detail"] == 'quote " line\r\nEvil: 1 ?'
    assert "Evil" not in answer.headers


def test_an_error_of_tomorrow_has_the_answer_of_its_parent() -> None:
    class Tomorrow(errors.StaleRead):
        pass

    error = Tomorrow("x", outcome="failed")
    status = status_of(error, write=False)
    assert (status.code, status.type) == (503, "stale")
    assert headers_of(error, status) == "Retry-After: 1\r\n"
