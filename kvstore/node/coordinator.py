"""A get, a put and a delete across the replicas: read it from top to bottom.

Source: Dynamo §4.5 (quorums), §5 (read repair). The coordinator of a request is one of the homes of
its key; any other node forwards it once. Coordinators share no state with each other or with the
next request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar, cast

from kvstore.core.bucket import BucketProperties
from kvstore.core.encoding import (
    decode_causal,
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
from kvstore.core.quorum import Outcome, Quorum, Tally
from kvstore.core.read_repair import merged, plan_read_repair
from kvstore.core.ring import full_key, partition_of
from kvstore.core.sibling import EMPTY_STATE, Version, shown
from kvstore.core.vector_clock import EMPTY_CONTEXT, CausalContext
from kvstore.errors import (
    CorruptRecord,
    InvalidRequest,
    KVStoreError,
    NotReady,
    PeerError,
    PeerRefused,
    PreconditionFailed,
    QuorumNotMet,
    QuorumUnavailable,
    StaleRead,
    named,
)
from kvstore.node.bucket_registry import BucketRegistry
from kvstore.node.cluster_view import ClusterView
from kvstore.node.fan_out import FanOut
from kvstore.node.ports import Peers, WallClock
from kvstore.node.reach import Reach
from kvstore.node.replica import Replica

_STORED = Stored()
_R = TypeVar("_R", Got, Written)


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
        wall: WallClock,
        limits: Limits,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._view, self._buckets, self._replica, self._peers = view, buckets, replica, peers
        self._reach, self._wall, self._limits, self._spawn = reach, wall, limits, spawn
        self._loop = asyncio.get_running_loop()
        self._now = wall.elapsed_s
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
        if me not in homes:
            return await self._forward(request, homes, Got)
        self._refuse_small_cluster(homes, quorum)

        started_s = self._now()
        deadline_s = self._peer_deadline_s(request.timeout_ms)
        try:
            mine = self._replica.read(partition, key)
        except CorruptRecord:
            return await self._get_past_corruption(request, properties, quorum, homes, partition, key)
        local = (me, self._now() - started_s, mine)
        if quorum.r == 1 and not request.session:
            return self._got(properties, quorum, mine, [local], 0)

        read = Read(partition, key, digest(mine))
        reads, others = await self._read(homes, read, quorum.r, own_votes=1, deadline_s=deadline_s)
        answers = [local, *_answers(reads, mine)]
        # An equal replica's answer is `mine` itself: the usual read merges and plans nothing.
        equal = all(state is mine for _, _, state in answers)
        state = mine if equal else merged(state for _, _, state in answers)
        if equal and not request.session:
            return self._got(properties, quorum, mine, answers, 0)
        if request.session and not _covers(state, request.session):
            answers += await self._ask_the_rest(others, read, mine, deadline_s)
            state = merged(state for _, _, state in answers)
            self._refuse_stale(state, request.session, quorum, len(answers))
        lacking = plan_read_repair(state, [(node, held) for node, _, held in answers])
        if lacking:
            self._count_repairs(len(lacking))
            repair = self._repair(partition, key, state, lacking, deadline_s)
            if request.monotonic:
                await self._repaired(repair, quorum, len(answers) - len(lacking))
            else:
                self._spawn(_ignoring_votes(repair))
        return self._got(properties, quorum, state, answers, len(lacking))

    async def _read(
        self, homes: Sequence[NodeId], read: Read, need: int, *, own_votes: int, deadline_s: float
    ) -> tuple[FanOut, list[NodeId]]:
        """Ask as many homes as are needed; one more for each that fails. Returns those not asked, too."""
        self._turn += 1
        me = self._view.me.node_id
        others = [node for node in by_reach(homes, me, self._reach, self._turn) if node != me]
        to_ask = min(need - own_votes, len(others))
        tally = Tally(asked=to_ask, need=need - own_votes)
        reads = FanOut(
            self._loop, self._peers, self._reach, self._now, tally, lambda: others.pop(0) if others else None
        )
        for _ in range(to_ask):
            reads.ask(others.pop(0), read, deadline_s)
        if await reads.decided() is Outcome.LOST:
            raise _lost(reads, need, own_votes, self._view, outcome="failed")
        return reads, others

    async def _ask_the_rest(
        self, others: list[NodeId], read: Read, mine: bytes, deadline_s: float
    ) -> list[tuple[NodeId, float, bytes]]:
        """For a session: whoever was not asked may have what it has seen."""
        tally = Tally(asked=len(others), need=len(others))
        reads = self._fan_out(tally)
        for node in others:
            reads.ask(node, read, deadline_s)
        if others:
            await reads.decided()
        return _answers(reads, mine)

    async def _get_past_corruption(
        self,
        request: Get,
        properties: BucketProperties,
        quorum: Quorum,
        homes: Sequence[NodeId],
        partition: int,
        key: bytes,
    ) -> Got:
        """An unreadable record is "don't know": R others must answer, and they heal this copy."""
        deadline_s = self._peer_deadline_s(request.timeout_ms)
        reads, _ = await self._read(homes, Read(partition, key), quorum.r, own_votes=0, deadline_s=deadline_s)
        answers = _answers(reads, b"")
        state = merged(state for _, _, state in answers)
        if state:
            self._replica.store(partition, key, state)
            self._count_repairs(1)
        if request.session:
            self._refuse_stale(state, request.session, quorum, len(answers))
        return self._got(properties, quorum, state, answers, 1)

    def _got(
        self,
        properties: BucketProperties,
        quorum: Quorum,
        state: bytes,
        answers: list[tuple[NodeId, float, bytes]],
        repairs: int,
    ) -> Got:
        replicas = tuple(
            [
                (node, elapsed_s * 1000, "same" if held == state else "older")
                for node, elapsed_s, held in answers
            ]
        )
        receipt = self._receipt(quorum.n, quorum.r, len(answers), replicas, repairs)
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
        if me not in homes:
            return await self._forward(request, homes, Written)
        self._refuse_small_cluster(homes, quorum)
        others = self._within_reach(homes, quorum.w)

        token = None if request.context is None else decode_context(request.context)
        if request.if_match is not None or request.if_absent:
            token = await self._precondition(request, properties, token)
        sync = (request.durability or properties.durability) == "sync"
        minted = self._replica.write(
            partition,
            key,
            self._version(request, properties),
            context=token,
            blind="overwrite" if properties.last_write_wins else (request.mode or properties.blind),
            timed=properties.last_write_wins,
        )

        votes = self._fan_out(Tally(asked=1 + len(others), need=quorum.w))
        hlc_time = minted.hlc_time if properties.last_write_wins else 0
        store = Store(partition, key, minted.state, sync, hlc_time, minted.base, minted.dot[0])
        deadline_s = self._peer_deadline_s(request.timeout_ms)
        for node in others:
            votes.ask(node, store, deadline_s)
        if sync:
            votes.vote(me, self._replica.sync(), _STORED)
        else:
            votes.vote_now(me, _STORED)
        if await votes.decided() is Outcome.LOST:
            raise _lost(votes, quorum.w, 0, self._view, outcome="unknown")

        dot, siblings = minted.dot, minted.siblings
        context = encode_context_of(dot) if token is None else encode_context(token.add(dot))
        replicas = tuple([(node, elapsed_s * 1000, "ok") for node, _, elapsed_s in votes.answers])
        receipt = self._receipt(quorum.n, quorum.w, votes.tally.acks, replicas, 0)
        return Written(context, etag(siblings), len(siblings), receipt)

    def _within_reach(self, homes: Sequence[NodeId], need: int) -> list[NodeId]:
        """The other homes worth asking. Raises QuorumUnavailable if they are too few for W."""
        me = self._view.me.node_id
        reach = self._reach
        others = [node for node in homes if node != me and reach(node)]
        if len(others) + 1 < need:
            raise QuorumUnavailable(
                f"{len(others) + 1} of the {len(homes)} homes of this key are in reach, {need} are needed",
                required=need,
                received=len(others) + 1,
                asked=len(homes),
                replicas=tuple(
                    (self._view.name_of(node), "in reach" if node == me or reach(node) else "out of reach")
                    for node in homes
                ),
                advice="nothing was applied: send it again, or ask for a smaller w",
            )
        return others

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
        got = await self.get(Get(request.bucket, request.key, n=request.n, timeout_ms=request.timeout_ms))
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

    async def _forward(self, request: Get | Put, homes: Sequence[NodeId], expected: type[_R]) -> _R:
        """To one home, once. Another one only if nothing was sent, or if it is a read."""
        if request.forwarded:
            raise NotReady("forwarded to a node that is no home of the key: the layouts differ")
        self._turn += 1
        last: KVStoreError | None = None
        for node in by_reach(homes, self._view.me.node_id, self._reach, self._turn):
            self._reach.asked(node)
            try:
                # The home needs some of the time for its own replicas; this wait is the outer one.
                call = self._peers.call(node, request._replace(forwarded=True), request.timeout_ms / 1000)
                reply = await call
            except PeerRefused as refusal:
                self._reach.succeeded(node)
                if refusal.code not in ("NotReady", "Overloaded"):
                    raise _as_raised_there(refusal) from None
                last = refusal
            except PeerError as error:
                self._reach.failed(node, hard=not error.sent)
                if error.sent and expected is Written:
                    detail = f"forwarded to {self._view.name_of(node)}, which did not answer: {error.detail}"
                    raise QuorumNotMet(detail, outcome="unknown") from None
                last = error
            else:
                self._reach.succeeded(node)
                return cast(_R, reply)
        raise QuorumUnavailable(
            f"no home of this key is in reach; the last one said: {last.detail if last else 'nothing'}",
            required=1,
            asked=len(homes),
        )

    async def _repair(
        self, partition: int, key: bytes, state: bytes, lacking: list[NodeId], deadline_s: float
    ) -> FanOut:
        """Send the merge to those that lack some of it; returns when all have answered or failed."""
        me = self._view.me.node_id
        votes = FanOut(
            self._loop, self._peers, self._reach, self._now, Tally(asked=len(lacking), need=len(lacking))
        )
        for node in lacking:
            if node == me:
                self._replica.store(partition, key, state)
                votes.vote(me, self._replica.sync(), _STORED)
            else:
                votes.ask(node, Store(partition, key, state), deadline_s)
        await votes.decided()
        return votes

    async def _repaired(self, repair: Coroutine[Any, Any, FanOut], quorum: Quorum, have: int) -> None:
        """Monotonic reads: R replicas hold durably what is about to be shown."""
        votes = await repair
        if have + votes.tally.acks < quorum.r:
            raise _lost(votes, quorum.r, have, self._view, outcome="failed")

    def _fan_out(self, tally: Tally, instead: Callable[[], NodeId | None] | None = None) -> FanOut:
        return FanOut(self._loop, self._peers, self._reach, self._now, tally, instead)

    def _receipt(
        self, n: int, required: int, acks: int, replicas: tuple[tuple[NodeId, float, str], ...], repairs: int
    ) -> Receipt:
        layout = self._view.layout
        version = layout.version if layout else 0
        return Receipt(self._view.me.node_id, n, required, acks, replicas, (), repairs, version)

    def _refuse_small_cluster(self, homes: Sequence[NodeId], quorum: Quorum) -> None:
        if len(homes) < quorum.n:
            raise InvalidRequest(
                f"n={quorum.n} needs {quorum.n} nodes, the cluster has {len(homes)}",
                advice="set a smaller n for this bucket, or add nodes",
            )

    def _refuse_stale(self, state: bytes, session: bytes, quorum: Quorum, answers: int) -> None:
        if not _covers(state, session):
            raise StaleRead(
                "no replica in reach has what this session has already seen",
                required=quorum.r,
                received=answers,
                asked=quorum.n,
            )

    def _peer_deadline_s(self, timeout_ms: int) -> float:
        return min(self._limits.peer_deadline_s, timeout_ms / 1000)

    def _count_repairs(self, count: int) -> None:
        self.repairs += count


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


def _as_raised_there(refusal: PeerRefused) -> KVStoreError:
    """The home's own error, with its outcome and counts."""
    error = named(refusal.code)(refusal.detail, outcome=refusal.outcome, advice=refusal.advice)
    for name, count in refusal.problem.items():
        if hasattr(error, name):
            setattr(error, name, count)
    return error


