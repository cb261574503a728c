"""Whatever arrives becomes a record or one of our errors."""

from __future__ import annotations

import json
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.client import answers, problems
from kvstore.client.protocol import Reply, Request, judge
from kvstore.client.records import Receipt, Record, Sibling
from kvstore.client.retry import Effect, Fate
from kvstore.errors import KVStoreError, Overloaded, SiblingsError
from kvstore.httpapi import status_codes
from kvstore.httpapi.reply import http_date

RECEIPT = {"kv-acks": "2/3", "kv-request-id": "r"}

json_values: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
packed_values: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.binary(max_size=9)
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=10,
)
header_texts = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=30)
headers = st.dictionaries(
    st.sampled_from(
        ["kv-acks", "kv-request-id", "kv-hinted", "kv-layout", "retry-after", "last-modified", "etag"]
    ),
    header_texts,
)
problem_fields = st.dictionaries(
    st.sampled_from(["type", "outcome", "detail", "advice", "required", "replicas", "request_id"]),
    json_values,
)
bodies = (
    st.binary(max_size=60)
    | json_values.map(lambda value: json.dumps(value).encode())
    | problem_fields.map(lambda value: json.dumps(value).encode())
)
effects = st.sampled_from(Effect)


@given(effects, st.integers(100, 599), headers, bodies, st.booleans(), st.booleans())
def test_any_answer_is_a_success_or_an_error_that_claims_no_more_than_it_may(
    effect: Effect, status: int, headers: dict[str, str], body: bytes, is_problem: bool, data: bool
) -> None:
    if is_problem:
        headers = {**headers, "content-type": "application/problem+json"}
    request = Request("PUT", "/", {}, b"", effect, data=data)
    failed = judge(request, Reply(status, headers, body), "http://n1")
    if failed is None:
        assert status in (200, 300, 404) or 200 <= status < 300
        assert "kv-acks" in headers if data else "kv-request-id" in headers
        answers.receipt(headers)
        return
    error = failed.error
    assert isinstance(error, KVStoreError)
    assert str(error)
    assert error.outcome in ("failed", "unknown")
    assert 0 <= failed.retry_after_s <= 60
    if effect is Effect.READ:
        assert error.outcome == "failed"
    elif error.outcome == "failed" and status >= 500:
        # Only a node that says so, in a document of ours, can prove that nothing was applied.
        assert is_problem
    if failed.fate is Fate.FINAL:
        assert status < 500
    assert (failed.fate is Fate.UNKNOWN) <= (error.outcome == "unknown")


def test_every_problem_that_a_node_can_send_is_known() -> None:
    """An error of the tree comes out as the class it went in as, or as one that says as much."""
    for row in status_codes.STATUSES:
        assert row.type in problems._BY_SLUG, f"{row.type} has no class"
    for kind, row in status_codes.TABLE.items():
        found = problems._BY_SLUG[row.type]
        if kind.__module__ == "kvstore.errors" and issubclass(kind, KVStoreError):
            assert issubclass(kind, found) or issubclass(found, kind) or kind.__name__ == "StorageFailed"


def test_retry_after_is_kept_with_the_error() -> None:
    headers = {"retry-after": "3", "content-type": "application/problem+json"}
    failed = problems.failed(Effect.READ, 503, headers, b'{"type": "overloaded"}', "n")
    assert isinstance(failed.error, Overloaded)
    assert (failed.error.retry_after_s, failed.retry_after_s) == (3.0, 3.0)


@given(st.integers(200, 404), packed_values, st.text(max_size=9))
def test_any_body_is_read_or_refused(status: int, value: Any, junk: str) -> None:
    for body in (msgpack.packb(value), junk.encode()):
        reply = Reply(status, RECEIPT, body)
        for read in (answers.siblings, answers.document, answers.properties,
                     lambda r: answers.page(r, "b"), lambda r: answers.batch(r, 1)):  # fmt: skip
            try:
                read(reply)
            except KVStoreError as error:
                assert "does not parse" in str(error)  # noqa: PT017 - most bodies are refused, some are not


@given(
    st.lists(
        st.fixed_dictionaries({"status": packed_values, "headers": packed_values}), min_size=1, max_size=3
    )
)
def test_entries_of_a_batch_are_replies_or_refused(entries: list[Any]) -> None:
    try:
        replies = answers.batch(Reply(200, RECEIPT, msgpack.packb(entries)), len(entries))
    except KVStoreError:
        return
    for reply in replies:
        judge(Request("GET", "/", {}, b"", Effect.READ, data=True), reply, "n")


@given(st.integers(0, 253_402_300_799))
def test_the_dates_that_nodes_write_are_read(second: int) -> None:
    unix_ms = second * 1000
    found = answers.siblings(Reply(200, {**RECEIPT, "last-modified": http_date(unix_ms)}, b""))
    assert found[0].modified_ms == unix_ms


@pytest.mark.parametrize(
    "text", ["", "yesterday", "Sun, 06 Nov 1994", "Sun, 99 Nov 1994 08:49:37 GMT", "x" * 29]
)
def test_other_dates_are_no_dates(text: str) -> None:
    (found,) = answers.siblings(Reply(200, {**RECEIPT, "last-modified": text}, b""))
    assert found.modified is None


def record(*values: int) -> Record[int]:
    siblings = tuple(Sibling(v, str(v), modified_ms=v, meta={"v": str(v)}) for v in values)
    return Record(siblings, Receipt(context="c", etag="e"), key="k")


def test_missing_found_and_conflicted_are_three_things() -> None:
    assert (record().found, record().conflicted, record().value) == (False, False, None)
    assert (record(1).found, record(1).conflicted, record(1).value) == (True, False, 1)
    several = record(1, 3, 2)
    assert (several.found, several.conflicted) == (True, True)
    with pytest.raises(SiblingsError) as raised:
        _ = several.value
    assert raised.value.siblings == (1, 3, 2)
    assert raised.value.context == "c"
    assert several.meta == {"v": "3"}
