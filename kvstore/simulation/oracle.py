"""A second opinion: clients that unite sets. In the end no acknowledged element may be missing.

It knows nothing of tokens, pasts or siblings, and shares no rule with checker.py, so that one wrong rule
there cannot hide a loss. On a *set key* every value is a set of elements, nothing is ever deleted, and a
client writes the union of what it last saw of the key, all siblings together, and of new elements, with the
token of what it saw. Then whatever a write supersedes is a subset of it: an element that was acknowledged
once is in some live value for ever, whichever siblings there are and in whatever order they were merged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from kvstore.simulation.checker import Violation
from kvstore.simulation.history import Ended, History, Kind, Operation

KINDS = ("element missing", "element invented")


def judge_sets(
    history: History,
    *,
    is_set: Callable[[bytes], bool],
    elements_of: Callable[[bytes], Iterable[bytes]] = bytes.split,
    homes_of: Callable[[bytes], Sequence[str]] | None = None,
) -> list[Violation]:
    """Elements of acknowledged puts that a home lacks at the end, and elements that nobody put anywhere.

    `elements_of` reads a value. `homes_of`: the nodes that must hold a key at the end; without it, those
    that `history.final` names for the key. Raises ValueError for a delete of a set key.
    """
    puts: dict[bytes, dict[bytes, Operation]] = {}
    for operation in history.operations:
        if is_set(operation.key):
            of_key = puts.setdefault(operation.key, {})
            if operation.kind is Kind.DELETE:
                raise ValueError(f"operation {operation.index} deletes a set")
            if operation.kind is Kind.PUT:
                of_key[operation.write_id] = operation
    found: list[Violation] = []
    for key, of_key in puts.items():
        values = {write_id: frozenset(elements_of(put.value)) for write_id, put in of_key.items()}
        held = {state.node: state.live for state in history.final if state.key == key}
        for node in sorted(held) if homes_of is None else homes_of(key):
            live = [values.get(write_id, frozenset()) for write_id in held.get(node, ())]
            found += _missing(key, node, frozenset().union(*live), of_key, values)
        found += _invented(key, history, of_key, elements_of)
    return found


def _missing(
    key: bytes,
    node: str,
    there: frozenset[bytes],
    puts: dict[bytes, Operation],
    values: dict[bytes, frozenset[bytes]],
) -> Iterable[Violation]:
    """Each element once, with the first put that it was acknowledged with."""
    for write_id, put in puts.items():
        if put.ended is Ended.OK:
            for element in sorted(values[write_id] - there):
                there |= {element}
                detail = f"{node} lacks {element!r}, acknowledged with put {put.index}"
                yield Violation("element missing", key, detail, (put.index,))


def _invented(
    key: bytes,
    history: History,
    puts: dict[bytes, Operation],
    elements_of: Callable[[bytes], Iterable[bytes]],
) -> Iterable[Violation]:
    """What reads show must have been put: by a write that was not refused."""
    put = frozenset(e for op in puts.values() if op.ended is not Ended.FAILED for e in elements_of(op.value))
    for operation in history.operations:
        if operation.key == key:
            for element in sorted({e for value in operation.seen_values for e in elements_of(value)} - put):
                detail = f"get {operation.index} shows {element!r}, which nobody put"
                yield Violation("element invented", key, detail, (operation.index,))
