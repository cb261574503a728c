"""Bucket properties: what combines, what contradicts, and what the refusal says."""

# ruff: noqa: N802 (the bugs are called B2, B22)
from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.core.bucket import BucketProperties, check_bucket_name, properties_from
from kvstore.core.quorum import Quorum, majority
from kvstore.errors import InvalidRequest

DEFAULT = BucketProperties()


# --- precedence -----------------------------------------------------------------------------------------


@given(st.integers(1, 7))
def test_a_bucket_that_names_only_n_reads_and_writes_majorities(n: int) -> None:
    quorum = BucketProperties(n=n).default_quorum
    assert quorum == Quorum(n, majority(n), majority(n))
    assert quorum.overlaps


def test_request_goes_before_bucket_and_bucket_before_node() -> None:
    bucket = properties_from({"r": 1, "pw": 1}, base=BucketProperties(n=5, r=4, w=4))
    assert bucket.default_quorum == Quorum(5, 1, 4, 0, 1)
    assert bucket.quorum(w=2) == Quorum(5, 1, 2, 0, 1)
    assert bucket.quorum(r=5, pr=5, pw=0) == Quorum(5, 5, 4, 5, 0)
    assert bucket.default_quorum == Quorum(5, 1, 4, 0, 1), "a request changes nothing for the next"


def test_a_request_for_fewer_homes_gets_the_majority_of_those() -> None:
    assert BucketProperties(n=5).quorum(n=3) == Quorum(3, 2, 2)
    assert BucketProperties(n=5).quorum(n=1) == Quorum(1, 1, 1)


def test_a_zero_of_a_request_is_a_count_and_not_a_default() -> None:
    with pytest.raises(InvalidRequest, match="r=0"):
        DEFAULT.quorum(r=0)
    assert BucketProperties(pr=1).quorum(pr=0).pr == 0


@given(st.integers(-1, 6), *[st.none() | st.integers(-1, 6)] * 5)
def test_a_request_has_valid_counts_or_is_refused(
    n: int, n_wanted: int | None, r: int | None, w: int | None, pr: int | None, pw: int | None
) -> None:
    try:
        quorum = BucketProperties(n=n).quorum(n=n_wanted, r=r, w=w, pr=pr, pw=pw)
    except InvalidRequest:
        return
    assert 1 <= quorum.r <= quorum.n <= n
    assert 1 <= quorum.w <= quorum.n
    for wanted, given_ in (
        (n_wanted, quorum.n),
        (r, quorum.r),
        (w, quorum.w),
        (pr, quorum.pr),
        (pw, quorum.pw),
    ):
        assert wanted in (None, given_)


# --- contradictions -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"n": 0}, "n=0 must be at least 1"),
        ({"n": 3, "r": 4}, "r=4 must lie between 1 and n=3"),
        ({"n": 3, "w": 4}, "w=4 must lie between 1 and n=3"),
        ({"r": -1}, "r=-1 must lie between 1 and n=3"),
        ({"pr": 3}, "pr=3 must lie between 0 and r=2"),
        ({"w": 1, "pw": 2}, "pw=2 must lie between 0 and w=1"),
        ({"conflict": "newest"}, "conflict='newest' must be one of siblings, last-write-wins"),
        ({"blind": "yes"}, "blind='yes' must be one of overwrite, sibling, reject"),
        ({"durability": ""}, "durability='' must be one of sync, async"),
        ({"ttl_s": -1.0}, "ttl_s=-1.0"),
        ({"requests_per_s": -1.0}, "requests_per_s=-1.0 must be 0 .any. or 0.001 to"),
        ({"requests_per_s": 1e-9}, "requests_per_s=1e-09"),
        ({"requests_per_s": float("nan")}, "requests_per_s=nan"),
        ({"requests_per_s": float("inf")}, "requests_per_s=inf"),
        ({"ttl_s": 0.0001}, "ttl_s=0.0001 must be 0 .never. or lie between 1 ms and 100 years"),
        ({"ttl_s": float("nan")}, "ttl_s=nan"),
        ({"ttl_s": float("inf")}, "ttl_s=inf"),
        ({"ttl_s": 10**400}, "ttl_s=inf"),
        ({"conflict": "last-write-wins", "blind": "reject"}, "blind=reject.*set blind=overwrite"),
        ({"conflict": "last-write-wins", "blind": "sibling"}, "blind=sibling.*set blind=overwrite"),
    ],
)
def test_B22_properties_that_contradict_each_other_are_refused_by_name(
    values: dict[str, Any], named: str
) -> None:
    with pytest.raises(InvalidRequest, match=named):
        properties_from(values, DEFAULT)


