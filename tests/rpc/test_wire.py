"""The bytes of messages: nothing is lost, versions understand each other, nonsense is refused."""

from __future__ import annotations

import tracemalloc
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.core.gossip_message import Gossip
from kvstore.core.message import (
    REPLY_OF,
    Get,
    Got,
    Held,
    Propose,
    Put,
    Read,
    Reply,
    Request,
    Store,
    Stored,
)
from kvstore.errors import InvalidRequest, KVStoreError, Overloaded, QuorumNotMet
from kvstore.rpc import wire
from kvstore.rpc.decoding import ITEMS_MAX, MalformedFrame, decoder, messages_of
from tests.rpc.support import values_of

REQUESTS = st.sampled_from(list(REPLY_OF)).flatmap(values_of)
REPLIES = st.sampled_from(sorted(set(REPLY_OF.values()), key=lambda cls: cls.__name__)).flatmap(values_of)
ANY_CLASS = sorted({*REPLY_OF, *REPLY_OF.values()}, key=lambda cls: cls.__name__)
NUMBER = {cls: number for number, cls in enumerate(REPLY_OF)}
REQUEST_OF = {reply: request for request, reply in REPLY_OF.items()}


def unpack(*messages: bytes) -> tuple[Any, ...]:
    """What a receiver makes of these encoded messages, sent in one payload."""
    return messages_of(memoryview(b"\xdc" + len(messages).to_bytes(2, "big") + b"".join(messages)))


def decode(cls: Any, fields: Any) -> Any:
    """As a node does it that receives `cls`, be it a request or a reply."""
    if cls in NUMBER:
        return wire.REQUEST_DECODERS[NUMBER[cls]](fields)
    return wire.ROUTES[REQUEST_OF[cls]][1](fields)


# --- there and back -----------------------------------------------------------------------------------


@given(REQUESTS, st.integers(0, wire.CALL_ID_MAX), st.integers(1, 10**6), st.sampled_from([0, 1, 2]))
def test_a_request_arrives_as_it_was_sent(request: Request, call_id: int, ms: int, class_: int) -> None:
    encoded = wire.encode_request(call_id, NUMBER[type(request)], ms / 1000, class_, request)
    (message,) = unpack(encoded)
    got_id, number, deadline_ms, got_class, fields = wire.open_request(message)
    assert (got_id, got_class) == (call_id, class_)
    assert abs(deadline_ms - ms) <= 1
    received = wire.REQUEST_DECODERS[number](fields)
    assert type(received) is type(request)
    assert received == request


@given(REPLIES, st.integers(0, wire.CALL_ID_MAX))
def test_a_reply_arrives_as_it_was_sent(reply: Reply, call_id: int) -> None:
    (message,) = unpack(wire.encode_answer(call_id, reply))
    got_id, status, fields = wire.open_reply(message)
    assert (got_id, status) == (call_id, 0)
    received = decode(type(reply), fields)
    assert type(received) is type(reply)
    assert received == reply
    assert same_types(received, reply)


def same_types(a: Any, b: Any) -> bool:
    """1 == True == 1.0, but a receiver that mixes them up has lost something."""
    if isinstance(a, tuple):
        return type(a) is type(b) and all(map(same_types, a, b))
    return type(a) is type(b)


@given(st.lists(REQUESTS, max_size=5))
def test_the_messages_of_a_payload_come_in_order(requests: list[Request]) -> None:
    encoded = [wire.encode_request(i, NUMBER[type(r)], 1.0, 0, r) for i, r in enumerate(requests)]
    assert [message[0] for message in unpack(*encoded)] == list(range(len(requests)))


def test_the_bytes_are_those_of_version_1() -> None:
    """Whoever changes these breaks rolling upgrades: append fields, append classes, change nothing."""
    read = wire.encode_request(7, NUMBER[Read], 0.5, 0, Read(3, b"k", b"d"))
    assert read.hex() == "95ce0000000702ce000001f400" + "9303c4016bc40164"
    assert wire.encode_answer(7, Held(False, b"s")).hex() == "93ce0000000700" + "92c2c40173"
    first = "Get Put Read Store Scan Gossip FetchCluster Propose Commit Release StoreBucket FetchBucket"
    assert " ".join(cls.__name__ for cls in REPLY_OF).startswith(first)


