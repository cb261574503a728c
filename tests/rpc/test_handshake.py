"""Who gets in, who does not, and what both are told. Both sides run here, byte by byte, without a socket."""

from __future__ import annotations

import random
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.errors import ConfigError
from kvstore.rpc.handshake import Established, Handshake, HandshakeFailed
from kvstore.rpc.identity import Identity
from tests.rpc.support import ANN, BOB, CARL, identity


def client(who: Identity | None = None, **options: Any) -> Handshake:
    return Handshake(who or identity(ANN), client=True, address="bob:1", **options)


def server(who: Identity | None = None, **options: Any) -> Handshake:
    return Handshake(who or identity(BOB), client=False, address="ann:2", **options)


def shake(one: Handshake, other: Handshake, part: int = 10**9) -> tuple[Established, Established]:
    """Carries bytes to and fro in parts of this size until both are done. Raises what either raises."""
    to_other, to_one = one.start(), b""
    while to_other or to_one:
        answers = b""
        while to_other:
            answers += other.feed(to_other[:part])
            to_other = to_other[part:]
        to_one += answers
        while to_one:
            to_other += one.feed(to_one[:part])
            to_one = to_one[part:]
    assert one.established is not None
    assert other.established is not None
    return one.established, other.established


def refusals(one: Handshake, other: Handshake) -> tuple[HandshakeFailed, HandshakeFailed]:
    """What each side is left with when they do not come together; whoever refuses tells the other."""
    data, to, sender = one.start(), other, one
    while data:
        outcome = fed(to, data)
        if isinstance(outcome, HandshakeFailed):
            told = fed(sender, outcome.farewell)
            assert isinstance(told, HandshakeFailed)
            assert (outcome.by_peer, told.by_peer) == (False, True)
            return (told, outcome) if to is other else (outcome, told)
        data, to, sender = outcome, sender, to
    raise AssertionError("they did come together")


def fed(side: Handshake, data: bytes) -> bytes | HandshakeFailed:
    try:
        return side.feed(data)
    except HandshakeFailed as failure:
        return failure


@pytest.mark.parametrize("part", [1, 7, 10**9])
def test_two_nodes_with_one_key_learn_who_the_other_is(part: int) -> None:
    ann, bob = shake(client(identity(ANN, incarnation=7)), server(), part)
    assert (ann.node_id, ann.cluster_id, ann.version) == (BOB, "a-cluster", 1)
    assert (bob.node_id, bob.incarnation) == (ANN, 7)


def test_each_direction_of_each_connection_has_its_own_key() -> None:
    ann, bob = shake(client(), server())
    assert (ann.send_key, ann.receive_key) == (bob.receive_key, bob.send_key)
    again, _ = shake(client(), server())
    assert len({ann.send_key, ann.receive_key, again.send_key, again.receive_key}) == 4
    assert all(len(key) == 32 for key in (ann.send_key, ann.receive_key))


def test_bytes_behind_the_handshake_are_handed_on() -> None:
    ann, bob = client(), server()
    proof = bob.feed(ann.feed(bob.feed(ann.start())))
    ann.feed(proof + b"the first frame")
    assert ann.established is not None
    assert ann.established.rest == b"the first frame"


# --- refused --------------------------------------------------------------------------------------------


def test_another_key_is_refused_and_both_sides_say_so() -> None:
    ann, bob = refusals(client(identity(ANN, key=b"some other key of 24 byt")), server())
    assert (ann.code, bob.code) == ("cluster-key", "cluster-key")
    assert str(ann) == "peer at bob:1 does not share our cluster key: give both nodes the same one"
    assert str(bob) == "peer at ann:2 does not share our cluster key: give both nodes the same one"


def test_a_server_with_another_key_cannot_pass_for_one_of_ours() -> None:
    """It may skip the check of our proof; it cannot make its own."""

    class Impostor(Handshake):
        def _on_proof(self, peer: Any, proof: bytes) -> bytes:
            self.established = Established(ANN, 1, "", 1, b"", b"", b"")
            return msgpack_frame([1, self._proof(by_client=False)])

    impostor = Impostor(identity(BOB, key=b"some other key of 24 byt"), client=False, address="ann:2")
    with pytest.raises(HandshakeFailed, match="does not share our cluster key"):
        shake(client(), impostor)


