"""Who runs under a node's identity: its one process, or a second one on a copy of the data directory.

Each run of a process has a random run id. A peer compares it with the run that it is in touch with.
"""

from __future__ import annotations

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