def test_B22_a_change_that_contradicts_what_the_bucket_has_is_refused() -> None:
    """Each half is fine alone."""
    bucket = properties_from({"w": 3, "blind": "reject"}, DEFAULT)
    with pytest.raises(InvalidRequest, match="w=3 must lie between 1 and n=2"):
        properties_from({"n": 2}, bucket)
    with pytest.raises(InvalidRequest, match="set blind=overwrite"):
        properties_from({"conflict": "last-write-wins"}, bucket)


def test_a_request_cannot_reach_for_more_homes_than_the_bucket_has() -> None:
    with pytest.raises(InvalidRequest, match="n=4 is more than the bucket's n=3") as refusal:
        DEFAULT.quorum(n=4)
    assert "raise n in the bucket's properties" in refusal.value.advice


def test_a_request_for_fewer_homes_than_the_bucket_writes_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="w=4 must lie between 1 and n=3"):
        BucketProperties(n=5, w=4).quorum(n=3)


# --- names and types ------------------------------------------------------------------------------------


def test_what_was_set_comes_back() -> None:
    values = {
        "n": 5,
        "r": 1,
        "w": 5,
        "pr": 1,
        "pw": 2,
        "conflict": "last-write-wins",
        "blind": "overwrite",
        "durability": "async",
        "ttl_s": 1.5,
        "sloppy": False,
        "requests_per_s": 0.5,
    }
    assert properties_from(values, DEFAULT).as_dict() == values
    assert properties_from({}, DEFAULT) == DEFAULT


def test_whole_seconds_are_seconds() -> None:
    assert properties_from({"ttl_s": 60}, DEFAULT).ttl_s == 60.0


@pytest.mark.parametrize(
    ("wrong", "meant"), [("ttl", "ttl_s"), ("durabilty", "durability"), ("conflicts", "conflict"), ("N", "n")]
)
def test_an_unknown_property_gets_the_one_that_was_meant_or_all(wrong: str, meant: str) -> None:
    with pytest.raises(InvalidRequest, match=f"unknown bucket property '{wrong}'") as refusal:
        properties_from({wrong: 1}, DEFAULT)
    assert meant in refusal.value.advice


def test_a_name_that_is_close_to_one_property_gets_a_question() -> None:
    with pytest.raises(InvalidRequest) as refusal:
        properties_from({"durabilty": "sync"}, DEFAULT)
    assert refusal.value.advice == "did you mean 'durability'?"


@pytest.mark.parametrize("name", ["default_quorum", "last_write_wins", "quorum", "__class__"])
def test_what_is_derived_cannot_be_set(name: str) -> None:
    with pytest.raises(InvalidRequest, match="unknown bucket property"):
        properties_from({name: 1}, DEFAULT)


@pytest.mark.parametrize(
    "values",
    [
        {"n": "3"},
        {"n": True},
        {"n": 3.0},
        {"n": None},
        {"conflict": None},
        {"conflict": ["siblings"]},
        {"blind": False},
        {"ttl_s": "60"},
        {"ttl_s": True},
    ],
)
def test_a_value_of_the_wrong_type_is_refused_with_the_type_that_was_meant(values: dict[str, Any]) -> None:
    (name,) = values
    with pytest.raises(InvalidRequest, match=f"{name}=.* must be of type"):
        properties_from(values, DEFAULT)


def test_a_refusal_repeats_only_the_beginning_of_what_was_sent() -> None:
    for values in ({"x" * 100_000: 1}, {"conflict": "x" * 100_000}, {"n": "x" * 100_000}):
        with pytest.raises(InvalidRequest) as refusal:
            properties_from(values, DEFAULT)
        assert len(refusal.value.detail) < 200


@pytest.mark.parametrize("name", ["a", "Z9", "0", "users.v1_~-", "x" * 256])
def test_bucket_names_of_the_form_pass(name: str) -> None:
    check_bucket_name(name)


@pytest.mark.parametrize(
    "name", ["", ".", ".a", "-a", "_a", "a b", "a/b", "a\0", "a\n", "é", "x" * 257, "x" * 100_000]
)
def test_bucket_names_of_another_form_are_refused_with_the_form(name: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        check_bucket_name(name)
    assert "1 to 256 letters, digits" in refusal.value.advice
    assert len(refusal.value.detail) < 400