def test_another_cluster_is_refused_with_both_names() -> None:
    ann, bob = refusals(client(identity(ANN, cluster="red")), server(identity(BOB, cluster="blue")))
    assert (ann.code, bob.code) == ("cluster-id", "cluster-id")
    for text in (str(ann), str(bob)):
        assert "another cluster (blue against red)" in text
        assert "its own seeds and its own key" in text


@pytest.mark.parametrize(("mine", "theirs"), [("", ""), ("red", ""), ("", "red")])
def test_before_a_cluster_is_formed_the_key_alone_decides(mine: str, theirs: str) -> None:
    shake(client(identity(ANN, cluster=mine)), server(identity(BOB, cluster=theirs)))


def test_a_twin_is_refused() -> None:
    """Two processes on copies of one data directory (B7)."""
    ann, bob = refusals(client(identity(BOB)), server(identity(BOB)))
    assert (ann.code, bob.code) == ("twin", "twin")
    assert "stop one of them" in str(ann)
    assert "same node id bbb" in str(bob)


def test_oneself_is_told_from_a_twin() -> None:
    """One's own address is usually among the seeds."""
    me = identity(BOB)
    ann, bob = refusals(client(me), server(me))
    assert (ann.code, bob.code) == ("self", "self")
    assert str(ann) == "bob:1 is the address of this node itself"


def test_another_number_of_partitions_is_refused() -> None:
    ann, _ = refusals(client(identity(ANN, partitions=128)), server())
    assert ann.code == "partitions"
    assert "(256 against 128)" in str(ann)


def test_another_node_than_expected_is_refused() -> None:
    ann, bob = refusals(client(expected=CARL), server())
    assert str(ann) == f"peer at bob:1 is node {BOB}, not {CARL}"
    assert f"it looked for node {CARL}" in str(bob)


def test_who_is_admitted_is_asked_after_the_proof_only() -> None:
    asked = []

    def admit(node: str, incarnation: int) -> str:
        asked.append((node, incarnation))
        return "was removed from the cluster"

    refusals(client(identity(ANN, key=b"some other key of 24 byt")), server(admit=admit))
    assert asked == []
    ann, bob = refusals(client(), server(admit=admit))
    assert asked == [(ANN, 1)]
    assert str(ann) == "peer at bob:1 refused this node: was removed from the cluster"
    assert str(bob) == "peer at ann:2 was removed from the cluster"


# --- versions -------------------------------------------------------------------------------------------


def msgpack_frame(message: list[Any]) -> bytes:
    payload: bytes = msgpack.packb(message)
    return len(payload).to_bytes(4, "big") + payload


class Newer(Handshake):
    """A later release: other versions, and a field more in its hello."""

    versions = (1, 3)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        magic, _, _, *rest = self._hello(b"n" * 32)
        self._my_hello = msgpack_frame([0, [magic, *self.versions, *rest, "something new"], "and here"])


def test_neighbouring_versions_meet_at_the_highest_they_share() -> None:
    """B27."""
    newer = Newer(identity(ANN), client=True, address="bob:1")
    _, bob = shake(newer, server())
    assert bob.version == 1
    ann, _ = shake(client(), Newer(identity(BOB), client=False, address="ann:2"))
    assert ann.version == 1


def test_versions_too_far_apart_are_refused() -> None:
    class TooNew(Newer):
        versions = (2, 3)

    ann, bob = refusals(TooNew(identity(ANN), client=True, address="bob:1"), server())
    assert (ann.code, bob.code) == ("version", "version")
    assert "(2 to 3 against 1 to 1): upgrade one release at a time" in str(bob)


# --- attacks --------------------------------------------------------------------------------------------


def test_a_recorded_handshake_opens_nothing() -> None:
    ann, bob = client(), server()
    hello = ann.start()
    proof = ann.feed(bob.feed(hello))
    bob.feed(proof)
    assert bob.established is not None
    fresh = server()
    fresh.feed(hello)
    with pytest.raises(HandshakeFailed, match="does not share our cluster key"):
        fresh.feed(proof)
    assert fresh.established is None


