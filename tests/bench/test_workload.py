"""Which operation comes next: the shape of the distributions against their formulas, and the mixes."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.bench.keys import DISTRIBUTIONS, THETA, Latest, ScrambledZipfian, Zipfian, fnv, zeta
from kvstore.bench.workload import WORKLOADS, Kind, Operations, key_text, value_of, workload_named
from kvstore.errors import InvalidRequest

DRAWS = 40_000


def ranks(count: int) -> Counter[int]:
    random, keys = Random(7), Zipfian()
    return Counter(keys.draw(random, count) for _ in range(DRAWS))


@pytest.mark.parametrize("count", [100, 10_000, 1_000_000])
def test_zipfian_ranks_are_as_frequent_as_the_formula_says(count: int) -> None:
    drawn, whole = ranks(count), zeta(count, THETA)
    for rank in (0, 1):  # exact by construction; four standard deviations of the draw
        share = 1 / (rank + 1) ** THETA / whole
        assert drawn[rank] / DRAWS == pytest.approx(share, abs=4 * (share / DRAWS) ** 0.5)
    for top in (10, count // 10, count // 2):
        share = zeta(top, THETA) / whole
        seen = sum(n for rank, n in drawn.items() if rank < top) / DRAWS
        assert seen == pytest.approx(share, abs=0.03), f"the first {top} of {count}"


@pytest.mark.parametrize("count", [1, 2, 3, 9_999, 10_000, 10_001, 50_000])
def test_zeta_is_the_sum(count: int) -> None:
    assert zeta(count, THETA) == pytest.approx(sum(1 / i**THETA for i in range(1, count + 1)), rel=1e-9)


def test_scrambled_ranks_keep_their_shares_and_leave_their_places() -> None:
    random, keys = Random(7), ScrambledZipfian()
    drawn = Counter(keys.draw(random, 10_000) for _ in range(DRAWS))
    (first, most), (second, _) = drawn.most_common(2)
    assert {first, second} == {fnv(0) % 10_000, fnv(1) % 10_000}
    assert most / DRAWS == pytest.approx(1 / zeta(10_000, THETA), rel=0.1)
    assert abs(first - second) > 100
    assert len({key // 1000 for key in drawn}) == 10, "all of the range is used"


def test_latest_prefers_what_came_last_also_while_keys_are_added() -> None:
    random, keys = Random(7), Latest()
    for count in (1000, 1001, 5000):
        drawn = Counter(keys.draw(random, count) for _ in range(5000))
        assert drawn.most_common(1)[0][0] == count - 1
        assert max(drawn) == count - 1


@given(name=st.sampled_from(sorted(DISTRIBUTIONS)), count=st.integers(1, 10**7), seed=st.integers())
def test_every_draw_is_a_key(name: str, count: int, seed: int) -> None:
    random, keys = Random(seed), DISTRIBUTIONS[name]()
    assert all(0 <= keys.draw(random, count) < count for _ in range(20))


@pytest.mark.parametrize("workload", WORKLOADS.values(), ids=list(WORKLOADS))
def test_a_mix_has_the_shares_it_says(workload: object) -> None:
    found = workload_named(getattr(workload, "name", ""))
    operations = Operations(found, 1000, Random(3))
    kinds = Counter(operations.next().kind for _ in range(10_000))
    assert sum(found.mix.values()) == pytest.approx(1.0)
    for kind, share in found.mix.items():
        assert kinds[kind] / 10_000 == pytest.approx(share, abs=0.02)
    assert kinds.keys() <= found.mix.keys()


def test_processes_insert_keys_of_their_own() -> None:
    streams = [Operations(WORKLOADS["insert"], 100, Random(i), first=i, step=3) for i in range(3)]
    keys = [stream.next().key for stream in streams for _ in range(50)]
    assert sorted(keys) == list(range(100, 250))


def test_reads_take_no_insert_that_is_not_acknowledged() -> None:
    operations = Operations(WORKLOADS["D"], 10, Random(5), first=1, step=2)
    pending: list[int] = []
    done: set[int] = set()
    random = Random(6)
    for _ in range(3000):
        operation = operations.next()
        if operation.kind is Kind.INSERT:
            pending.append(operation.key)
        elif operation.key >= 10:
            assert operation.key in done
        if pending and random.random() < 0.3:
            key = pending.pop(random.randrange(len(pending)))  # acknowledgements come in any order
            done.add(key)
            operations.acknowledged(key)
    assert len(done) > 50


def test_the_same_seed_gives_the_same_operations() -> None:
    first, second = (Operations(WORKLOADS["A"], 1000, Random(9)) for _ in range(2))
    assert [first.next() for _ in range(100)] == [second.next() for _ in range(100)]


def test_keys_sort_as_their_numbers_and_values_have_their_size() -> None:
    assert [key_text(n) for n in (9, 10, 10_000_000)] == sorted(key_text(n) for n in (10_000_000, 9, 10))
    assert len(value_of(1000, Random(1))) == 1000
    assert value_of(1000, Random(1)) != value_of(1000, Random(2))


def test_an_unknown_workload_names_the_known_ones() -> None:
    with pytest.raises(InvalidRequest, match="no workload 'G'") as caught:
        workload_named("G")
    assert "A, B, C" in caught.value.advice
