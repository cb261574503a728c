"""What the property tests of core/ draw from."""

from __future__ import annotations

from itertools import product
from random import Random

from hypothesis import strategies as st

from kvstore.core.sibling import KeyState, Version
from kvstore.core.vector_clock import EMPTY_CONTEXT, CausalContext, Dot
from tests.core.causality import Rules
from tests.core.random_history import random_history

REPLICA_IDS = (1, 2, 2**64 - 1)
COUNTER_MAX = 7
UNIVERSE: list[Dot] = list(product(REPLICA_IDS, range(1, COUNTER_MAX + 2)))
"""Every dot that can occur in a drawn context, and for each replica id one that cannot."""

dots = st.tuples(st.sampled_from(REPLICA_IDS), st.integers(1, COUNTER_MAX))


def dots_of(context: CausalContext) -> frozenset[Dot]:
    """The dumb model of a context: every dot in it, one by one."""
    reached = {(id_, n) for id_, counter in context.vector.items() for n in range(1, counter + 1)}
    return context.cloud | reached


@st.composite
def contexts(draw: st.DrawFn) -> CausalContext:
    """What any sequence of own writes (`advance`) and single dots (`add`) makes."""
    context = EMPTY_CONTEXT
    for dot, own in draw(st.lists(st.tuples(dots, st.booleans()), max_size=8)):
        context = context.advance(dot) if own else context.add(dot)
    return context


@st.composite
def histories(draw: st.DrawFn) -> list[KeyState]:
    """Every state that occurred in one random history of one key, in order.

    By seed: a history whose every step is drawn takes ten times as long.
    """
    return random_history(Random(draw(st.integers(0, 2**32))), Rules()).states


@st.composite
def states_of_one_history(draw: st.DrawFn, count: int) -> list[KeyState]:
    """Any `count` states of one history: late, early, equal or far apart."""
    history = draw(histories())
    return [draw(st.sampled_from(history)) for _ in range(count)]


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
versions = st.builds(
    Version,
    value=st.binary(max_size=20),
    tombstone=st.booleans(),
    content_type=texts,
    metadata=st.lists(st.tuples(texts, texts), max_size=3).map(tuple),
    hlc_time=st.integers(0, 2**64 - 1),
    operation_id=st.sampled_from([b"", b"one", b"other"]),
    expires_at_ms=st.integers(0, 2**64 - 1),
)


@st.composite
def states(draw: st.DrawFn) -> KeyState:
    """Any well-formed state: siblings of any content, a context that covers them and more."""
    siblings = draw(st.dictionaries(dots, versions, max_size=4))
    context = draw(contexts())
    for dot in siblings:
        context = context.add(dot)
    return KeyState(siblings, context)
