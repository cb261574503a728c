"""Sloppy quorums: who stands in for homes that are away, for writes and for reads.

Source: Dynamo §4.6. A home that is out of reach, or does not answer, gets a stand-in: the next node in
another failure domain, which keeps the state as a hint. Its vote counts towards W where the request is
sloppy, never towards pw; what it holds counts towards R, never towards pr, and that it holds nothing
says nothing (B25). Nothing here runs while all homes answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import cast

from kvstore.core.encoding import read_own
from kvstore.core.limits import Limits
from kvstore.core.membership import NodeId
from kvstore.core.message import FetchHints, HintsHeld, Read, Store, StoreHint
from kvstore.core.preference_list import stand_ins
from kvstore.core.quorum import Outcome, Quorum
from kvstore.core.read_repair import merged
from kvstore.core.sibling import Version
from kvstore.core.vector_clock import CausalContext
from kvstore.errors import KVStoreError, PeerRefused, QuorumUnavailable, RequestError, StorageError, named
from kvstore.node.cluster_view import ClusterView
from kvstore.node.fan_out import FanOut, Hinted
from kvstore.node.hint_store import HintStore
from kvstore.node.hybrid_time import HybridTime
from kvstore.node.ports import Kind, Random, Storage, Write
from kvstore.node.reach import Reach
from kvstore.node.replica import Minted, Replica

READ_STAND_INS_PER_HOME = 2  # hints lie with the first nodes of the list that were in reach at the time


Replicas = tuple[tuple[NodeId, float, str], ...]
"""As in Receipt."""


class StandIns:
    """Who stands in, and this node as a stand-in."""

    def __init__(
        self,
        *,
        view: ClusterView,
        hints: HintStore,
        reach: Reach,
        random: Random,
        time: HybridTime,
        limits: Limits,
        now: Callable[[], float],
    ) -> None:
        self._view, self._hints, self._reach, self._now = view, hints, reach, now
        self._random, self._time, self._limits = random, time, limits

    def in_reach(self, partition: int, n: int, in_play: Sequence[NodeId]) -> list[NodeId]:
        """The others that may stand in, the best one first."""
        layout, me = self._view.layout, self._view.me.node_id
        assert layout is not None, "asked before there are homes"
        return [node for node in stand_ins(layout, partition, n, in_play) if node != me and self._reach(node)]

    def can_be_me(self, partition: int, n: int) -> bool:
        """Whether this node may stand in: one that holds no data and only coordinates may not."""
        layout = self._view.layout
        return layout is not None and self._view.me.node_id in stand_ins(layout, partition, n, ())

    def refuse_too_few(
        self, partition: int, homes: Sequence[NodeId], here: Sequence[NodeId], quorum: Quorum, *, sloppy: bool
    ) -> None:
        """Raises QuorumUnavailable if the homes that are `here` and those who may stand in cannot make W.

        `here` names this node too, if it is a home.
        """
        me = self._view.me.node_id
        standing = 0
        if sloppy:
            standing = len(self.in_reach(partition, len(homes), here)) + (me not in homes)
            standing = min(standing, len(homes) - len(here))
        if len(here) >= quorum.pw and len(here) + standing >= quorum.w:
            return
        need = f"{quorum.w} are needed" + (f", {quorum.pw} of them homes" if quorum.pw else "")
        raise QuorumUnavailable(
            f"{len(here)} of the {len(homes)} homes of this key are in reach, {standing} can be stood in for,"
            f" {need}",
            required=quorum.w,
            received=len(here) + standing,
            asked=len(homes),
            hinted=standing,
            replicas=tuple(
                (self._view.name_of(node), "in reach" if node in here else "out of reach") for node in homes
            ),
            advice="nothing was applied: send it again, or ask for a smaller w",
        )

    # --- writes -------------------------------------------------------------------------------------

    def home_failed(
        self,
        store: Store,
        homes: Sequence[NodeId],
        sloppy: bool,
        timeout_s: float,
        votes: FanOut,
        home: NodeId,
        error: KVStoreError,
    ) -> None:
        """A home did not take its copy. One that refused the write itself gets no second way to it."""
        if not (isinstance(error, PeerRefused) and issubclass(named(error.code), RequestError)):
            self.hand_off(store, homes, sloppy, timeout_s, votes, home)

    def hand_off(
        self,
        store: Store,
        homes: Sequence[NodeId],
        sloppy: bool,
        timeout_s: float,
        votes: FanOut,
        home: NodeId,
    ) -> None:
        """Ask one stand-in for `home`, the next one if it fails. If none is left: leave a mark.

        Also after the write is decided: it should end with N copies. Where it is `sloppy` and has time
        left (`timeout_s` since it began), the answer is a vote.
        """
        failed = [node for node, _, _ in votes.failures]
        in_play = [node for node in homes if node != home and node not in failed and self._reach(node)]
        candidates = self.in_reach(store.partition, len(homes), [*in_play, *votes.stand_ins])
        node = next((node for node in candidates if node not in votes.stand_ins), None)
        if node is None:
            with suppress(StorageError):
                self._hints.missed(store.partition, home)
            return
        left_s = votes.started_s + timeout_s - self._now()
        counts = sloppy and left_s > 0
        hint = StoreHint(store.partition, store.key, store.state, home, store.sync, store.hlc_time)
        deadline_s = min(self._limits.peer_deadline_s, left_s) if counts else self._limits.peer_deadline_s
        again = partial(self.hand_off, store, homes, sloppy, timeout_s, votes, home)
        votes.ask_stand_in(node, hint, deadline_s, counts=counts, home=home, instead=again)

    def replace_the_absent(
        self,
        votes: FanOut,
        store: Store,
        homes: Sequence[NodeId],
        here: Sequence[NodeId],
        sloppy: bool,
        timeout_s: float,
        standing_for: NodeId | None,
    ) -> None:
        """Ask stand-ins for the homes that are not `here`, at once; this node may be one already."""
        if standing_for is not None:
            votes.tally.ask_one_more(primary=False)
            votes.stand_ins += (self._view.me.node_id,)
        for home in homes:
            if home not in here and home != standing_for:
                self.hand_off(store, homes, sloppy, timeout_s, votes, home)

    def copy(self, homes: Sequence[NodeId]) -> StandInCopy:
        """Where this node writes if it stands in for one of these homes."""
        return StandInCopy(self._hints, self._random, self._time, self._limits, homes)

    # --- reads --------------------------------------------------------------------------------------

    def reader_failed(
        self,
        read: Read,
        homes: Sequence[NodeId],
        others: list[NodeId],
        sloppy: bool,
        deadline_s: float,
        reads: FanOut,
        _failed: NodeId,
        _error: KVStoreError,
    ) -> None:
        """Ask the next home in its place, and when there is none left the stand-ins."""
        if reads.tally.outcome is not Outcome.PENDING:
            return
        if others:
            reads.ask_one_more(others.pop(0), read, deadline_s)
        elif sloppy:
            self.ask_for_hints(reads, read.partition, read.key, homes, deadline_s)

    def ask_for_hints(
        self, votes: FanOut, partition: int, key: bytes, homes: Sequence[NodeId], deadline_s: float
    ) -> None:
        """Ask what others keep of this key for homes, and look here if this node is no home itself."""
        me = self._view.me.node_id
        if me not in homes and me not in [node for node, _, _, _ in votes.hinted]:
            state, targets = self._hints.held(partition, key)
            if state:
                votes.tally.ask_one_more(primary=False)
                votes.vote_now(me, HintsHeld(state, targets), home="")
        in_play = [node for node in homes if self._reach(node)]
        asked = self.in_reach(partition, len(homes), in_play)[: READ_STAND_INS_PER_HOME * len(homes)]
        for node in asked:
            if node not in votes.stand_ins:
                votes.ask_stand_in(node, FetchHints(partition, key), deadline_s, counts=True)


def all_merged(answers: Iterable[tuple[NodeId, float, bytes]], hinted: Hinted) -> bytes:
    """What homes and stand-ins know together; b"" if none of them knows the key."""
    states = [state for _, _, state in answers]
    return merged([*states, *(cast(HintsHeld, answer).state for _, answer, _, _ in hinted)])


def replicas_of(hinted: Hinted) -> Replicas:
    """As a receipt tells of them."""
    return tuple((node, elapsed_s * 1000, "hinted") for node, _, elapsed_s, _ in hinted)


def homes_of(hinted: Hinted) -> tuple[NodeId, ...]:
    """The homes that these answers stand in for, in order of arrival, each once."""
    found: dict[NodeId, None] = {}
    for _, answer, _, home in hinted:
        found.update(dict.fromkeys(answer.targets if isinstance(answer, HintsHeld) else (home,)))
    return tuple(found)


class StandInCopy:
    """One key as a stand-in writes it: a copy like a home's, whose replica id lives in the hint.

    A stand-in mints only when no home can be reached, and with an id that is fresh whenever it keeps no
    hint of its own for the key: a longer-lived id would cover dots that it has forgotten (B4, B7).
    """

    def __init__(
        self, hints: HintStore, random: Random, time: HybridTime, limits: Limits, homes: Sequence[NodeId]
    ) -> None:
        self._hints, self._random, self._time, self._limits = hints, random, time, limits
        self._homes = homes
        self.target = homes[0]
        self._held, self._timed, self._kept = b"", False, False

    def write(
        self,
        partition: int,
        key: bytes,
        version: Version,
        *,
        context: CausalContext | None,
        blind: str,
        timed: bool = False,
    ) -> Minted:
        """As Replica.write, on the merge of the hints here, into the one for `target`. Raises Overloaded."""
        self._timed = timed
        self._held, _ = self._hints.held(partition, key)
        replica = Replica(cast(Storage, self), self._random, self._time, self._limits)
        # Asked after that: a record found unreadable takes its replica id with it (B3).
        last = self._hints.last_dot(key)
        if last is not None and last[1] in self._homes:
            self.target = last[1]
            replica.resume(partition, last[0])
        minted = replica.write(partition, key, version, context=context, blind=blind, timed=timed)
        if self._kept:
            self._hints.made(key, minted.dot, self.target)
        return minted

    # --- what a Replica needs of its storage ----------------------------------------------------------

    def get(self, _kind: Kind, _partition: int, _key: bytes) -> bytes | None:
        return self._held or None

    def apply(self, batch: Sequence[Write]) -> None:
        for _, partition, key, state in batch:
            assert state is not None, "a write deletes nothing"
            hlc_time = newest_time(state) if self._timed else 0
            self._hints.keep(partition, key, self.target, state, hlc_time)
            self._kept = True


def newest_time(state: bytes) -> int:
    """HLC time of the newest version."""
    return max((version.hlc_time for version in read_own(state).siblings.values()), default=0)
