"""The lines of import and export: what is written is read back, and what is malformed says why."""

from __future__ import annotations

import io
import json
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.cli.records import Record, Value, format_of, parse, read, write
from kvstore.errors import InvalidRequest

texts = st.text(max_size=20)
values = st.builds(Value, st.binary(max_size=40), texts, st.dictionaries(texts, texts, max_size=3))
some_records = st.lists(
    st.builds(
        Record, st.binary(min_size=1, max_size=20), st.lists(values, min_size=1, max_size=3).map(tuple)
    ),
    max_size=8,
)
forms = st.sampled_from(["jsonl", "msgpack"])


@given(some_records, forms)
def test_what_was_written_is_read_back(written: list[Record], form: str) -> None:
    stream = io.BytesIO(b"".join(write(record, form) for record in written))
    assert [parse(raw) for _, raw in read(stream, form)] == written


@given(some_records, forms, st.data())
def test_reading_can_go_on_at_every_place(written: list[Record], form: str, data: st.DataObject) -> None:
    whole = b"".join(write(record, form) for record in written)
    places = [place for place, _ in read(io.BytesIO(whole), form)]
    if not places:
        return
    at = data.draw(st.sampled_from(places))
    rest = list(read(io.BytesIO(whole), form, at.start, at.number - 1))
    assert [place for place, _ in rest] == places[at.number - 1 :]
    assert [parse(raw) for _, raw in rest] == written[at.number - 1 :]


@pytest.mark.parametrize(
    ("record", "data", "content_type"),
    [
        ({"key": "k", "value": "text"}, b"text", "text/plain; charset=utf-8"),
        ({"key": "k", "value": ""}, b"", "text/plain; charset=utf-8"),
        ({"key": "k", "value_base64": "AAE="}, b"\0\1", "application/octet-stream"),
        ({"key": "k", "value": {"a": [1, "é"]}}, '{"a": [1, "é"]}'.encode(), "application/json"),
        ({"key": "k", "value": None}, b"null", "application/json"),
        ({"key": "k", "value": "<p>", "content_type": "text/html"}, b"<p>", "text/html"),
        ({"key_base64": "aw==", "value": "v"}, b"v", "text/plain; charset=utf-8"),
    ],
)
def test_what_a_value_is_stored_as(record: dict[str, Any], data: bytes, content_type: str) -> None:
    parsed = parse(json.dumps(record).encode())
    assert parsed == Record(b"k", (Value(data, content_type, {}),))


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "a map, not list"),
        (b"{}", "key is missing"),
        (b'{"key": "", "value": "v"}', "key is missing or empty"),
        (b'{"key": 1, "value": "v"}', "key must be a text"),
        (b'{"key": "k"}', "value is missing"),
        (b'{"key": "k", "vlaue": "v"}', "unknown field 'vlaue'"),
        (b'{"key": "k", "value": "v", "value_base64": "AA=="}', "both there"),
        (b'{"key": "k", "value_base64": "?"}', "not base64"),
        (b'{"key": "k", "value": "v", "meta": {"a": 1}}', "meta must be"),
        (b'{"key": "k", "value": "v", "meta": "a"}', "meta must be"),
        (b'{"key": "k", "value": "v", "content_type": 7}', "content_type"),
        (b'{"key": "k", "siblings": []}', "siblings"),
        (b'{"key": "k", "siblings": [1]}', "siblings"),
        (b'{"key": "\\ud800", "value": "v"}', "lone surrogate"),
        ({"key": "k", "value": [b"\xff"]}, "no JSON"),
    ],
)
def test_what_is_malformed_says_why(record: Any, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        parse(record)


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_msgpack_file_that_is_cut_off_is_told_from_one_that_ends(cut: int) -> None:
    whole = write(Record(b"k", (Value(b"v" * 10, "t", {}),)), "msgpack") * 2
    records = read(io.BytesIO(whole[:-cut]), "msgpack")
    assert next(records)[0].number == 1
    with pytest.raises(InvalidRequest, match=r"record 2 at byte \d+ is cut off"):
        next(records)


def test_what_is_not_msgpack_is_named_with_its_place() -> None:
    with pytest.raises(InvalidRequest, match="record 2 at byte 1 is not msgpack"):
        list(read(io.BytesIO(b"\x80\xc1"), "msgpack"))


def test_a_length_that_nobody_has_takes_no_memory() -> None:
    with pytest.raises(InvalidRequest, match="record 1 at byte 0"):
        list(read(io.BytesIO(b"\xc6\xff\xff\xff\xff" + b"x" * 100), "msgpack"))


def test_empty_lines_count_as_lines_and_not_as_records() -> None:
    stream = io.BytesIO(b'{"key":"a"}\n\n{"key":"b"}')
    assert [place for place, _ in read(stream, "jsonl")] == [(0, 12, 1), (13, 24, 3)]


def test_the_name_tells_the_form() -> None:
    assert [format_of(name) for name in ("a.msgpack", "a.mp", "a.jsonl", "a.txt", "-")] == [
        *("msgpack", "msgpack", "jsonl", "jsonl", "jsonl")
    ]


def test_bytes_in_msgpack_need_no_base64() -> None:
    packed = write(Record(b"\xff", (Value(b"\0", "t", {}),)), "msgpack")
    assert msgpack.unpackb(packed) == {"key": b"\xff", "value": b"\0", "content_type": "t"}
