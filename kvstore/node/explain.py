"""What the node can tell about keys, members and layout, ready for JSON: for operators and for routing."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

from kvstore.core.encoding import decode_state, digest, etag
from kvstore.core.hybrid_clock import wall_ms_of
from kvstore.core.layout import Layout
from kvstore.core.limits import Limits
from kvstore.core.membership import NodeId
from kvstore.core.message import KNOWN_BY_NOBODY, FetchHints, Held, HintsHeld, Read
from kvstore.core.ring import PARTITIONS, full_key, partition_of
from kvstore.core.tombstone import WORDS, Answer, judge, shows_nothing
from kvstore.errors import CorruptRecord, KVStoreError, PeerRefused
from kvstore.node.bucket_registry import BucketRegistry
from kvstore.node.cluster_view import ClusterView
from kvstore.node.hedges import Hedges
from kvstore.node.hint_store import HintStore
from kvstore.node.ports import Peers, WallClock
from kvstore.node.reach import Reach
from kvstore.node.replica import Replica


class Explainer:
    """Reads only."""

    def __init__(
        self,
        view: ClusterView,
        buckets: BucketRegistry,
        replica: Replica,
        hints: HintStore,
        peers: Peers,
        reach: Reach,
        limits: Limits,
        wall: WallClock,
    ) -> None:
        self._wall = wall
        self._view, self._buckets, self._replica, self._hints = view, buckets, replica, hints
        self._peers, self._reach, self._limits = peers, reach, limits

    async def explain(self, bucket: str, key: bytes) -> dict[str, Any]:
        """Who the homes of a key are, what each of them holds, who keeps hints, and why its tombstone waits.

        Raises NotReady.
        """
        properties = self._buckets.properties(bucket)
        full = full_key(bucket, key)
        partition = partition_of(full)
        homes = self._view.homes(partition, properties.n)
        layout = self._view.layout
        members = sorted(self._view.members, key=self._view.name_of)
        of_members, hinted = await asyncio.gather(
            asyncio.gather(*(self._held(node, partition, full) for node in members)),
            asyncio.gather(*(self._kept(node, partition, full) for node in members)),
        )
        there = dict(zip(members, of_members, strict=True))
        held = [there[node] for node in homes]
        states = [state for state in held if isinstance(state, bytes)]
        return {
            "bucket": bucket,
            "partition": partition,
            "layout_version": layout.version if layout else 0,
            "properties": properties.as_dict(),
            "equal": len(states) == len(homes) and len(set(states)) == 1,
            "homes": [
                {**self._member(node), **self._breakers(node), **_described(state)}
                for node, state in zip(homes, held, strict=True)
            ],
            "hints": [
                {
                    **self._member(node),
                    "targets": [self._view.name_of(target) for target in kept.targets],
                    **_described(kept.state),
                }
                for node, kept in zip(members, hinted, strict=True)
                if kept is not None and kept.targets
            ],
            "tombstone": self._tombstone(homes, there, dict(zip(members, hinted, strict=True))),
        }

    def _tombstone(
        self,
        homes: Sequence[NodeId],
        held: Mapping[NodeId, bytes | KVStoreError],
        hinted: Mapping[NodeId, HintsHeld | None],
    ) -> dict[str, Any] | None:
        """Who collects it, and what is in the way; None if no home holds a state of tombstones only.

        As far as one question to each member can tell: nobody's sends are waited for.
        """
        now_ms, skew_ms = self._wall.now_ms(), int(self._limits.clock_skew_max_s * 1000)
        states = [state for home in homes if isinstance(state := held[home], bytes) and state]
        buried = next((state for state in states if shows_nothing(state, now_ms, skew_ms)), None)
        if buried is None:
            return None
        wanted, answers = digest(buried), dict[NodeId, Answer | None]()
        for node, kept in hinted.items():
            if kept is None:
                answers[node] = None
            elif kept.targets or kept.marked:
                answers[node] = Answer.HINTED if kept.targets else Answer.MARKED
            else:
                answers[node] = _answer(held[node], wanted)
        verdict, reasons = judge(answers, homes)
        return {
            "collected_by": self._view.name_of(homes[0]),
            "every_s": self._limits.tombstone_interval_s,
            "verdict": verdict.value,
            "waits_for": [
                {"name": self._view.name_of(node), "reason": WORDS[answer]}
                for node, answer in reasons.items()
            ],
        }

    async def _kept(self, node: NodeId, partition: int, key: bytes) -> HintsHeld | None:
        """What a member keeps of the key for others; None of one that does not answer."""
        if node == self._view.me.node_id:
            return HintsHeld(*self._hints.held(partition, key), marked=self._hints.is_marked(partition))
        self._reach.asked(node)
        call = self._peers.call(node, FetchHints(partition, key), self._limits.peer_deadline_s)
        with suppress(KVStoreError):
            return cast(HintsHeld, await call)
        return None

    async def _held(self, node: NodeId, partition: int, key: bytes) -> bytes | KVStoreError:
        try:
            if node == self._view.me.node_id:
                return self._replica.read(partition, key)
            self._reach.asked(node)
            read = Read(partition, key, KNOWN_BY_NOBODY)
            return cast(Held, await self._peers.call(node, read, self._limits.peer_deadline_s)).state
        except KVStoreError as error:
            return error

    def _member(self, node: NodeId) -> dict[str, Any]:
        member = self._view.members.get(node)
        return {"id": node, "name": self._view.name_of(node), "zone": member.zone if member else ""}

    def _breakers(self, node: NodeId) -> dict[str, Any]:
        """On failures and on latency, as this node uses them; and what a read there took a moment ago."""
        if node == self._view.me.node_id:
            return {"breaker": "self", "latency_breaker": "self", "read_median_ms": None}
        latency = self._reach.latency
        median_s = latency.median_s(node)
        return {
            "breaker": self._reach.state(node).value,
            "latency_breaker": latency.state(node).value,
            "read_median_ms": None if median_s is None else round(median_s * 1000, 3),
        }

    def peers(self, of_reads: Hedges, of_forwarded: Hedges) -> dict[str, Any]:
        """How this node finds the others to be, and the hedges that came of it."""
        others = sorted(self._view.members.keys() - {self._view.me.node_id}, key=self._view.name_of)
        return {
            "hedges": of_reads.sent + of_forwarded.sent,
            "hedges_refused": of_reads.refused + of_forwarded.refused,
            "hedge_delay_s": of_reads.delay_s,
            "slow_found": self._reach.latency.opened,
            "peers": [{"name": self._view.name_of(node), **self._breakers(node)} for node in others],
        }

    def cluster(self, drift_ms: dict[NodeId, int]) -> dict[str, Any]:
        """Members with their addresses, domains, breaker and share of the partitions."""
        layout = self._view.layout
        n = self._buckets.defaults.n
        owned = (
            Counter(home for p in range(PARTITIONS) for home in layout.homes(p, n)) if layout else Counter()
        )
        in_layout = {m.node_id for m in layout.members} if layout else set()
        members = []
        for member in sorted(self._view.members.values(), key=lambda m: m.name):
            breakers = self._breakers(member.node_id)
            members.append(
                {
                    "id": member.node_id,
                    "name": member.name,
                    "rpc": member.rpc_address,
                    "http": member.http_address,
                    "zone": member.zone,
                    "host": member.host,
                    "weight": member.weight,
                    "incarnation": member.incarnation,
                    "in_layout": member.node_id in in_layout,
                    "partitions": owned[member.node_id],
                    "state": _state(breakers),
                    **breakers,
                    "clock_drift_ms": drift_ms.get(member.node_id, 0),
                }
            )
        return {
            "cluster_id": self._view.cluster_id,
            "layout_version": layout.version if layout else 0,
            "answered_by": self._view.me.name,
            "partitions": PARTITIONS,
            "defaults": self._buckets.defaults.as_dict(),
            "members": members,
        }

    def layout(self) -> dict[str, Any] | None:
        """What a client needs to send a request to a home of its key; None before the first layout."""
        layout = self._view.layout
        return _routing(layout, self._view) if layout else None


def _state(breakers: dict[str, Any]) -> str:
    if breakers["breaker"] not in ("self", "closed"):
        return "out of reach"
    return "up" if breakers["latency_breaker"] in ("self", "closed") else "slow"


def _routing(layout: Layout, view: ClusterView) -> dict[str, Any]:
    """Addresses are those of the newest incarnation, not those at the time of the layout."""
    current = [view.members.get(m.node_id, m) for m in layout.members]
    return {
        "version": layout.version,
        "cluster_id": layout.cluster_id,
        "partitions": len(layout.walks),
        "hash": "blake2b-16-be-mod",
        "members": [
            {"id": m.node_id, "name": m.name, "http": m.http_address, "zone": m.zone, "host": m.host}
            for m in current
        ],
        "walks": [list(walk) for walk in layout.walks],
    }


def _answer(held: bytes | KVStoreError, wanted: bytes) -> Answer | None:
    if isinstance(held, PeerRefused | CorruptRecord):
        return Answer.UNREADABLE
    if isinstance(held, KVStoreError):
        return None
    if not held:
        return Answer.ABSENT
    return Answer.HELD if digest(held) == wanted else Answer.DIFFERENT


def _described(state: bytes | KVStoreError) -> dict[str, Any]:
    """One home's answer: its siblings by dot, its context, or why it has none to show."""
    if isinstance(state, CorruptRecord):
        return {"answer": "corrupt", "detail": state.detail}
    if isinstance(state, KVStoreError):
        return {"answer": type(state).__name__, "detail": str(state)}
    if not state:
        return {"answer": "nothing"}
    decoded = decode_state(state)
    return {
        "answer": "state",
        "digest": digest(state).hex(),
        "etag": etag(decoded.siblings),
        "siblings": [
            {
                "dot": f"{dot[0]:x}:{dot[1]}",
                "tombstone": version.tombstone,
                "value_bytes": len(version.value),
                "content_type": version.content_type,
                "modified_ms": wall_ms_of(version.hlc_time),
                "expires_at_ms": version.expires_at_ms or None,
                "operation_id": version.operation_id.decode("ascii", "replace"),
            }
            for dot, version in sorted(decoded.siblings.items())
        ],
        "context": {
            "vector": {
                f"{replica:x}": counter for replica, counter in sorted(decoded.context.vector.items())
            },
            "cloud": [f"{dot[0]:x}:{dot[1]}" for dot in sorted(decoded.context.cloud)],
        },
    }
