"""Hedged reads: one home more is asked where the answers that are missing are late.

Reads are watched by the slot in which they were asked (a timing wheel): on their way that costs an entry in
a list, and no read has a timer of its own. What their answers took is taken from there, too.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from kvstore.core.hedging import CEILING_S, FLOOR_S, HedgeBudget
from kvstore.core.limits import Limits
from kvstore.core.membership import NodeId
from kvstore.core.message import Get, Read
from kvstore.core.quorum import PENDING
from kvstore.errors import PeerTimeout
from kvstore.node.fan_out import FanOut
from kvstore.node.peer_latency import WINDOW_S, PeerLatency
from kvstore.node.reach import Reach

SLOT_S = 0.002
"""A late read is found within a slot, and _TICK_S, of becoming late: with slots of 5 ms the p99 of reads
beside a home that was 200 ms late was 21.5 ms, with these 15."""

_TICK_S = 0.001  # what timers of uvloop can tell apart

STALL_S = 0.02
"""When the timer itself is so late, answers may lie unread in the sockets of this process."""

_SAMPLED_MAX = 2  # reads of one slot whose answers are looked at: hundreds a second are plenty


SILENT_MIN, SILENT_S = 3, 0.05
"""So many reads in a row without an answer, the first of them asked so long ago: the peer stands still."""


Watched = tuple[FanOut, Read | Get, list[NodeId], list[NodeId], float]
"""(reads, what was asked, homes that were, homes that were not, seconds in which they have to answer)."""


class Hedges:
    """`sent` counts hedges, `refused` those for which there was no budget left.

    The wheel holds the reads of the last `delay_s`, answered ones too: fewer than a second's.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        now: Callable[[], float],
        reach: Reach,
        latency: PeerLatency,
        limits: Limits,
    ) -> None:
        self._loop, self._now, self._reach, self._latency = loop, now, reach, latency
        self._budget = HedgeBudget(limits.hedge_share_max)
        self._never = limits.hedge_delay_s >= limits.peer_deadline_s
        self._slot: list[Watched] = []
        self._wheel: deque[tuple[float, list[Watched]]] = deque()  # (end of the slot, reads asked in it)
        self._unanswered: list[FanOut] = []
        self._missed: dict[NodeId, tuple[int, float]] = {}  # (late since its last answer, first asked at)
        self._timer: asyncio.TimerHandle | None = None
        self._due_s = 0.0
        self.sent = self.refused = 0

    @property
    def delay_s(self) -> float:
        """After which a read is late."""
        return FLOOR_S if self._never else self._latency.delay_s

    def watch(
        self,
        reads: FanOut,
        read: Read | Get,
        asked: list[NodeId],
        others: list[NodeId],
        deadline_s: float,
    ) -> None:
        """`reads` have just been asked, of `asked`."""
        if not self._slot:
            self._arm(SLOT_S)
        self._slot.append((reads, read, asked, others, deadline_s))

    def _arm(self, wait_s: float) -> None:
        """The timer, at the latest after so long."""
        due_s = self._now() + wait_s
        if self._timer is not None:
            if self._due_s <= due_s:
                return
            self._timer.cancel()
        self._due_s = due_s
        self._timer = self._loop.call_later(wait_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now_s, wheel = self._now(), self._wheel
        if self._slot:
            wheel.append((now_s, self._slot))
            self._slot = []
        late_s = now_s - self.delay_s
        if now_s - self._due_s >= STALL_S:
            late_s -= CEILING_S  # if it is always so late, the wheel turns all the same
        while wheel and wheel[0][0] <= late_s:
            self._turn(wheel.popleft()[1], now_s)
        if self._latency.is_due(now_s):
            self._hear_unanswered()
            self._latency.judge(now_s)
        if wheel:
            self._arm(max(_TICK_S, wheel[0][0] + self.delay_s - now_s))
        elif self._unanswered:
            self._arm(WINDOW_S)

    def _turn(self, slot: list[Watched], now_s: float) -> None:
        """The reads of one slot, `delay_s` after they were asked."""
        self._budget.earn(len(slot))
        late = [watched for watched in slot if watched[0].tally.acks < watched[0].tally.need]
        for reads, *_ in slot[:_SAMPLED_MAX]:
            self._hear(reads)
        if self._missed:
            for reads, *_ in slot:
                for node, _, _ in reads.answers:
                    self._missed.pop(node, None)
        for reads, read, asked, others, deadline_s in late:
            if reads.tally.outcome is PENDING:
                self._miss(reads, asked, now_s)
                self._hedge(reads, read, others, reads.started_s + deadline_s - now_s)

    def _miss(self, reads: FanOut, asked: list[NodeId], now_s: float) -> None:
        """Reads wait for a deadline where there is no budget for a hedge: the next ones go to somebody else.

        The breaker on failures only hears of it after that deadline. Failures are its business.
        """
        if self._never:
            return
        ended = {node for node, _, _ in reads.answers} | {node for node, _, _ in reads.failures}
        for node in asked:
            if node not in ended:
                count, since_s = self._missed.get(node, (0, reads.started_s))
                self._missed[node] = count + 1, since_s
                if count + 1 >= SILENT_MIN and now_s - since_s >= SILENT_S:
                    del self._missed[node]
                    self._latency.silent(node, now_s)

    def _hedge(self, reads: FanOut, read: Read | Get, others: list[NodeId], left_s: float) -> None:
        """Not to whom is out of reach: that would not be quicker."""
        if self._never or not others or left_s <= 0 or not self._reach(others[0]):
            return
        if not self._budget.take():
            self.refused += 1
            return
        self.sent += 1
        reads.ask_one_more(others.pop(0), read, left_s)

    # --- how long answers take --------------------------------------------------------------------------

    def _hear(self, reads: FanOut) -> None:
        """Of a read whose answers are all there; of another one later."""
        if reads.tally.acks + reads.tally.failures < reads.tally.asked:
            self._unanswered.append(reads)
            return
        heard = self._latency.heard
        for node, _, elapsed_s in reads.answers:
            heard(node, elapsed_s - reads.asked_after_s(node))
        for node, error, elapsed_s in reads.failures:
            if isinstance(error, PeerTimeout) and node not in reads.stand_ins:
                heard(node, elapsed_s - reads.asked_after_s(node))

    def _hear_unanswered(self) -> None:
        """Every call ends by its own deadline."""
        waiting, self._unanswered = self._unanswered, []
        for reads in waiting:
            self._hear(reads)
