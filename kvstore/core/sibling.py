"""What a replica holds of one key: the concurrent versions, and the context of all that is known.

Sources: Dynamo §4.4 (versions and siblings); dotted version vectors for the rules. Pure: every
function returns a new value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from kvstore.core.vector_clock import EMPTY_CONTEXT, CausalContext, Dot


class Version(NamedTuple):
    """One write's value, or its tombstone.

    `hlc_time` is for display, last-write-wins buckets and feeds; it decides nothing about siblings.
    `operation_id` is the client's name for the write: two dots with one operation id are one write
    that was sent twice. `expires_at_ms` is Unix time in ms, 0 for never.
    """

    value: bytes
    tombstone: bool = False
    content_type: str = "application/octet-stream"
    metadata: tuple[tuple[str, str], ...] = ()
    hlc_time: int = 0
    operation_id: bytes = b""
    expires_at_ms: int = 0


class KeyState(NamedTuple):
    """`siblings`: none of them covers another. `context`: every dot known of this key.

    Invariant: every sibling's dot is covered by the context.
    """

    siblings: Mapping[Dot, Version] = {}
    context: CausalContext = EMPTY_CONTEXT


EMPTY_STATE = KeyState()


def write(state: KeyState, token: CausalContext, version: Version, dot: Dot) -> KeyState:
    """The state after `version` was written as `dot` by somebody who had seen `token`.

    Drops every sibling the token covers. Minted only by the copy that owns the dot's replica id and
    knows all its own dots on this key, so there the vector entry may jump to the new counter.
    """
    siblings = {held: v for held, v in state.siblings.items() if not token.covers(held)}
    siblings[dot] = version
    return KeyState(siblings, state.context.join(token).advance(dot))


def merge(a: KeyState, b: KeyState) -> KeyState:
    """What a replica knows that learned both. Commutative, associative, idempotent.

    A dot stays if both have it, or if one has it and the other does not know it: what the other
    knows and no longer has was superseded there. Of one that expired, the tombstone stays.

    Nothing else may drop a sibling here. Collapsing operation ids or keeping only the last write
    inside merge breaks associativity: with dots d1, d2 of one operation and a write that saw d1
    only, (d1 d2) w gives {w} and d1 (d2 w) gives {d2, w}. Both are therefore views, see `shown`.
    """
    siblings = {d: v for d, v in a.siblings.items() if d in b.siblings or not b.context.covers(d)}
    for dot, version in b.siblings.items():
        held = siblings.get(dot)
        if (version.tombstone and not held.tombstone) if held else not a.context.covers(dot):
            siblings[dot] = version
    return KeyState(siblings, a.context.join(b.context))


def collapse(siblings: Mapping[Dot, Version]) -> Mapping[Dot, Version]:
    """Siblings with the same operation id are one write sent twice: the smallest dot stands for it."""
    if len(siblings) < 2:
        return siblings
    first: dict[bytes, Dot] = {}
    for dot in sorted(siblings):
        operation_id = siblings[dot].operation_id
        if operation_id:
            first.setdefault(operation_id, dot)
    return {d: v for d, v in siblings.items() if first.get(v.operation_id, d) == d}


def last_write(siblings: Mapping[Dot, Version]) -> Mapping[Dot, Version]:
    """For last-write-wins buckets: only the sibling with the highest (HLC time, dot) is shown."""
    if len(siblings) < 2:
        return siblings
    dot = max(siblings, key=lambda d: (siblings[d].hlc_time, d))
    return {dot: siblings[dot]}


def shown(state: KeyState, now_ms: int, *, last_write_wins: bool = False) -> list[tuple[Dot, Version]]:
    """What a read shows, in order of dots: no tombstones, nothing expired, no write twice.

    A tombstone beside a live sibling is not shown; only tombstones show nothing. In a
    last-write-wins bucket a tombstone or an expired value can be the last write and then hides the rest.
    """
    siblings = last_write(state.siblings) if last_write_wins else collapse(state.siblings)
    return [(dot, version) for dot, version in sorted(siblings.items()) if is_visible(version, now_ms)]


def is_visible(version: Version, now_ms: int) -> bool:
    """Whether a read shows it: no tombstone, and not expired."""
    return not version.tombstone and not 0 < version.expires_at_ms <= now_ms


def find_operation(state: KeyState, operation_id: bytes) -> tuple[Dot, Version] | None:
    """The sibling that this operation wrote, if it is still one. Writes without an id are never found."""
    if operation_id:
        for dot, version in state.siblings.items():
            if version.operation_id == operation_id:
                return dot, version
    return None
