"""Any bytes are a key, and reach the node as they are through both HTTP libraries."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st
from urllib3.util.url import _encode_target
from yarl import URL

from kvstore.client.names import check_bucket, encode_segment, key_bytes, partition_of
from kvstore.core import bucket as core_bucket
from kvstore.core import ring
from kvstore.errors import InvalidRequest
from kvstore.httpapi.target import decoded, split_target

keys = st.binary(min_size=1, max_size=64) | st.sampled_from(
    [b".", b"..", b"/", b"%", b"%2E", b"a/../b", b"?#"]
)


@given(keys)
def test_a_key_survives_the_path(key: bytes) -> None:
    target = f"/v1/kv/users/{encode_segment(key)}"
    for sent in (URL(f"http://h:1{target}", encoded=True).raw_path_qs, _encode_target(target)):
        assert sent == target
        path, query = split_target(sent)
        assert not query
        assert [decoded(segment) for segment in path.split("/")[1:]] == [b"v1", b"kv", b"users", key]
    assert unquote_to_bytes(encode_segment(key)) == key


def test_dots_alone_are_escaped() -> None:
    """A proxy may resolve them as RFC 3986 §5.2.4 has it, and then the request is for another key."""
    assert [encode_segment(key) for key in (b".", b"..", b"...", b"a.b")] == ["%2E", "%2E%2E", "...", "a.b"]


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_text_is_its_utf8(text: str) -> None:
    assert key_bytes(text) == text.encode()


@pytest.mark.parametrize("key", ["", b"", None, 7, ["a"], "\ud800"])
def test_what_is_no_key(key: Any) -> None:
    with pytest.raises(InvalidRequest):
        key_bytes(key)


@given(st.text(st.sampled_from("aZ0.-_~/ é%"), max_size=4) | st.sampled_from(["a" * 256, "a" * 257]))
def test_bucket_names_are_those_of_the_nodes(name: str) -> None:
    def refused(check: Any) -> bool:
        try:
            check(name)
        except InvalidRequest:
            return True
        return False

    assert refused(check_bucket) == refused(core_bucket.check_bucket_name)


@given(st.from_regex(r"[a-z][a-z0-9.]{0,8}", fullmatch=True), keys, st.sampled_from([1, 2, 256, 65_536]))
def test_partitions_are_those_of_the_nodes(bucket: str, key: bytes, partitions: int) -> None:
    assert partition_of(bucket, key, partitions) == ring.partition_of(ring.full_key(bucket, key), partitions)
