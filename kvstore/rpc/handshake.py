"""Who is there: both sides prove that they know the cluster key, then each direction gets its own key.

Sans-I/O: bytes in, bytes out. Frames are 4 bytes of length and a msgpack array:

    client -> server   [0, Hello]         versions, identity, nonce
    server -> client   [0, Hello]
    client -> server   [1, proof]         HMAC-SHA256(auth key, "client" ‖ transcript)
    server -> client   [1, proof]         HMAC-SHA256(auth key, "server" ‖ transcript); from here on frames.py
    either, any time   [2, code, text]    refused, and why
    server, at the end [2, "twin", text, HMAC-SHA256(auth key, "twin" ‖ transcript)]

`transcript` is the hash of both hellos as they were sent, so nothing in them can be altered, and both
nonces are in every proof and key: nothing can be replayed. The label of the role is in the proof: a
proof cannot be reflected. The client proves itself first: to a stranger the server says nothing that
depends on the key, and no other reason than a wrong key. The client judges what the server claims to be
before it proves itself; if the claim was false, the proof that follows fails.
A refusal is not authenticated: its text is shown, never acted upon. One is, as a node ends itself over it:
that another process runs with its identity.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable
from hashlib import blake2b, sha256
from typing import Any, NamedTuple

import msgpack

from kvstore.core.membership import NodeId
from kvstore.rpc.decoding import MalformedFrame, decoder
from kvstore.rpc.identity import NODE_ID, Identity

VERSION_MIN = VERSION_MAX = 1
"""Versions of the wire that this release speaks."""

NONCE_BYTES = 32
_MAGIC = b"kvstore"
_FRAME_BYTES_MAX = 2048
_TEXT_CHARACTERS_MAX = 300
_HELLO, _PROOF, _REFUSAL = 0, 1, 2
_MUTUAL = ("cluster-key", "version", "self", "twin", "cluster-id", "partitions")
"""Reasons whose sentence is as true when the other side says it."""


class Hello(NamedTuple):
    """New fields go last, with a default; they are covered by the proofs without further ado."""

    magic: bytes
    version_min: int
    version_max: int
    cluster_id: str
    node_id: NodeId
    incarnation: int
    partitions: int
    instance: bytes
    nonce: bytes


class Established(NamedTuple):
    """The other side, proven, and the keys of the two directions. `rest`: bytes behind the handshake."""

    node_id: NodeId
    incarnation: int
    cluster_id: str
    version: int
    send_key: bytes
    receive_key: bytes
    rest: bytes
    instance: bytes = b""


class HandshakeFailed(Exception):
    """`code`: cluster-key, cluster-id, version, partitions, self, twin, other-node, not-admitted,
    not-kvstore. `farewell`: what to send before closing. `by_peer`: the other side refused us.
    `proven`: and it proved that it knows the cluster key and means this handshake.
    """

    def __init__(
        self, code: str, text: str, *, farewell: bytes = b"", by_peer: bool = False, proven: bool = False
    ) -> None:
        super().__init__(text)
        self.code, self.text, self.farewell = code, text, farewell
        self.by_peer, self.proven = by_peer, proven


Admit = Callable[[NodeId, int], str]
"""(node id, incarnation) of a peer that proved the key -> why it is refused, "" to admit it."""

IsTwin = Callable[[NodeId, bytes], bool]
"""(node id, instance) of a peer that proved the key -> whether another process of that node is alive."""

_decode_hello = decoder(Hello)
_decode_proof = decoder(tuple[int, bytes])
_decode_refusal = decoder(tuple[int, str, str])


class Handshake:
    """One side of one handshake.

    `address`: of the other side, for texts. `expected`: the node id that must answer, "" for anyone. Call
    `start` once, then `feed` until it has set `established`. Both return bytes to send; `feed` raises
    HandshakeFailed.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        client: bool,
        address: str = "",
        expected: NodeId = "",
        admit: Admit | None = None,
        is_twin: IsTwin | None = None,
        nonce: bytes = b"",
    ) -> None:
        self._me, self._client, self.address = identity, client, address
        self._expected, self._admit, self._is_twin = expected, admit, is_twin
        self._auth_key = blake2b(identity.cluster_key, person=b"kv-rpc", digest_size=32).digest()
        self._buffer = b""
        self._my_hello = _frame([_HELLO, self._hello(nonce or os.urandom(NONCE_BYTES))])
        self._their_hello = b""
        self._peer: Hello | None = None
        self.established: Established | None = None

    def start(self) -> bytes:
        return self._my_hello if self._client else b""

    def feed(self, data: bytes) -> bytes:
        self._buffer += data
        answers = b""
        while self.established is None and (frame := self._next_frame()):
            answers += self._step(frame)
        return answers

    def _hello(self, nonce: bytes) -> Hello:
        me = self._me
        return Hello(
            _MAGIC,
            VERSION_MIN,
            VERSION_MAX,
            me.cluster_id(),
            me.node_id,
            me.incarnation,
            me.partitions,
            me.instance,
            nonce,
        )

    def _next_frame(self) -> bytes:
        """The next whole frame with its length, b"" if it is not there yet."""
        if len(self._buffer) < 4:
            return b""
        length = int.from_bytes(self._buffer[:4], "big")
        if length > _FRAME_BYTES_MAX:
            raise self._not_kvstore()
        frame, rest = self._buffer[: 4 + length], self._buffer[4 + length :]
        if len(frame) < 4 + length:
            return b""
        self._buffer = rest
        return frame

    def _step(self, frame: bytes) -> bytes:
        try:
            message = msgpack.unpackb(
                frame[4:], use_list=False, max_array_len=32, max_map_len=0, max_ext_len=0
            )
            kind = message[0] if type(message) is tuple and message else None
            if kind == _REFUSAL:
                _, code, text = _decode_refusal(message)
                raise self._refused_by_peer(code, text, self._is_proven_twin(message))
            if kind == _HELLO and self._peer is None and len(message) > 1:
                return self._on_hello(frame, _decode_hello(message[1]))
            if kind == _PROOF and self._peer is not None:
                return self._on_proof(self._peer, _decode_proof(message)[1])
        except (ValueError, TypeError, msgpack.UnpackException, MalformedFrame):
            pass
        raise self._not_kvstore()

    def _on_hello(self, frame: bytes, hello: Hello) -> bytes:
        well_formed = (
            hello.magic == _MAGIC
            and len(hello.nonce) == NONCE_BYTES
            and NODE_ID.fullmatch(hello.node_id)
            and hello.incarnation >= 0
        )
        if not well_formed:
            raise self._not_kvstore()
        if hello.version_min > VERSION_MAX or hello.version_max < VERSION_MIN:
            raise self._refuse(
                "version",
                f"speaks other versions of the wire ({hello.version_min} to {hello.version_max} against"
                f" {VERSION_MIN} to {VERSION_MAX}): upgrade one release at a time",
            )
        self._peer, self._their_hello = hello, frame
        if self._client:
            self._judge(hello)
            return _frame([_PROOF, self._proof(by_client=True)])
        return self._my_hello

    def _on_proof(self, peer: Hello, proof: bytes) -> bytes:
        if not hmac.compare_digest(proof, self._proof(by_client=not self._client)):
            raise self._refuse("cluster-key", "does not share our cluster key: give both nodes the same one")
        if not self._client:
            self._judge(peer)
        to_server, to_client = self._derived(b"client to server"), self._derived(b"server to client")
        self.established = Established(
            peer.node_id,
            peer.incarnation,
            peer.cluster_id,
            min(VERSION_MAX, peer.version_max),
            to_server if self._client else to_client,
            to_client if self._client else to_server,
            self._buffer,
            peer.instance,
        )
        return b"" if self._client else _frame([_PROOF, self._proof(by_client=False)])

    def _judge(self, peer: Hello) -> None:
        """Raises for a peer that is not the one to talk to even if it knows the key."""
        me = self._me
        if peer.node_id == me.node_id:
            if peer.instance == me.instance:
                raise self._refuse("self", "is the address of this node itself")
            raise self._refuse(
                "twin",
                f"has the same node id {me.node_id} as this node: two processes run on copies of one data"
                " directory; stop one of them and give it an empty directory",
            )
        mine = me.cluster_id()
        if mine and peer.cluster_id and mine != peer.cluster_id:
            raise self._refuse(
                "cluster-id",
                f"belongs to another cluster ({peer.cluster_id} against {mine}): give each cluster"
                " its own seeds and its own key",
            )
        if peer.partitions != me.partitions:
            raise self._refuse(
                "partitions",
                f"divides keys into another number of partitions ({peer.partitions} against"
                f" {me.partitions}), which is fixed when a cluster is created",
            )
        if self._expected and peer.node_id != self._expected:
            raise self._refuse(
                "other-node",
                f"is node {peer.node_id}, not {self._expected}",
                told=f"it looked for node {self._expected} at this address",
            )
        if self._is_twin is not None and self._is_twin(peer.node_id, peer.instance):
            told = "is in touch with another process that runs with this node's identity"
            raise self._refuse(
                "twin", f"comes as node {peer.node_id}, of which another process runs", told=told, proven=True
            )
        if self._admit is not None and (reason := self._admit(peer.node_id, peer.incarnation)):
            raise self._refuse("not-admitted", reason)

    # --- keys ---------------------------------------------------------------------------------------

    def _transcript(self) -> bytes:
        hellos = (self._my_hello, self._their_hello)  # each begins with its own length
        return sha256(b"".join(hellos if self._client else hellos[::-1])).digest()

    def _proof(self, *, by_client: bool) -> bytes:
        return self._derived(b"client" if by_client else b"server")

    def _derived(self, label: bytes) -> bytes:
        return hmac.digest(self._auth_key, b"%b\0%b" % (label, self._transcript()), "sha256")

    # --- refusals -----------------------------------------------------------------------------------

    def _refuse(self, code: str, what: str, *, told: str = "", proven: bool = False) -> HandshakeFailed:
        """`what` completes the sentence "peer at …". `told` to the other side where that would not fit."""
        text = f"{self.address} {what}" if code == "self" else f"peer at {self.address} {what}"
        refusal: list[Any] = [_REFUSAL, code, told or what]
        if proven:
            refusal.append(self._derived(code.encode()))
        return HandshakeFailed(code, text, farewell=_frame(refusal))

    def _is_proven_twin(self, refusal: tuple[Any, ...]) -> bool:
        """Whether a refusal is of a twin, and of the peer we have proved ourselves to."""
        if self._peer is None or refusal[1] != "twin" or len(refusal) < 4:
            return False
        proof = refusal[3]
        return type(proof) is bytes and hmac.compare_digest(proof, self._derived(b"twin"))

    def _refused_by_peer(self, code: str, what: str, proven: bool) -> HandshakeFailed:
        if code in _MUTUAL:
            refusal = self._refuse(code, _shown(what))
            return HandshakeFailed(code, refusal.text, by_peer=True, proven=proven)
        text = f"peer at {self.address} refused this node: {_shown(what)}"
        return HandshakeFailed(_shown(code), text, by_peer=True)

    def _not_kvstore(self) -> HandshakeFailed:
        begins = self._buffer[:4] or self._their_hello[:4]
        hint = ""
        if begins in (b"HTTP", b"GET ", b"POST", b"PUT ", b"HEAD"):
            hint = " but HTTP: the address between nodes is another one than that for clients"
        return HandshakeFailed(
            "not-kvstore", f"peer at {self.address} does not speak the protocol between nodes{hint}"
        )


def _shown(text: str) -> str:
    """Text of a stranger, fit for a log."""
    return "".join(c if c.isprintable() else "?" for c in text[:_TEXT_CHARACTERS_MAX])


def _frame(message: list[Any]) -> bytes:
    payload: bytes = msgpack.packb(message)
    return len(payload).to_bytes(4, "big") + payload
