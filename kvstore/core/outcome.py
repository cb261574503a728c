"""What became of a write whose answer never came, told from what the homes of its key hold.

`ok`: the write, or what superseded it, is durable on W homes. One state that holds a version with its
operation id proves that it was applied; the merge of all answers covers that dot, so it is done once W
homes hold the merge durably, which whoever asks sees to. It is an acknowledgement like any other.

`unknown`: everything else. That the operation is *not* found proves nothing, so `failed` is never said:

- A superseded version leaves its dot behind and not its operation id; a collected tombstone leaves
  nothing at all. Written and overwritten looks like never written.
- The write may still come: from the socket of a node that is stopped, a frame between two nodes, a hint.
  To refuse it from now on every node would have to remember the refusal for ever, durably, and before
  it answers the question; a proxy that sends a request once more has no last moment.
- A node that remembers having refused it knows of one attempt only; another one may have been applied.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from kvstore.core.encoding import read_own
from kvstore.core.vector_clock import Dot

OK, UNKNOWN = "ok", "unknown"


class AskOutcome(NamedTuple):
    """Of the write with this id to this key. `n`, `w`: as of that write; None: as the bucket says."""

    bucket: str
    key: bytes
    operation_id: bytes
    n: int | None = None
    w: int | None = None
    timeout_ms: int = 2000


class OutcomeTold(NamedTuple):
    """`context`: the dots of the write, encoded; b"" if nobody who answered holds it.

    `answered` of `n` homes said what they hold; `acks` hold the write durably, `required` have to.
    """

    outcome: str
    context: bytes
    n: int
    required: int
    answered: int
    acks: int


def dots_of(states: Iterable[bytes], operation_id: bytes) -> list[Dot]:
    """Every dot that the operation has in any of these encoded states; more than one if it was sent twice."""
    found: dict[Dot, None] = {}
    for state in states:
        if operation_id and operation_id in state:
            siblings = read_own(state).siblings
            found.update((dot, None) for dot, held in siblings.items() if held.operation_id == operation_id)
    return list(found)


def outcome_of(dots: Sequence[Dot], *, acks: int, w: int) -> str:
    """`acks`: homes that hold durably the merge of states which hold these dots."""
    return OK if dots and acks >= w else UNKNOWN
