"""Messages are what rpc/wire.py can carry, and every request has its reply."""

from __future__ import annotations

import inspect
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest

from kvstore.core import gossip_message, message, upkeep_message
from kvstore.core.message import REPLY_OF, Reply, Request

PLAIN = (int, float, str, bytes, bool, NoneType)
MESSAGES: list[type[Any]] = [*get_args(Request), *get_args(Reply)]


def _is_named_tuple(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields")


def _nested(kind: Any) -> list[Any]:
    """What an annotation is made of, down to the plain types."""
    if get_origin(kind) in (UnionType, Union):
        assert len([part for part in get_args(kind) if part is not NoneType]) == 1, (
            f"{kind}: which one is it?"
        )
        return [leaf for part in get_args(kind) for leaf in _nested(part)]
    if get_origin(kind) is tuple:
        return [leaf for part in get_args(kind) if part is not Ellipsis for leaf in _nested(part)]
    if _is_named_tuple(kind):
        return [leaf for part in get_type_hints(kind).values() for leaf in _nested(part)]
    return [kind]


def test_every_request_has_a_reply_and_every_reply_a_request() -> None:
    assert set(REPLY_OF) == set(get_args(Request))
    assert set(REPLY_OF.values()) == set(get_args(Reply))


def test_every_message_of_the_module_is_a_request_a_reply_or_a_part_of_one() -> None:
    """One that is in neither union could be built, and never be sent."""
    defined = {
        kind
        for module in (message, upkeep_message, gossip_message)
        for _, kind in inspect.getmembers(module, _is_named_tuple)
        if kind.__module__ == module.__name__
    }
    parts = {message.Receipt, message.BucketRecord}
    assert defined == set(MESSAGES) | parts


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
def test_fields_are_plain_or_tuples_of_plain(kind: type[Any]) -> None:
    """The annotations are the description of the bytes: no list, no dict, no choice of two types."""
    for name, annotation in get_type_hints(kind).items():
        for leaf in _nested(annotation):
            assert leaf in PLAIN, f"{kind.__name__}.{name}: {leaf}"


def test_no_class_is_a_request_and_a_reply() -> None:
    assert not set(get_args(Request)) & set(get_args(Reply))


def test_the_order_of_requests_is_the_one_on_the_wire() -> None:
    """A new request goes last: an older peer knows the others by their positions."""
    names = ", ".join(kind.__name__ for kind in REPLY_OF)
    known = "Get, Put, Read, Store, Scan, Gossip, FetchCluster, Propose, Commit, Release, StoreBucket"
    assert names.startswith(f"{known}, FetchBucket")
