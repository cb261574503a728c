"""A node that starts serves nobody until a majority of the members remembers this run of it.

Until then it is not known whether its directory is the newest that this node had. What the peers remember
tells (core/generation.py): a run from the past takes a new incarnation and new replica ids, sets its data and
hints aside, and is filled by the peers (node/recovery.py). It is not merged: it may hold what everybody
else has deleted and forgotten. A second process on a copy is remembered by no majority while the first is
heard, and ends itself (rpc/peer_client.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, cast

from kvstore.core.generation import Run, furthest, is_exclusive, is_from_the_past, is_recognized
from kvstore.core.gossip_message import Gossip, Gossiped
from kvstore.core.layout import Layout
from kvstore.core.membership import NodeId
from kvstore.core.message import (
    Commit,
    FetchBucket,
    FetchCluster,
    Get,
    Propose,
    Put,
    Release,
    Reply,
    Request,
    StoreBucket,
)
from kvstore.core.outcome import AskOutcome
from kvstore.core.ring import PARTITIONS
from kvstore.errors import ConfigError, KVStoreError, NotReady, StorageError, StorageFailed, StorageFull
from kvstore.node.cluster_view import ClusterView, recovering
from kvstore.node.gossip import GossipLoop
from kvstore.node.ports import Peers, Random, Storage
from kvstore.node.recovery import Recovery
from kvstore.node.replica import Replica
from kvstore.node.runs import Runs

CALL_S = 0.5
PAUSE_S = 0.1
PROGRESS_S = 0.5
"""What was acknowledged so shortly before a copy of the directory was taken may not show that it is one."""

Answer = Callable[[Any], Reply | asyncio.Future[Any]]
"""What answers a request of a peer: with a reply or a future of one."""

_ANSWERED_AT_ONCE = (Gossip, FetchCluster, Propose, Commit, Release, StoreBucket, FetchBucket)


class Recognition:
    """`on_recognized` is awaited once, when the node may serve; `fatal` ends it.

    `changes()`: anything that differs after a write. `renewals`: how often this run was found to be from the
    past.
    """

    def __init__(
        self,
        *,
        view: ClusterView,
        runs: Runs,
        storage: Storage,
        replica: Replica,
        recovery: Recovery,
        gossip: GossipLoop,
        peers: Peers,
        random: Random,
        changes: Callable[[], object],
        on_recognized: Callable[[], Awaitable[None]],
        fatal: Callable[[KVStoreError], None],
        report: Callable[..., None],
    ) -> None:
        self._view, self._runs, self._storage, self._replica = view, runs, storage, replica
        self._recovery, self._gossip, self._peers, self._random = recovery, gossip, peers, random
        self._changes, self._on_recognized = changes, on_recognized
        self._fatal, self._report = fatal, report
        self._granted: dict[NodeId, None] = {}
        self._is_empty = view.is_empty
        # An identity that nobody has met has nothing to forget.
        self.recognized = gossip.recognized = view.is_new
        self.renewals = 0

    async def run(self) -> None:
        """Until recognized; from then on tells the peers how far this directory has come. Until cancelled."""
        while not self.recognized:
            if self._view.layout is not None:
                await self._round(self._view.layout)
            if not self.recognized:
                await asyncio.sleep(PAUSE_S * self._random.uniform("recognition-pause", 0.5, 1.5))
        told: object = None
        place_is_known = False
        while True:
            await asyncio.sleep(PROGRESS_S)
            if not place_is_known and self._view.layout is not None:
                place_is_known = self._has_place(self._view.layout)
            if told != (changes := self._changes()):
                with suppress(StorageFull):
                    await self._runs.advance()
                    told = changes

    async def _round(self, layout: Layout) -> None:
        """Ask all members at once, whoever it takes: one alone may know that this directory is old."""
        if not self._has_place(layout):
            return
        others = [m.node_id for m in layout.members if m.node_id != self._view.me.node_id]
        calls = [self._peers.call(node, self._gossip.mine(), CALL_S) for node in others]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        heard = [(n, cast(Gossiped, a)) for n, a in zip(others, answers, strict=True) if _is_answer(a)]
        told = [run for _, gossiped in heard for run in gossiped.runs if run.node_id == self._view.me.node_id]
        ahead = [run for run in told if is_from_the_past(self._runs.mine, run)]
        if ahead:
            self.from_the_past(furthest(ahead))
        for node, gossiped in heard:
            with suppress(StorageFull):  # what it tells of others is told again
                self._gossip.learn(gossiped)
            mine = self._runs.mine
            if any((run.run, run.incarnation) == (mine.run, mine.incarnation) for run in gossiped.runs):
                self._granted[node] = None
        members = len(others) + (len(others) < len(layout.members))
        if not is_recognized(len(self._granted) - (members == len(others)), members):
            return
        if not is_exclusive(len(self._granted), members):
            self._replica.renew_all()  # a twin may have been remembered by the others
        self.recognized = self._gossip.recognized = True
        await self._on_recognized()

    def from_the_past(self, remembered: Run) -> None:
        """A peer remembers a run that this one does not come from.

        Once this node serves, what it holds is no longer only old: its copies recover as they are.
        """
        run, identity = self._runs.renew(remembered)
        batch, aside = [identity, recovering(range(PARTITIONS))], ""
        try:
            if self.recognized or self._is_empty:
                self._storage.apply(batch)
                self._runs.untold_until(self._storage.sync())
            else:
                aside = self._storage.set_aside(batch)
                self._is_empty = True
        except StorageFailed:
            raise
        except StorageError as error:
            self._report("a copy from the past cannot be set aside", reason=error.detail)
            return
        self.renewals += 1
        self._runs.become(run)
        self._granted.clear()
        self._replica.renew_all()
        self._recovery.begin()
        if self.recognized:
            self._recovery.ask()
        what = "empty" if self._view.is_empty else "restored or cloned"
        self._report(
            f"{what} data directory: new replica ids, every copy recovers from its other homes",
            incarnation=run.incarnation,
            set_aside=aside,
        )

    def told(self) -> tuple[bool, str]:
        """(whether this node may serve, in words)."""
        left = len(self._replica.recovering)
        if not self.recognized:
            return False, f"a majority of the members has to answer; so far {len(self._granted)} did"
        return True, f"done; {left} copies recover from the other homes" if left else "done"

    def _has_place(self, layout: Layout) -> bool:
        """Whether this node may be what it says it is. If not, it ends, and says what to do."""
        view, me = self._view, self._view.me
        if any(member.node_id == me.node_id for member in layout.members):
            return True
        members = [view.members.get(member.node_id, member) for member in layout.members]
        known = ", ".join(f"{member.name} {member.node_id}" for member in members)
        if self._replica.recovering:
            self._fatal(
                ConfigError(f"recover_as={me.node_id} is no member of this cluster", advice=f"known: {known}")
            )
            return False
        for member in members:
            if me.rpc_address and member.rpc_address == me.rpc_address:
                self._fatal(
                    ConfigError(
                        f"the data directory is empty, and {me.rpc_address} is the address of {member.name}"
                        f" ({member.node_id}), a member of this cluster",
                        advice=f"if its data are lost, start with recover_as={member.node_id}: the other"
                        " homes fill it; otherwise give this node its own data directory, or another address",
                    )
                )
                return False
        return True


def _is_answer(answer: Reply | BaseException) -> bool:
    if isinstance(answer, BaseException) and not isinstance(answer, KVStoreError):
        raise answer
    return not isinstance(answer, BaseException)


def before_recognition(answers: dict[type[Request], Answer]) -> dict[type[Request], Answer]:
    """Only what is about the cluster itself is answered, nothing about data."""
    return {kind: answer if kind in _ANSWERED_AT_ONCE else _refuse for kind, answer in answers.items()}


async def not_recognized(request: Get | Put | AskOutcome) -> Any:
    raise starting()


def starting() -> NotReady:
    return NotReady(
        "this node starts: a majority of the members has to remember this run of it first",
        advice="ask another node, or wait until more of them are in reach: /readyz?verbose",
    )


def _refuse(request: Request) -> Any:
    raise starting()
