"""Two lists of what two replicas hold in the same segments -> what each of them needs of the other.

Source: Dynamo §4.7, after the trees have found the segments. Both lists are pages, in order of keys; only
the part that both cover is judged, so that a key behind the end of a page never counts as missing.
"""

from __future__ import annotations

from typing import NamedTuple

Hashes = dict[bytes, bytes]
"""Key -> hash of its item; UNREADABLE for a record that is corrupt there."""

UNREADABLE = b""


class Page(NamedTuple):
    """`last`: nothing is left out up to this key; None: to the end of the partition."""

    hashes: Hashes
    last: bytes | None


class Plan(NamedTuple):
    """All in order of keys. `heal`: unreadable here.

    What is unreadable is "don't know": its owner asks all other homes for it, and nobody else touches it,
    because one replica's state in its place could hide what another one has acknowledged.
    """

    fetch: list[bytes]
    send: list[bytes]
    heal: list[bytes]
    last: bytes | None


def plan_exchange(here: Page, there: Page) -> Plan:
    """`fetch`: they have what we lack. `send`: we have what they lack. Different on both sides: fetched.

    After a fetch the merge is sent back where it is more than what came.
    """
    ends = [page.last for page in (here, there) if page.last is not None]
    last = min(ends, default=None)
    plan = Plan([], [], [], last)
    for key in sorted(here.hashes.keys() | there.hashes.keys()):
        if last is not None and key > last:
            break
        mine, theirs = here.hashes.get(key), there.hashes.get(key)
        if mine == UNREADABLE:
            plan.heal.append(key)
        elif theirs == UNREADABLE or mine == theirs:
            continue
        elif theirs is None:
            plan.send.append(key)
        else:
            plan.fetch.append(key)
    return plan