def test_a_reflected_handshake_opens_nothing() -> None:
    """A stranger can send a hello and then our own proof back: of both hellos, but of the wrong role."""
    ann = client()
    hello_of_a_stranger = server(identity(BOB, key=b"anything, it is not used")).feed(ann.start())
    proof = ann.feed(hello_of_a_stranger)
    with pytest.raises(HandshakeFailed, match="does not share our cluster key"):
        ann.feed(proof)


@given(st.integers(0, 2), st.integers(0, 10**6), st.integers(1, 255))
def test_whatever_byte_is_altered_on_the_way_nobody_gets_in(step: int, at: int, flip: int) -> None:
    """Of the client's hello, the server's hello and the client's proof."""
    ann, bob = client(), server()
    data, to, sender = ann.start(), bob, ann
    for number in range(4):
        if number == step:
            altered = bytearray(data)
            altered[at % len(altered)] ^= flip
            data = bytes(altered)
        outcome = fed(to, data)
        if isinstance(outcome, HandshakeFailed):
            break
        data, to, sender = outcome, sender, to
    assert bob.established is None
    assert ann.established is None


@given(st.binary(max_size=200), st.booleans(), st.booleans())
def test_garbage_is_refused_or_waited_for(garbage: bytes, framed: bool, as_client: bool) -> None:
    side = client() if as_client else server()
    outcome = fed(side, len(garbage).to_bytes(4, "big") + garbage if framed else garbage)
    if isinstance(outcome, HandshakeFailed):
        assert outcome.code == "not-kvstore" or outcome.by_peer
    assert side.established is None


def test_an_http_client_is_told_from_a_peer() -> None:
    with pytest.raises(HandshakeFailed, match="but HTTP: the address between nodes is another one"):
        server().feed(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(HandshakeFailed, match="but HTTP"):
        client().feed(b"HTTP/1.1 400 Bad Request\r\n")


def test_a_length_is_not_trusted() -> None:
    """B30."""
    with pytest.raises(HandshakeFailed, match="does not speak"):
        server().feed((2049).to_bytes(4, "big"))


def test_texts_of_strangers_are_made_fit_for_a_log() -> None:
    with pytest.raises(HandshakeFailed) as told:
        client().feed(msgpack_frame([2, "x" * 1000, "\x1b[31mred\nline" + "y" * 900]))
    assert told.value.by_peer
    assert str(told.value).isprintable()
    assert len(str(told.value)) < 400
    assert len(told.value.code) < 400


def test_proofs_before_hellos_and_second_hellos_are_refused() -> None:
    with pytest.raises(HandshakeFailed, match="does not speak"):
        server().feed(msgpack_frame([1, b"p" * 32]))
    bob = server()
    bob.feed(client().start())
    with pytest.raises(HandshakeFailed, match="does not speak"):
        bob.feed(client().start())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_many_bad_handshakes() -> None:
    """One honest client's bytes open this server (its nonce is made to repeat); altered, they never do."""
    chance = random.Random(7)
    bob = identity(BOB)

    def victim(data: bytes) -> Handshake:
        side = server(bob, nonce=b"n" * 32)
        fed(side, data)
        return side

    ann = client()
    hello = ann.start()
    honest = hello + ann.feed(server(bob, nonce=b"n" * 32).feed(hello))
    assert victim(honest).established is not None
    for _ in range(20_000):
        bad = bytearray(honest)
        for _ in range(chance.randint(1, 4)):
            bad[chance.randrange(len(bad))] = chance.randrange(256)
        assert victim(bytes(bad)).established is None or bytes(bad) == honest


# --- identity -------------------------------------------------------------------------------------------


def test_an_identity_needs_a_key_and_an_id_and_shows_no_secret() -> None:
    with pytest.raises(ConfigError, match="the cluster key has 5 bytes, at least 16 are needed"):
        identity(ANN, key=b"short")
    with pytest.raises(ConfigError, match="is not 32 hex digits"):
        identity("ann")
    assert "cluster key of" not in repr(identity(ANN))
