"""What callers pass: nodes, tokens, counts, conditions, codecs. What is wrong says what to do."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.client import ALL, ANY, QUORUM, AsyncClient, Client, Codec, codecs
from kvstore.client.endpoints import credential, is_local, origins
from kvstore.client.options import ReadOptions, WriteOptions, read_query, write_query
from kvstore.errors import ConfigError, InvalidContext, InvalidRequest, KVStoreError
from kvstore.testing.fake import FakeClient


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ("http://a:1,b:2", ["http://a:1", "http://b:2"]),
        ("https://a:1, b:2 ,http://c", ["https://a:1", "https://b:2", "http://c:8001"]),
        ("a", ["http://a:8001"]),
        (["http://a:1/", "a:1", "b:2"], ["http://a:1", "http://b:2"]),
        ("[::1]:7,http://[fe80::1]", ["http://[::1]:7", "http://[fe80::1]:8001"]),
        ("A.example:1", ["http://a.example:1"]),
    ],
)
def test_nodes(nodes: Any, expected: list[str]) -> None:
    assert list(origins(nodes, {})) == expected


@pytest.mark.parametrize(
    "nodes",
    [
        "",
        ",",
        [],
        "ftp://a",
        "http://a/v1",
        "a:0",
        "a:99999",
        "a:x",
        "http://",
        "u:secret@a:1",
        "a b:1",
        [7],
        "http://[::1",
        "a?x=1",
        "a\nb",
        ["a"] * 0 + [f"h{i}" for i in range(1001)],
    ],
)
def test_what_is_no_node(nodes: Any) -> None:
    with pytest.raises(ConfigError) as raised:
        origins(nodes, {})
    assert raised.value.advice
    assert "secret" not in str(raised.value)


def test_nodes_and_token_come_from_the_environment() -> None:
    assert origins(None, {"KVSTORE_NODES": "a:1"}) == ("http://a:1",)
    with pytest.raises(ConfigError, match="no node"):
        origins(None, {})
    assert credential(None, {"KVSTORE_CLIENT_TOKEN": "t"}) == {"Authorization": "Bearer t"}
    assert credential("mine", {"KVSTORE_CLIENT_TOKEN": "t"}) == {"Authorization": "Bearer mine"}
    assert credential(None, {}) == {}


@pytest.mark.parametrize("token", ["a b", "a\n", "é"])
def test_a_token_that_no_header_takes(token: str) -> None:
    with pytest.raises(ConfigError) as raised:
        credential(token, {})
    assert token not in str(raised.value)


@pytest.mark.parametrize(
    ("origin", "local"),
    [
        ("http://127.0.0.1:1", True),
        ("http://127.9.9.9:1", True),
        ("http://[::1]:1", True),
        ("http://0.0.0.0:1", True),
        ("http://localhost:1", True),
        ("http://10.0.0.1:1", False),
        ("http://n1:1", False),
    ],
)
def test_local_addresses(origin: str, local: bool) -> None:
    assert is_local(origin) == local


@pytest.mark.parametrize("make", [AsyncClient, Client])
@pytest.mark.parametrize(
    "options", [{"timeout_s": 0}, {"timeout_s": 61}, {"connect_timeout_s": -1}, {"timeout_s": True}]
)
def test_times_that_make_no_sense(make: Any, options: Any) -> None:
    with pytest.raises(InvalidRequest):
        make("a:1", **options)


def test_queries() -> None:
    assert read_query(ReadOptions()) == ""
    assert read_query(ReadOptions(r=2, n=3, pr=1, monotonic=True)) == "?r=2&n=3&pr=1&read=monotonic"
    assert read_query(ReadOptions(r=QUORUM), 5) == "?r=3"
    assert read_query(ReadOptions(r=ALL, n=2), 5) == "?r=2&n=2"
    assert (
        write_query(WriteOptions(w=ANY, pw=0, dw=0, ttl_s=0, mode="sibling"))
        == "?w=1&pw=0&dw=0&ttl=0&mode=sibling"
    )
    assert write_query(WriteOptions(ttl_s=0.25)) == "?ttl=0.25"
    assert write_query(WriteOptions(w=2, sloppy=False), delete=True) == "?w=2&sloppy=false"
    assert read_query(ReadOptions(sloppy=True)) == "?sloppy=true"
    with pytest.raises(InvalidRequest, match="must be True or False"):
        read_query(ReadOptions(sloppy=1))  # type: ignore[arg-type]


@given(st.floats(0, 1e9))
def test_ttl_is_a_plain_number_for_the_node(ttl_s: float) -> None:
    text = write_query(WriteOptions(ttl_s=ttl_s)).removeprefix("?ttl=")
    assert abs(float(text) - ttl_s) <= 0.0006
    assert set(text) <= set("0123456789.")


bad_calls: list[dict[str, Any]] = [
    {"w": 0},
    {"w": "2"},
    {"w": True},
    {"n": 0},
    {"pw": -1},
    {"dw": 1.5},
    {"ttl_s": -1},
    {"ttl_s": float("nan")},
    {"ttl_s": float("inf")},
    {"ttl_s": "1"},
    {"mode": "fast"},
    {"if_match": ""},
    {"if_match": "a b"},
    {"if_match": 7},
    {"if_match": "a", "if_absent": True},
    {"meta": {"a b": "c"}},
    {"meta": {"a": "x\r\nInjected: 1"}},
    {"meta": {"": "c"}},
    {"meta": {"a": 7}},
    {"operation_id": "a b"},
    {"operation_id": "x" * 65},
    {"timeout_s": 0},
    {"timeout_s": "1"},
]


@pytest.mark.parametrize("options", bad_calls, ids=str)
async def test_a_put_that_makes_no_sense_goes_nowhere(options: dict[str, Any]) -> None:
    async with FakeClient() as kv:
        with pytest.raises(InvalidRequest):
            await kv.bucket("users").put("ann", b"1", **options)
        assert not kv.node.attempts


@pytest.mark.parametrize("context", ["", "a b", "x\r\nInjected: 1", "é", 7, "x" * 70_000])
async def test_what_is_no_context_goes_nowhere(context: Any) -> None:
    async with FakeClient() as kv:
        with pytest.raises(InvalidContext):
            await kv.bucket("users").put("ann", b"1", context=context)
        assert not kv.node.attempts


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("", {}),
        ("a/b", {}),
        (7, {}),
        ("b", {"codec": "jsn"}),
        ("b", {"r": 0}),
        ("b", {"r": ANY}),
        ("b", {"mode": "x"}),
        ("b", {"timeout_s": 0}),
    ],
)
def test_a_bucket_that_makes_no_sense(name: Any, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        FakeClient().bucket(name, **options)


def test_an_unknown_option_of_a_bucket_is_a_typo() -> None:
    with pytest.raises(TypeError, match="rr"):
        FakeClient().bucket("b", rr=2)  # type: ignore[call-overload]


def test_an_unknown_codec_is_named() -> None:
    with pytest.raises(InvalidRequest) as raised:
        codecs.named("jsn")
    assert "json" in raised.value.advice


@pytest.mark.parametrize(
    ("codec", "value"),
    [("raw", "text"), ("text", b"bytes"), ("json", {1, 2}), ("json", float("nan")), ("msgpack", object())],
)
async def test_a_value_that_the_codec_cannot_write(codec: str, value: Any) -> None:
    async with FakeClient() as kv:
        with pytest.raises(InvalidRequest, match="ann"):
            await kv.bucket("users", codec=codec).put("ann", value)
        assert not kv.node.attempts


async def test_a_value_that_is_not_what_it_says() -> None:
    async with FakeClient() as kv:
        liar: Codec[bytes] = Codec("liar", "application/json", bytes, bytes)
        await kv.bucket("users", codec=liar).put("ann", b"{broken")
        with pytest.raises(InvalidRequest, match="says it is application/json"):
            await kv.bucket("users", codec="json").get("ann")


def test_registering_a_codec() -> None:
    mine = Codec("test-hex", "text/x-hex", lambda v: v.hex().encode(), lambda d: bytes.fromhex(d.decode()))
    codecs.register(mine)
    codecs.register(mine)
    assert codecs.named("test-hex") is mine
    with pytest.raises(InvalidRequest):
        codecs.register(Codec("test-hex", "text/other", bytes, bytes))


values: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(values)
def test_json_and_msgpack_bring_values_back(value: Any) -> None:
    for codec in (codecs.JSON, codecs.MSGPACK):
        try:
            data = codec.to_bytes(value, "k")
        except KVStoreError:
            assert "\\ud" in ascii(value)  # a lone surrogate has no UTF-8
            continue
        assert codec.from_bytes(data, f"{codec.content_type}; charset=utf-8", "k") == value


def test_a_closed_client_says_so() -> None:
    client = Client("127.0.0.1:9")
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.bucket("b").get("k")