def _answers(reads: FanOut, mine: bytes) -> list[tuple[NodeId, float, bytes]]:
    """(node, seconds, state): a replica that holds the same need not have sent it."""
    answers = []
    for node, reply, elapsed_s in reads.answers:
        held = cast(Held, reply)
        answers.append((node, elapsed_s, mine if held.same else held.state))
    return answers


def _covers(state: bytes, session: bytes) -> bool:
    seen = decode_context(session)
    return decode_causal(state).context.includes(seen) if state else seen == EMPTY_CONTEXT


async def _ignoring_votes(repair: Coroutine[Any, Any, FanOut]) -> None:
    await repair


def _lost(votes: FanOut, need: int, own_votes: int, view: ClusterView, *, outcome: str) -> KVStoreError:
    """A vote that is lost, with what each replica did. A failed disk here speaks for itself."""
    replicas = [(view.name_of(node), "answered") for node, _, _ in votes.answers]
    replicas += [(view.name_of(node), type(error).__name__) for node, error, _ in votes.failures]
    return QuorumNotMet(
        required=need,
        received=own_votes + votes.tally.acks,
        asked=own_votes + votes.tally.asked,
        replicas=tuple(replicas),
        outcome=outcome,
        advice="the write may be applied: send it again with the same Idempotency-Key"
        if outcome == "unknown"
        else "send it again, or ask for a smaller r",
    )
