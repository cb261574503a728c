"""A get, a put and a delete across the replicas: read it from top to bottom.

Source: Dynamo §4.5 (quorums), §5 (read repair). The coordinator of a request is one of the homes of
its key; any other node forwards it once, and stands in itself where no home can be reached (§4.6).
Coordinators share no state with each other or with the next request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, cast

from kvstore.core.bucket import BucketProperties
from kvstore.core.encoding import (
    decode_context,
    digest,
    encode_context,
    encode_context_of,
    etag,
    read_own,
)
from kvstore.core.limits import Limits
from kvstore.core.membership import NodeId
from kvstore.core.message import Get, Got, Held, Put, Read, Receipt, Store, Stored, Written
from kvstore.core.preference_list import by_reach
from kvstore.core.quorum import LOST, Quorum, Tally
from kvstore.core.read_repair import plan_read_repair
from kvstore.core.ring import full_key, partition_of
from kvstore.core.sibling import EMPTY_STATE, Version, shown
from kvstore.core.vector_clock import CausalContext
from kvstore.errors import (
    CorruptRecord,
    InvalidRequest,
    NotReady,
    PreconditionFailed,
)
from kvstore.node.bucket_registry import BucketRegistry
from kvstore.node.cluster_view import ClusterView
from kvstore.node.fan_out import FanOut, Hinted, Instead, lost
from kvstore.node.forwarding import Forwarding
from kvstore.node.grace import Grace
from kvstore.node.hedges import Hedges
from kvstore.node.ports import Peers, WallClock
from kvstore.node.reach import Reach
from kvstore.node.read_repair import ReadRepair
from kvstore.node.replica import Replica
from kvstore.node.session_reads import SessionReads, covers
from kvstore.node.stand_ins import Replicas, StandInCopy, StandIns, all_merged, homes_of, replicas_of

_STORED = Stored()


class Coordinator:
    """`repairs` counts replicas that were sent what they lacked."""

    def __init__(
        self,
        *,
        view: ClusterView,
        buckets: BucketRegistry,
        replica: Replica,
        peers: Peers,
        reach: Reach,
        stand_ins: StandIns,
        wall: WallClock,
        limits: Limits,
        grace: Grace,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._view, self._buckets, self._replica, self._peers = view, buckets, replica, peers
        self._reach, self._wall, self._limits, self._spawn = reach, wall, limits, spawn
        self._stand_ins, self._grace = stand_ins, grace
        self.forwarding = Forwarding(view, peers, reach, stand_ins, self.fan_out, wall.elapsed_s, limits)
        self._loop = asyncio.get_running_loop()
        self._now = wall.elapsed_s
        self._latency = reach.latency
        self.hedges = Hedges(self._loop, self._now, reach, self._latency, limits)
        self._repair = ReadRepair(view.me.node_id, replica, self.fan_out)
        self._sessions = SessionReads(view.me.node_id, replica, peers)
        self._turn = 0
        self.repairs = 0

    # --- get ----------------------------------------------------------------------------------------

    async def get(self, request: Get) -> Got:
        """The merge of R answers; what the replicas lack of it is sent to them afterwards.

        Raises QuorumNotMet, StaleRead, NotReady, InvalidRequest.
        """
        properties = self._buckets.properties(request.bucket)
        quorum = _quorum(properties, n=request.n, r=request.r, pr=request.pr)
        key = full_key(request.bucket, request.key)
        partition = partition_of(key)
        homes = self._view.homes(partition, quorum.n)
        me = self._view.me.node_id
        sloppy = not request.monotonic and _sloppy(request, properties)
        if me not in homes:
            got = await self.forwarding.read(request, homes, partition, sloppy=sloppy)
            return got or await self._get_elsewhere(
                request, properties, quorum, homes, partition, key, sloppy=sloppy
            )
        self._refuse_small_cluster(homes, quorum)

        epoch = self._grace.enter()
        try:
            return await self._get_here(request, properties, quorum, homes, partition, key, sloppy=sloppy)
        finally:
            self._grace.leave(epoch)

    async def _get_here(
        self,
        request: Get,
        properties: BucketProperties,
        quorum: Quorum,
        homes: Sequence[NodeId],
        partition: int,
        key: bytes,
        *,
        sloppy: bool,
    ) -> Got:
        """As a home of the key."""
        me, started_s = self._view.me.node_id, self._now()
        deadline_s = self._peer_deadline_s(request.timeout_ms)
        try:
            mine = self._replica.witness(partition, key)
        except (CorruptRecord, NotReady):
            return await self._get_elsewhere(
                request, properties, quorum, homes, partition, key, sloppy=sloppy
            )
        local = (me, self._now() - started_s, mine)
        plain = not (request.session or request.monotonic)
        if quorum.r == 1 and plain:
            return self._got(properties, quorum, mine, [local], 0)

        read = Read(partition, key, digest(mine))
        reads, others = await self._read(
            homes, read, quorum, own_votes=1, deadline_s=deadline_s, sloppy=sloppy
        )
        answers = [local, *_answers(reads, mine)]
        # An equal replica's answer is `mine` itself: the usual read merges and plans nothing.
        equal = not reads.hinted and all(state is mine for _, _, state in answers)
        if equal and plain:
            return self._got(properties, quorum, mine, answers, 0)
        state = mine if equal else all_merged(answers, reads.hinted)
        if request.session and not covers(state, request.session):
            answers += await self._ask_the_rest(reads, others, read, homes, mine, deadline_s)
            state = all_merged(answers, reads.hinted)
            await self._sessions.refuse_stale(
                partition, state, request.session, quorum, [node for node, _, _ in answers], deadline_s
            )
        lacking = plan_read_repair(state, [(node, held) for node, _, held in answers])
        self.repairs += len(lacking)
        if request.monotonic:
            await self._make_durable(partition, key, state, answers, quorum, deadline_s)
        elif lacking:
            self._spawn(self._repair.send(partition, key, state, lacking, deadline_s))
        return self._got(properties, quorum, state, answers, len(lacking), reads.hinted)

    async def _read(
        self,
        homes: Sequence[NodeId],
        read: Read,
        quorum: Quorum,
        *,
        own_votes: int,
        deadline_s: float,
        sloppy: bool,
    ) -> tuple[FanOut, list[NodeId]]:
        """Ask as many homes as are needed; one more for each that fails or is late. Returns those not asked.

        Where the homes in reach are too few for a sloppy read, the others and stand-ins are asked at once.
        """
        self._turn += 1
        me = self._view.me.node_id
        others = by_reach(homes, me, self._reach.doubts, self._turn)
        if others[0] == me:
            del others[0]
        need = quorum.r - own_votes
        slow = self._latency.slow
        if slow:
            others = self._reach.quick_first(others, probes=self._latency)
        to_ask = min(need, len(others))
        few = sloppy and not (to_ask and self._reach(others[to_ask - 1]))
        reads = self.fan_out(
            Tally(asked=to_ask, need=need, need_primaries=quorum.pr - own_votes),
            partial(self._stand_ins.reader_failed, read, homes, others, sloppy, deadline_s),
        )
        asked = others[:to_ask]
        del others[:to_ask]  # in place: whoever asks in place of a failed one has this list, too
        for node in asked:
            if slow:
                self._latency.asked(node)
            reads.ask(node, read, deadline_s)
        self.hedges.watch(reads, read, asked, others, deadline_s)
        if few:
            while others:
                reads.ask_one_more(others.pop(0), read, deadline_s)
            self._stand_ins.ask_for_hints(reads, read.partition, read.key, homes, deadline_s)
        if await reads.decided() is LOST:
            raise lost(reads, quorum.r, own_votes, self._view.name_of, outcome="failed")
        return reads, others

    async def _ask_the_rest(
        self,
        reads: FanOut,
        others: list[NodeId],
        read: Read,
        homes: Sequence[NodeId],
        mine: bytes,
        deadline_s: float,
    ) -> list[tuple[NodeId, float, bytes]]:
        """For a session: whoever was not asked may have what it has seen, and so may a stand-in."""
        before = len(reads.answers)
        self._stand_ins.ask_for_hints(reads, read.partition, read.key, homes, deadline_s)
        for node in others:
            reads.ask_one_more(node, read, deadline_s)
        await reads.finished()
        return _answers(reads, mine)[before:]

    async def _get_elsewhere(
        self,
        request: Get,
        properties: BucketProperties,
        quorum: Quorum,
        homes: Sequence[NodeId],
        partition: int,
        key: bytes,
        *,
        sloppy: bool,
    ) -> Got:
        """Without a copy here that can be read: R others must answer.

        An unreadable record is "don't know", and so is a copy that recovers; they heal it. A node that is
        no home and reaches none gets here too; then it is what stand-ins hold that counts.
        """
        deadline_s = self._peer_deadline_s(request.timeout_ms)
        reads, _ = await self._read(
            homes, Read(partition, key), quorum, own_votes=0, deadline_s=deadline_s, sloppy=sloppy
        )
        answers = _answers(reads, b"")
        state = all_merged(answers, reads.hinted)
        corrupt = self._view.me.node_id in homes
        if state and corrupt:
            self._replica.store(partition, key, state)
            self.repairs += 1
        if request.session:
            await self._sessions.refuse_stale(
                partition, state, request.session, quorum, [node for node, _, _ in answers], deadline_s
            )
        if request.monotonic:
            await self._make_durable(partition, key, state, answers, quorum, deadline_s)
        return self._got(properties, quorum, state, answers, int(corrupt), reads.hinted)

    async def _make_durable(
        self,
        partition: int,
        key: bytes,
        state: bytes,
        answers: list[tuple[NodeId, float, bytes]],
        quorum: Quorum,
        deadline_s: float,
    ) -> None:
        """Monotonic reads: R replicas hold durably what is about to be shown.

        Those that answered with all of it are sent it too: an answer says what is in the engine, and a write
        that nobody was told of may still be on its way to the disk. They write nothing and wait for a sync.
        """
        if state:
            nodes = [node for node, _, _ in answers]
            votes = await self._repair.voted(partition, key, state, nodes, quorum.r, deadline_s)
            if votes.tally.outcome is LOST:
                raise lost(votes, quorum.r, 0, self._view.name_of, outcome="failed")

    def _got(
        self,
        properties: BucketProperties,
        quorum: Quorum,
        state: bytes,
        answers: list[tuple[NodeId, float, bytes]],
        repairs: int,
        hinted: Hinted = (),
    ) -> Got:
        replicas = tuple(
            [
                (node, elapsed_s * 1000, "same" if held == state else "older")
                for node, elapsed_s, held in answers
            ]
        )
        acks = min(len(answers) + len(hinted), quorum.n) if hinted else len(answers)
        receipt = self._receipt(quorum.n, quorum.r, acks, replicas, repairs, hinted)
        return Got(state, properties.last_write_wins, receipt)

    # --- put and delete -----------------------------------------------------------------------------

    async def put(self, request: Put) -> Written:
        """Write here, send the resulting state to the other homes, answer after W durable copies.

        Raises QuorumUnavailable (nothing applied), QuorumNotMet (applied somewhere), StorageFull,
        PreconditionFailed, ContextRequired, InvalidRequest, NotReady. Nothing is rolled back.
        """
        properties = self._buckets.properties(request.bucket)
        quorum = _quorum(properties, n=request.n, w=request.w, pw=request.pw)
        key = full_key(request.bucket, request.key)
        partition = partition_of(key)
        homes = self._view.homes(partition, quorum.n)
        me = self._view.me.node_id
        sloppy = _sloppy(request, properties)
        stand_in: StandInCopy | None = None
        if me not in homes:
            written = await self.forwarding.write(request, homes, partition, sloppy=sloppy)
            if written is not None:
                return written
            stand_in = self._stand_ins.copy(homes)
        self._refuse_small_cluster(homes, quorum)
        here: Sequence[NodeId] = homes
        if self._reach.doubts is not None:
            here = [node for node in homes if node == me or self._reach(node)]
        if len(here) < quorum.n:
            self._stand_ins.refuse_too_few(partition, homes, here, quorum, sloppy=sloppy)

        token = None if request.context is None else decode_context(request.context)
        if request.if_match is not None or request.if_absent:
            token = await self._precondition(request, properties, token)
        sync = (request.durability or properties.durability) == "sync"
        minted = (stand_in or self._replica).write(
            partition,
            key,
            self._version(request, properties),
            context=token,
            blind="overwrite" if properties.last_write_wins else (request.mode or properties.blind),
            timed=properties.last_write_wins,
        )

        hlc_time = minted.hlc_time if properties.last_write_wins else 0
        store = Store(partition, key, minted.state, sync, hlc_time, minted.base, minted.dot[0])
        timeout_s = request.timeout_ms / 1000
        instead = partial(self._stand_ins.home_failed, store, homes, sloppy, timeout_s)
        votes = self.fan_out(Tally(asked=len(here), need=quorum.w, need_primaries=quorum.pw), instead)
        deadline_s = self._peer_deadline_s(request.timeout_ms)
        for node in here:
            if node != me:
                votes.ask(node, store, deadline_s)
        standing_for = stand_in.target if stand_in else None
        if len(here) < quorum.n:
            self._stand_ins.replace_the_absent(votes, store, homes, here, sloppy, timeout_s, standing_for)
        if sync:
            votes.vote(me, self._replica.sync(), _STORED, standing_for)
        else:
            votes.vote_now(me, _STORED, standing_for)
        if await votes.decided() is LOST:
            raise lost(votes, quorum.w, 0, self._view.name_of, outcome="unknown")

        dot, siblings = minted.dot, minted.siblings
        context = encode_context_of(dot) if token is None else encode_context(token.add(dot))
        replicas = tuple([(node, elapsed_s * 1000, "ok") for node, _, elapsed_s in votes.answers])
        receipt = self._receipt(quorum.n, quorum.w, votes.tally.acks, replicas, 0, votes.hinted)
        return Written(context, etag(siblings), len(siblings), receipt)

    def _version(self, request: Put, properties: BucketProperties) -> Version:
        ttl_ms = int(properties.ttl_s * 1000) if request.ttl_ms is None else request.ttl_ms
        return Version(
            request.value,
            request.tombstone,
            request.content_type,
            request.metadata,
            0,
            request.operation_id,
            self._wall.now_ms() + ttl_ms if ttl_ms and not request.tombstone else 0,
        )

    async def _precondition(
        self, request: Put, properties: BucketProperties, token: CausalContext | None
    ) -> CausalContext:
        """Compare with what a quorum knows; the write then supersedes exactly that.

        Not linearizable: of two writers with one ETag both may pass, and leave siblings.
        """
        read = Get(
            request.bucket, request.key, request.n, timeout_ms=request.timeout_ms, sloppy=request.sloppy
        )
        got = await self.get(read)
        state = read_own(got.state) if got.state else EMPTY_STATE
        present = shown(state, self._wall.now_ms(), last_write_wins=properties.last_write_wins)
        tag = etag(state.siblings) if present else None
        if request.if_absent and present:
            raise PreconditionFailed("the key has a value already (If-None-Match: *)")
        if request.if_match is not None and (tag is None or request.if_match not in ("*", tag)):
            raise PreconditionFailed(
                f"the current ETag is {tag or 'none: the key has no value'}, not {request.if_match}",
                advice="get the key again and decide on what it holds now",
            )
        return state.context.join(token) if token else state.context

    # --- shared -------------------------------------------------------------------------------------

    def fan_out(self, tally: Tally, instead: Instead | None = None) -> FanOut:
        return FanOut(self._loop, self._peers, self._reach, self._now, tally, instead, grace=self._grace)

    def _receipt(
        self, n: int, required: int, acks: int, replicas: Replicas, repairs: int, hinted: Hinted = ()
    ) -> Receipt:
        layout = self._view.layout
        version = layout.version if layout else 0
        homes: tuple[NodeId, ...] = ()
        if hinted:
            replicas, homes = replicas + replicas_of(hinted), homes_of(hinted)
        return Receipt(self._view.me.node_id, n, required, acks, replicas, homes, repairs, version)

    def _refuse_small_cluster(self, homes: Sequence[NodeId], quorum: Quorum) -> None:
        if len(homes) < quorum.n:
            raise InvalidRequest(
                f"n={quorum.n} needs {quorum.n} nodes, the cluster has {len(homes)}",
                advice="set a smaller n for this bucket, or add nodes",
            )

    def _peer_deadline_s(self, timeout_ms: int) -> float:
        return min(self._limits.peer_deadline_s, timeout_ms / 1000)


def _quorum(
    properties: BucketProperties,
    *,
    n: int | None = None,
    r: int | None = None,
    w: int | None = None,
    pr: int | None = None,
    pw: int | None = None,
) -> Quorum:
    if n is None and r is None and w is None and pr is None and pw is None:
        return properties.default_quorum
    return properties.quorum(n=n, r=r, w=w, pr=pr, pw=pw)


def _sloppy(request: Get | Put, properties: BucketProperties) -> bool:
    return properties.sloppy if request.sloppy is None else request.sloppy


def _answers(reads: FanOut, mine: bytes) -> list[tuple[NodeId, float, bytes]]:
    """(node, seconds, state): a replica that holds the same need not have sent it."""
    answers = []
    for node, reply, elapsed_s in reads.answers:
        held = cast(Held, reply)
        answers.append((node, elapsed_s, mine if held.same else held.state))
    return answers
