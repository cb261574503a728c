"""Which run of a node's process is the newest: what its peers remember, and what a copy cannot know.

A data directory that was restored, cloned or cut short goes on from a moment that is over. It cannot tell;
its peers can. Each remembers of every node its latest run, and how far that had come. A run that does not
come from there is *from the past*: it gives up its ids, sets its data aside, and is filled by its peers.
Beside that, a second process is refused as long as the first one is heard.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from kvstore.core.membership import NodeId
from kvstore.core.quorum import majority

TWIN_SILENCE_S = 3.0
"""A run that was heard within this time is alive; one that was not may have been restarted elsewhere."""

TWIN_PROVEN_S = 3.5
"""Refused for so long, one knows: TWIN_SILENCE_S and half a second for the way of a refusal."""


def is_twin(run: bytes, known_run: bytes, silent_s: float) -> bool:
    """Whether a newcomer must be refused: a peer heard another run of this node `silent_s` seconds ago."""
    return run != known_run and silent_s <= TWIN_SILENCE_S


def is_proven_twin(first_refused_s: float, refused_s: float) -> bool:
    """Whether a run that was refused at both moments shares its identity with a process that runs.

    A later refusal means that the peer heard the other run within TWIN_SILENCE_S before it, so after the
    first refusal: that run cannot have ended before this one began, as it does in a restart.
    """
    return refused_s - first_refused_s >= TWIN_PROVEN_S


class Run(NamedTuple):
    """One run of a node's process, as it tells of itself and as it is remembered.

    `incarnation`: how often the directory was started. `run`: random, of this process. The *progress* of
    a directory grows while it is written to, and peers hear of one that is durable only: `started` as this
    run found it, `progress` as last heard. A copy that was taken before that is behind it.
    """

    node_id: NodeId
    incarnation: int
    run: bytes
    started: int = 0
    progress: int = 0


def is_from_the_past(run: Run, remembered: Run) -> bool:
    """Whether `run` goes on from a moment before what is remembered of another run of its node.

    Never of a run on the directory that the remembered one left: its start was counted there, and no
    progress was told that was not durable.
    """
    return run.run != remembered.run and (
        run.incarnation <= remembered.incarnation or run.started < remembered.progress
    )


def remembered_next(held: Run | None, heard: Run) -> Run:
    """What to remember of a node after hearing of a run. A run from the past takes no other one's place.

    So of two runs with one incarnation each peer remembers one for good, and a majority of them only one.
    """
    if held is None:
        return heard
    if held.run == heard.run:
        return max(held, heard)
    return held if is_from_the_past(heard, held) else heard


def furthest(remembered: Sequence[Run]) -> Run:
    """As far as any of these runs of one node: what is from the past of one may be ahead of another."""
    incarnation = max(run.incarnation for run in remembered)
    progress = max(run.progress for run in remembered)
    return Run(remembered[0].node_id, incarnation, b"", progress, progress)


def renewed(mine: Run, remembered: Run) -> Run:
    """My run as one that knows it is from the past: nothing remembered is ahead of it any more."""
    progress = max(mine.progress, remembered.progress)
    incarnation = max(mine.incarnation, remembered.incarnation) + 1
    return mine._replace(incarnation=incarnation, started=progress, progress=progress)


def is_recognized(grants: int, members: int) -> bool:
    """Whether enough peers remember a run, of a node that is one of so many members, for it to serve.

    Its own vote counts, or two nodes of three could not come back while the third is away.
    """
    return grants + 1 >= majority(members)


def is_exclusive(grants: int, members: int) -> bool:
    """Whether no second run on a copy of the same directory can have been remembered by as many.

    The own vote does not count here: a copy has that, too.
    """
    return grants >= majority(members - 1) if members > 1 else False
