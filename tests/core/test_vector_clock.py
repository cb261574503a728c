"""Causal contexts are sets of dots, written short: every law against sets that are written out."""

from __future__ import annotations

from functools import reduce

from hypothesis import given
from hypothesis import strategies as st

from kvstore.core.vector_clock import EMPTY_CONTEXT, CausalContext, Dot, context_of
from tests.core.strategies import REPLICA_IDS, UNIVERSE, contexts, dots, dots_of


@given(contexts())
def test_covers_is_membership(context: CausalContext) -> None:
    assert {dot for dot in UNIVERSE if context.covers(dot)} == dots_of(context)


@given(contexts(), contexts())
def test_join_is_union(a: CausalContext, b: CausalContext) -> None:
    assert dots_of(a.join(b)) == dots_of(a) | dots_of(b)


@given(contexts(), contexts(), contexts())
def test_join_is_commutative_associative_and_idempotent(
    a: CausalContext, b: CausalContext, c: CausalContext
) -> None:
    assert a.join(b) == b.join(a)
    assert a.join(b).join(c) == a.join(b.join(c))
    assert a.join(a) == a.join(EMPTY_CONTEXT) == EMPTY_CONTEXT.join(a) == a


@given(contexts(), dots)
def test_add_knows_one_dot_more_and_no_other(context: CausalContext, dot: Dot) -> None:
    assert dots_of(context.add(dot)) == dots_of(context) | {dot}


@given(contexts(), dots)
def test_advance_jumps_only_the_entry_of_its_own_replica(context: CausalContext, dot: Dot) -> None:
    jumped = {(dot[0], counter) for counter in range(1, dot[1] + 1)}
    assert dots_of(context.advance(dot)) == dots_of(context) | jumped


@given(st.lists(dots, unique=True, max_size=8), st.data())
def test_equal_sets_are_equal_values_whatever_the_order(known: list[Dot], data: st.DataObject) -> None:
    """By dots one at a time, by joins of single dots, by a join of any two parts."""
    one_by_one = reduce(CausalContext.add, data.draw(st.permutations(known)), EMPTY_CONTEXT)
    single = [context_of([dot]) for dot in data.draw(st.permutations(known))]
    joined = reduce(CausalContext.join, single, EMPTY_CONTEXT)
    cut = data.draw(st.integers(0, len(known)))
    assert one_by_one == joined == context_of(known)
    assert context_of(known[:cut]).join(context_of(known[cut // 2 :])) == context_of(known)


@given(contexts(), contexts())
def test_equal_values_are_equal_sets_and_no_others(a: CausalContext, b: CausalContext) -> None:
    assert (a == b) == (dots_of(a) == dots_of(b))
    assert context_of(dots_of(a)) == a


@given(contexts(), contexts())
def test_includes_is_the_superset_relation(a: CausalContext, b: CausalContext) -> None:
    assert a.includes(b) == (dots_of(a) >= dots_of(b))
    assert a.join(b).includes(a)


@given(contexts(), st.sampled_from(REPLICA_IDS))
def test_highest_counter_is_found_in_vector_and_cloud(context: CausalContext, replica_id: int) -> None:
    assert context.highest(replica_id) == max(
        (n for id_, n in dots_of(context) if id_ == replica_id), default=0
    )


@given(contexts(), contexts(), dots)
def test_operations_leave_their_arguments_as_they_were(a: CausalContext, b: CausalContext, dot: Dot) -> None:
    before = dots_of(a), dots_of(b)
    a.join(b), a.add(dot), a.advance(dot), b.join(a)
    assert (dots_of(a), dots_of(b)) == before


def test_a_gap_stays_a_gap_until_it_is_filled() -> None:
    """The maximal-counter shortcut would cover (1, 2), which nobody here has seen."""
    context = context_of([(1, 1), (1, 3)])
    assert context == CausalContext({1: 1}, frozenset({(1, 3)}))
    assert not context.covers((1, 2))
    assert context.add((1, 2)) == CausalContext({1: 3})
