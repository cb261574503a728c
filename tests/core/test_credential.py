"""Roles and buckets against a table of patterns, and what is kept of a token."""

from __future__ import annotations

from fnmatch import fnmatchcase

from hypothesis import given
from hypothesis import strategies as st

from kvstore.core.credential import ANYBODY, Credentials, Principal, Role, hash_of, only

NAMES = st.text("ab-", min_size=1, max_size=3)
PATTERNS = st.lists(st.one_of(NAMES, NAMES.map(lambda name: f"{name}*")), max_size=3)
ORDER = ["READ", "WRITE", "ADMIN"]


@given(st.sampled_from(Role), PATTERNS, st.sampled_from(Role), st.one_of(st.just(""), NAMES))
def test_who_may_what(role: Role, patterns: list[str], needed: Role, bucket: str) -> None:
    may = Principal("shop", role, tuple(patterns)).may(needed, bucket)
    goes_far_enough = needed.name in ORDER[: ORDER.index(role.name) + 1]
    if not patterns:
        covered = True
    elif bucket:
        covered = any(fnmatchcase(bucket, pattern) for pattern in patterns)
    else:
        covered = needed.name != "ADMIN"
    assert may == (goes_far_enough and covered)


def test_a_name_is_that_bucket_and_no_longer_one() -> None:
    principal = Principal("shop", Role.READ, ("carts",))
    assert principal.may(Role.READ, "carts")
    assert not principal.may(Role.READ, "carts2")
    assert not principal.may(Role.READ, "cart")


def test_where_no_credential_is_asked_for_everything_is_allowed() -> None:
    assert all(ANYBODY.may(role, bucket) for role in Role for bucket in ("", "users"))


@given(st.binary(min_size=1, max_size=60), st.binary(min_size=1, max_size=60))
def test_a_token_is_known_by_its_hash_alone(token: bytes, other: bytes) -> None:
    shop = Principal("shop", Role.READ)
    credentials = Credentials({hash_of(token): shop})
    assert credentials.principal(token) is shop
    assert (credentials.principal(other) is shop) == (token == other)
    assert token not in b"".join(credentials._principals) or len(token) < 3


def test_the_one_token_of_a_node_may_everything() -> None:
    found = Credentials(only("tökén", "client_token")).principal("tökén".encode())
    assert found == Principal("client_token", Role.ADMIN)