@pytest.mark.parametrize("deadline_s", [5.0, 0.0004, 0.0, -1.0])
def test_a_deadline_is_corrected_in_place(deadline_s: float) -> None:
    encoded = wire.encode_request(9, NUMBER[Read], 30.0, 1, Read(1, b"key"))
    (message,) = unpack(wire.with_deadline(encoded, deadline_s))
    assert message[2] == (0 if deadline_s <= 0 else max(1, int(deadline_s * 1000)))
    assert message[:2] + message[3:] == unpack(encoded)[0][:2] + unpack(encoded)[0][3:]


def test_a_deadline_beyond_all_measure_is_capped() -> None:
    (message,) = unpack(wire.encode_request(9, NUMBER[Read], 1e9, 1, Read(1, b"key")))
    assert message[2] == wire.DEADLINE_MS_MAX


# --- versions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", ANY_CLASS)
@settings(max_examples=10)  # of each class
@given(st.data())
def test_what_a_newer_release_appends_is_ignored(cls: Any, data: st.DataObject) -> None:
    """B27. `extra` are fields that this release does not have."""
    value = data.draw(values_of(cls))
    extra = data.draw(st.lists(st.one_of(st.none(), st.integers(0, 9), st.binary(max_size=3)), min_size=1))
    (fields,) = unpack(msgpack.packb([*value, *extra]))
    assert decode(cls, fields) == value


@pytest.mark.parametrize("cls", ANY_CLASS)
@settings(max_examples=10)  # of each class
@given(st.data())
def test_what_an_older_release_does_not_send_takes_its_default(cls: Any, data: st.DataObject) -> None:
    """B27."""
    value = data.draw(values_of(cls))
    sent = data.draw(st.integers(len(cls._fields) - len(cls._field_defaults), len(cls._fields)))
    (fields,) = unpack(msgpack.packb(value[:sent]))
    assert decode(cls, fields) == cls(*value[:sent])


def test_nested_values_grow_too() -> None:
    """A Member inside a Layout inside a Propose that a newer release gave one more field."""
    member = ["n" * 32, "name", "127.0.0.1:1", "127.0.0.1:2", "", "", 1, 1, "new"]
    (fields,) = unpack(msgpack.packb([[1, [member], [[0]], "cluster", "new"], "p" * 32, "new"]))
    propose = decode(Propose, fields)
    assert propose.layout.members[0]._fields[-1] == "incarnation"
    assert propose.proposer == "p" * 32


@pytest.mark.parametrize(("cls", "fields"), [(Read, [1]), (Held, []), (Got, [b"", False]), (Gossip, [])])
def test_a_field_without_a_default_must_be_there(cls: Any, fields: list[Any]) -> None:
    with pytest.raises(MalformedFrame, match=f"{cls.__name__} without"):
        decode(cls, tuple(fields))


def test_envelopes_grow_too() -> None:
    assert wire.open_request((1, 2, 3, 0, (), "new")) == (1, 2, 3, 0, ())
    assert wire.open_reply((1, 0, (), "new")) == (1, 0, ())


# --- nonsense -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "fields", "where"),
    [
        (Read, (True, b"k"), "Read.partition"),
        (Read, (1, "k"), "Read.key"),
        (Read, (1.0, b"k"), "Read.partition"),
        (Store, (1, b"k", b"s", 1), "Store.sync"),
        (Held, (0, b""), "Held.same"),
        (Get, ("b", b"k", "3"), "Get.n"),
        (Put, ("b", b"k", b"v", False, "t", (("a",),)), "Put.metadata"),
        (Put, ("b", b"k", b"v", False, "t", ("ab",)), "Put.metadata"),
        (Got, (b"", False, ("c", 3, 2, 2, (("n", float("nan"), "ok"),))), "Got.receipt: Receipt.replicas"),
        (Got, (b"", False, None), "Got.receipt"),
    ],
)
def test_a_field_of_another_type_is_refused_by_name(cls: Any, fields: Any, where: str) -> None:
    with pytest.raises(MalformedFrame, match=where):
        decode(cls, fields)


def test_a_whole_number_passes_for_a_float() -> None:
    got = decode(Got, (b"", False, ("c", 3, 2, 2, (("n", 7, "ok"),))))
    assert got.receipt.replicas == (("n", 7.0, "ok"),)
    assert type(got.receipt.replicas[0][1]) is float


SOUP = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-3, 300),
        st.floats(),
        st.binary(max_size=4),
        st.text(max_size=3),
    ),
    lambda inner: st.lists(inner, max_size=6).map(tuple),
    max_leaves=12,
)


@pytest.mark.parametrize("cls", ANY_CLASS)
@settings(max_examples=10)  # of each class
@given(SOUP)
def test_anything_decodes_to_the_class_or_is_malformed(cls: Any, fields: Any) -> None:
    try:
        value = decode(cls, fields)
    except MalformedFrame:
        return
    assert type(value) is cls
    assert len(value) == len(cls._fields)


