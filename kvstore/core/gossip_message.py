"""What nodes tell each other of the cluster, round after round: two of the messages of core/message.py."""

from __future__ import annotations

from typing import NamedTuple

from kvstore.core.generation import Run
from kvstore.core.membership import Member


class Gossip(NamedTuple):
    """The sender and whom it knows; versions of what both should agree on.

    `runs`: the sender's own, and the latest it remembers of each other node (core/generation.py).
    `recognized`: it serves; one that does not yet is not to be called at the address it names.
    """

    sender: Member
    members: tuple[Member, ...]
    layout_version: int
    buckets_digest: bytes
    wall_ms: int
    runs: tuple[Run, ...] = ()
    recognized: bool = True


class Gossiped(NamedTuple):
    """The same of the other side, which remembers the asker's run durably if it is in `runs`."""

    sender: Member
    members: tuple[Member, ...]
    layout_version: int
    buckets_digest: bytes
    wall_ms: int
    runs: tuple[Run, ...] = ()
    recognized: bool = True
