"""What a node still does when descriptors, memory or its disk run out. Pure.

Before something is used up the node gives it up in steps, while there is still room for what must go on:
reads, deletes, compaction, recovery. Each step is left again at a higher mark than it was entered, so that
a value that lies at a mark does not switch to and fro.
"""

from __future__ import annotations

from enum import IntEnum

LEAVE_AT = 1.1  # times the mark at which a step was entered


class Mark(IntEnum):
    NORMAL = 0
    WARN = 1
    NO_GROWTH = 2  # background work stops that takes more of it
    READ_ONLY = 3  # clients' writes are refused, but deletes


class Watermarks:
    """`warn`, `no_growth` and `read_only`: of what is free, falling. 0 or less: that step never comes."""

    __slots__ = ("_levels", "mark")

    def __init__(self, *, warn: float, no_growth: float, read_only: float) -> None:
        assert warn >= no_growth >= read_only
        self._levels = (float("inf"), warn, no_growth, read_only)
        self.mark = Mark.NORMAL

    def look(self, free: float) -> Mark:
        """What holds from now on."""
        mark = Mark.NORMAL
        for step in (Mark.WARN, Mark.NO_GROWTH, Mark.READ_ONLY):
            level = self._levels[step]
            if level > 0 and free < (level * LEAVE_AT if step <= self.mark else level):
                mark = step
        self.mark = mark
        return mark


def connections_within(descriptors_max: int, others_open: int, wanted: int, reserve: int) -> int:
    """How many connections of clients fit, at most `wanted` and at least one.

    `others_open`: descriptors that are open for anything else. `reserve`: kept for files of the engine,
    peers that connect again, and the one that it takes to refuse a client.
    """
    return max(1, min(wanted, descriptors_max - others_open - reserve))
