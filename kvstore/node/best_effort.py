"""Reads that would rather show something old than nothing, and say which of the two they do.

Harvest and yield (Fox, Brewer, "Harvest, yield, and scalable tolerant systems", HotOS 1999): the reader
chooses to lose completeness instead of the answer. A read is asked for as usual first; only where its
quorum is not met is it asked for again of as many as answered, without its promises.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

from kvstore.core.message import Get, Got
from kvstore.errors import QuorumNotMet

QUORUM, STALE = "quorum", "stale"


async def best_effort(
    get: Callable[[Get], Awaitable[Got]], request: Get, now: Callable[[], float]
) -> tuple[Got, str]:
    """(what was got, QUORUM or STALE). Raises what `get` raises, QuorumNotMet if not even one answers."""
    started_s = now()
    try:
        return await get(request), QUORUM
    except QuorumNotMet as lost:
        answered = lost.received
    if answered > 1:
        with suppress(QuorumNotMet):
            return await get(_weaker(request, answered, now() - started_s)), STALE
    return await get(_weaker(request, 1, now() - started_s)), STALE


def _weaker(request: Get, r: int, spent_s: float) -> Get:
    left_ms = max(1, request.timeout_ms - int(spent_s * 1000))
    return request._replace(r=r, pr=0, monotonic=False, session=b"", sloppy=True, timeout_ms=left_ms)
