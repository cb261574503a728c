"""When the tombstones of a key may go: once nothing older than them is left anywhere, which is proven.

A tombstone is kept so that an older state that comes late is known to be superseded. No age shows that none
will come: a node may have been away for longer. So every member of the cluster is asked, and says what it
knows for certain:

    its record   a home holds exactly this state, durably; what was older there is gone for good
    its hints    it keeps none of the key, and does not owe the partition any (a mark)
    its sends    whatever it had begun that might still send an older state has ended, and was read

Asked once, a member may have taken something older from one that was asked after it. It had begun that before
it is asked again, when all homes hold the state already: so twice is enough. A member that does not answer
proves nothing; any doubt means later.

A proof does not become wrong again: no older state exists, so none can be made. The homes may therefore drop
the record one by one, in any order, and one that did not may give it back to the others.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import Enum, IntEnum

from kvstore.core.encoding import decode_state, encode_state, read_own, read_single
from kvstore.core.membership import NodeId
from kvstore.core.sibling import KeyState, Version

ROUNDS = 2


class Answer(IntEnum):
    """What one member says about the tombstones of one key; a byte on the wire."""

    HELD = 0  # exactly this state, durably
    ABSENT = 1  # no record of the key
    DIFFERENT = 2  # another state
    ALIVE = 3  # this state, and it shows a value by the clock there
    UNREADABLE = 4
    HINTED = 5  # it keeps a hint of the key
    MARKED = 6  # it could not keep a hint of this partition; anti-entropy has to compare first


class Verdict(Enum):
    PROVEN = "proven"
    WAITS = "waits"  # somebody knows better
    UNKNOWN = "unknown"  # somebody does not know, or cannot be asked


WORDS = {
    Answer.ABSENT: "does not hold it yet",
    Answer.DIFFERENT: "holds another state",
    Answer.ALIVE: "shows a value: it has not expired by the clock there",
    Answer.UNREADABLE: "cannot read its record",
    Answer.HINTED: "keeps a hint of the key",
    Answer.MARKED: "has to be compared first: it could not keep a hint of this partition",
    None: "cannot be asked: it may keep a hint, or send what it has read before",
}
"""Why a member's answer, or that there is none (None), is no proof."""

Reasons = dict[NodeId, Answer | None]


def judge(answers: Mapping[NodeId, Answer | None], homes: Collection[NodeId]) -> tuple[Verdict, Reasons]:
    """Of the answers of all members (None: there is none), and whose they are if they are no proof.

    Every home has to hold the state; another member may hold it, from a time when it was a home.
    """
    proof = (Answer.HELD, Answer.ABSENT)
    reasons: Reasons = {
        node: answer
        for node, answer in answers.items()
        if answer is not Answer.HELD and (node in homes or answer not in proof)
    }
    if not reasons and all(home in answers for home in homes):
        return Verdict.PROVEN, {}
    unknown = any(answer in (None, Answer.UNREADABLE) for answer in reasons.values())
    return Verdict.UNKNOWN if unknown or not reasons else Verdict.WAITS, reasons


# --- what a state shows -----------------------------------------------------------------------------


def is_over(version: Version, now_ms: int, skew_ms: int) -> bool:
    """A tombstone, or a value whose expiry is over by every clock that is wrong by at most `skew_ms`."""
    return version.tombstone or 0 < version.expires_at_ms <= now_ms - skew_ms


def shows_nothing(encoded: bytes, now_ms: int, skew_ms: int) -> bool:
    """Whether an own state consists of nothing but what is over. Raises CorruptRecord."""
    single = read_single(encoded)
    if single is not None:
        return is_over(single.version, now_ms, skew_ms)
    versions = read_own(encoded).siblings.values()
    return all(is_over(version, now_ms, skew_ms) for version in versions)


def has_expired(encoded: bytes, now_ms: int, skew_ms: int) -> bool:
    """Whether `buried` would change this own state. Raises CorruptRecord."""
    single = read_single(encoded)
    versions = [single.version] if single is not None else list(read_own(encoded).siblings.values())
    return any(not v.tombstone and is_over(v, now_ms, skew_ms) for v in versions)


def buried(encoded: bytes, now_ms: int, skew_ms: int) -> bytes:
    """The state with a tombstone in place of each value that is over, under the same dot.

    What the tombstone says follows from the version alone, so that every replica makes the same bytes, and
    the causal part stays, so that no two replicas differ meanwhile.
    """
    siblings, context = decode_state(encoded)
    over = {dot: _tombstone(v) for dot, v in siblings.items() if is_over(v, now_ms, skew_ms)}
    return encode_state(KeyState({**siblings, **over}, context))


def _tombstone(version: Version) -> Version:
    if version.tombstone:
        return version
    return Version(
        b"",
        tombstone=True,
        hlc_time=version.hlc_time,
        operation_id=version.operation_id,
        expires_at_ms=version.expires_at_ms,
    )
