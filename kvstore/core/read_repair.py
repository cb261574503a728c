"""Who answered what -> who gets what.

Source: Dynamo §5 (read repair). The plan is a value; sending it is the coordinator's work.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce

from kvstore.core.encoding import causal_bytes, merge_encoded
from kvstore.core.membership import NodeId


def merged(answers: Iterable[bytes]) -> bytes:
    """What the answers know together; b"" if none of them knows the key."""
    return reduce(merge_encoded, answers, b"")


def plan_read_repair(merged_state: bytes, answers: Sequence[tuple[NodeId, bytes]]) -> list[NodeId]:
    """The replicas that lack something of `merged_state`, in order of arrival.

    A replica that answered nothing at all lacks it too. One whose record is unreadable did not
    answer; it is not in the list.
    """
    if not merged_state:
        return []
    causal = causal_bytes(merged_state)
    return [node for node, state in answers if not state or causal_bytes(state) != causal]
