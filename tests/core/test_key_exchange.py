"""What two replicas need of each other, page by page, against the plain difference of two maps."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvstore.core.key_exchange import UNREADABLE, Page, plan_exchange

keys = st.binary(min_size=1, max_size=2)
holdings = st.dictionaries(keys, st.sampled_from([b"1", b"2", UNREADABLE]), max_size=20)


def page(held: dict[bytes, bytes], after: bytes, size: int) -> Page:
    beyond = sorted(key for key in held if key > after)
    cut = beyond[:size]
    return Page({key: held[key] for key in cut}, cut[-1] if len(beyond) > size else None)


@given(holdings, holdings, st.integers(1, 4), st.integers(1, 4))
def test_pages_of_any_size_add_up_to_the_difference(
    here: dict[bytes, bytes], there: dict[bytes, bytes], my_size: int, their_size: int
) -> None:
    fetch, send, heal = [], [], []
    after = b""
    while True:
        plan = plan_exchange(page(here, after, my_size), page(there, after, their_size))
        fetch += plan.fetch
        send += plan.send
        heal += plan.heal
        if plan.last is None:
            break
        assert plan.last > after
        after = plan.last
    readable = [key for key in sorted(here | there) if UNREADABLE not in (here.get(key), there.get(key))]
    assert send == [key for key in readable if key not in there]
    assert fetch == [key for key in readable if key in there and here.get(key) != there[key]]
    assert heal == [key for key in sorted(here) if here[key] == UNREADABLE]


def test_a_key_behind_the_end_of_a_page_is_not_missing() -> None:
    plan = plan_exchange(Page({b"a": b"1", b"c": b"1"}, None), Page({b"a": b"1"}, b"a"))
    assert (plan.send, plan.last) == ([], b"a")


def test_what_is_unreadable_on_one_side_is_touched_by_its_owner_only() -> None:
    here, there = Page({b"k": UNREADABLE}, None), Page({b"k": b"1"}, None)
    assert plan_exchange(here, there)[:3] == ([], [], [b"k"])
    assert plan_exchange(there, here)[:3] == ([], [], [])