@pytest.mark.parametrize("cls", [Read, Held, Store, Stored])
@given(st.data())
def test_decoding_by_hand_agrees_with_the_annotations(cls: Any, data: st.DataObject) -> None:
    whole = values_of(cls).map(tuple)
    nearly = st.tuples(whole, st.integers(0, 6), SOUP).map(lambda t: (*t[0][: t[1]], t[2], *t[0][t[1] + 1 :]))
    fields = data.draw(st.one_of(whole, nearly, SOUP))
    outcomes = []
    for one in (decode, lambda cls, fields: decoder(cls)(fields)):
        try:
            outcomes.append(repr(one(cls, fields)))
        except MalformedFrame as error:
            outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]


@given(SOUP)
def test_any_envelope_opens_or_is_malformed(message: Any) -> None:
    for opened in (wire.open_request, wire.open_reply):
        try:
            envelope: Any = opened(message)
        except MalformedFrame:
            continue
        assert all(type(number) is int and number >= 0 for number in envelope[:2])


@pytest.mark.parametrize(
    "payload",
    [
        b"\xc1",  # never used
        b"\x93\x01",  # three elements announced, one there
        b"\x81\xa1a\x01",  # a map
        b"\xd4\x05\x00",  # an extension of one byte
        b"\xc7\x00\x05",  # an empty extension
        b"\xd6\xff\x00\x00\x00\x00",  # a timestamp
        b"\xa2\xff\xff",  # a string that is not UTF-8
        b"\xdd\xff\xff\xff\xff",  # 4 billion elements announced
        b"\xdc\x20\x01" + b"\xc0" * (ITEMS_MAX + 1),  # one element more than allowed
        b"\x01\x02",  # two where one was announced
        b"\xc6\xff\xff\xff\xff",  # 4 GiB announced
        b"\x91" * 2000,  # nested beyond the stack
        b"\x01\xa5ab",  # a whole message, then a cut one
    ],
)
def test_bytes_outside_the_bounds_are_malformed(payload: bytes) -> None:
    with pytest.raises(MalformedFrame):
        unpack(payload)


def test_a_bomb_takes_bounded_memory() -> None:
    """Each of 1,000 nested arrays announces as many elements as it may."""
    bomb = b"\xdc\x20\x00" * 1000
    tracemalloc.start()
    try:
        with pytest.raises(MalformedFrame):
            unpack(bomb)
        assert tracemalloc.get_traced_memory()[1] < 80 << 20
    finally:
        tracemalloc.stop()


def test_a_payload_is_an_array() -> None:
    with pytest.raises(MalformedFrame, match="not an array"):
        messages_of(memoryview(b"\x01"))


# --- errors on the wire ---------------------------------------------------------------------------------


def sent(error: KVStoreError) -> Any:
    (message,) = unpack(wire.encode_failure(5, wire.failure_of(error)))
    call_id, status, fields = wire.open_reply(message)
    assert (call_id, status) == (5, 1)
    return wire.refused(fields)


def test_an_error_keeps_its_class_its_text_and_its_counts() -> None:
    replicas = (("n1", "ok"), ("n2", "PeerTimeout"))
    refusal = sent(
        QuorumNotMet(required=2, received=1, asked=3, hinted=1, replicas=replicas, advice="try again")
    )
    assert refusal.code == "QuorumNotMet"
    assert refusal.detail == "1 of 3 replicas answered, 2 needed"
    assert (refusal.outcome, refusal.advice) == ("unknown", "try again")
    assert refusal.problem == {
        "required": 2,
        "received": 1,
        "asked": 3,
        "hinted": 1,
        "replicas": replicas,
    }
    assert sent(Overloaded("full", retry_after_s=2.5)).problem == {"retry_after_s": 2.5}
    assert sent(InvalidRequest("no")).outcome == "failed"


def test_an_error_text_may_be_anything() -> None:
    assert sent(InvalidRequest("a lone surrogate \ud800")).detail == "a lone surrogate ?"
    assert len(sent(InvalidRequest("x" * 10**6)).detail) == wire.DETAIL_CHARACTERS_MAX
    assert sent(QuorumNotMet(replicas=(("\ud800", "ok"),))).code == "QuorumNotMet"


@given(SOUP)
def test_any_refusal_is_an_error_or_malformed(fields: Any) -> None:
    try:
        error = wire.refused(fields)
    except MalformedFrame:
        return
    assert type(error.code) is str
