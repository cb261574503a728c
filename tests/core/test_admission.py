"""The limit against one that keeps every latency, the line against one that sorts a list."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.core.admission import (
    SAMPLES_MIN,
    WINDOW_S,
    ConcurrencyLimit,
    TurnQuota,
    Waiting,
    WaitingLine,
)
from kvstore.core.degradation import Tier
from kvstore.core.limits import DEFAULT_LIMITS

# --- how many at once -----------------------------------------------------------------------------------


@given(
    st.integers(1, 40),
    st.integers(0, 400),
    st.lists(
        st.tuples(st.sampled_from([0.01, 0.2, 0.2001, 3.0]), st.integers(1, 300), st.floats(0, 0.05)),
        max_size=400,
    ),
)
def test_the_limit_is_that_of_a_model_that_keeps_every_latency(
    low: int, room: int, answers: list[tuple[float, int, float]]
) -> None:
    high = low + room
    limit = ConcurrencyLimit(low=low, high=high, target_s=0.2)
    expected, kept, window_ends_s, now_s = high, list[tuple[float, int]](), 0.0, 0.0
    for took_s, in_flight, later_s in answers:
        now_s += later_s
        limit.ended(took_s, in_flight, now_s)
        kept.append((took_s, in_flight))
        if now_s >= window_ends_s and len(kept) >= SAMPLES_MIN:
            slowest_first = sorted((took for took, _ in kept), reverse=True)
            ninth_decile_s, median_s = (slowest_first[int(len(kept) * share)] for share in (0.1, 0.5))
            if ninth_decile_s > 0.2:
                reached = min(expected, max(busy for _, busy in kept))
                expected = max(low, int(reached * (0.5 if median_s > 0.2 else 0.8)))
            else:
                expected = min(high, expected + max(1, high // 32))
            kept, window_ends_s = [], now_s + WINDOW_S
        assert limit.value == expected
        assert low <= limit.value <= high


@given(st.integers(1, 100_000))
def test_each_tier_has_a_place_and_no_more_than_those_above_it(high: int) -> None:
    places = ConcurrencyLimit(low=1, high=high, target_s=1.0).places
    assert len(places) == len(Tier)
    assert places[0] == high
    assert list(places) == sorted(places, reverse=True)
    assert places[-1] >= 1


def answer_all(limit: ConcurrencyLimit, took_s: float, *, from_s: float, for_s: float) -> float:
    """A hundred answers a second; when it ends."""
    now_s = from_s
    while now_s < from_s + for_s:
        now_s += 0.01
        limit.ended(took_s, limit.value, now_s)
    return now_s


def test_slowness_brings_it_to_the_lower_end_and_speed_back_up_in_ten_seconds() -> None:
    limit = ConcurrencyLimit(low=16, high=256, target_s=0.25)
    now_s = answer_all(limit, 0.4, from_s=0.0, for_s=4.0)
    assert limit.value == 16
    answer_all(limit, 0.1, from_s=now_s, for_s=10.0)
    assert limit.value == 256


def test_a_limit_that_nothing_reaches_binds_at_the_first_decrease() -> None:
    limit = ConcurrencyLimit(low=16, high=256, target_s=0.25)
    for number in range(SAMPLES_MIN):
        limit.ended(1.0, 60, number * 0.01)
    assert limit.value == 30


def test_one_slow_request_in_ten_is_no_slowness() -> None:
    limit = ConcurrencyLimit(low=16, high=256, target_s=0.25)
    for number in range(1000):
        limit.ended(9.0 if number % 10 == 0 else 0.01, 256, number * 0.01)
    assert limit.value == 256


# --- who waits ------------------------------------------------------------------------------------------


Entry = tuple[Tier, int, float, float, bool]
"""(tier, arrival, joined, expires, single)"""


class Model:
    """A list that is sorted and searched."""

    def __init__(self, length_max: int, few_max: int) -> None:
        self.length_max, self.few_max = length_max, few_max
        self.all: list[Entry] = []
        self.since_s = 0.0

    def join(self, entry: Entry) -> int | None:
        """The arrival number of who is shed."""
        if not self.all:
            self.since_s = entry[2]
        self.all.append(entry)
        if len(self.all) <= self.length_max:
            return None
        shed = max(self.all, key=lambda e: (e[0], e[1]))
        self.all.remove(shed)
        return shed[1]

    def first(self) -> int | None:
        return min(self.all)[1] if self.all else None

    def leave(self, arrival: int) -> None:
        self.all = [e for e in self.all if e[1] != arrival]

    def impatient(self, now_s: float) -> set[int]:
        patience_s = 0.02 if self.all and now_s - self.since_s > 0.1 else 0.1
        stay: list[Entry] = []
        for entry in sorted(self.all):
            few = entry[4] and len(stay) < self.few_max
            if entry[2] > now_s - (0.15 if few else patience_s) and entry[3] > now_s:
                stay.append(entry)
        gone = {e[1] for e in self.all} - {e[1] for e in stay}
        self.all = [e for e in self.all if e[1] not in gone]
        return gone


steps = st.one_of(
    st.tuples(
        st.sampled_from(["join", "join single"]), st.sampled_from(Tier), st.sampled_from([0.01, 0.05, 9.0])
    ),
    st.tuples(st.sampled_from(["serve", "sweep"]), st.just(Tier.WRITE), st.just(0.0)),
    st.tuples(st.just("hang up"), st.just(Tier.WRITE), st.floats(0, 1)),
)


@given(
    st.integers(0, 6),
    st.integers(0, 4),
    st.lists(st.tuples(steps, st.sampled_from([0.0, 0.007, 0.03])), max_size=120),
)
def test_the_line_is_that_of_a_model_that_sorts_a_list(
    length_max: int, few_max: int, plan: list[tuple[tuple[str, Tier, float], float]]
) -> None:
    line: WaitingLine[int] = WaitingLine(
        length_max=length_max,
        patience_s=0.1,
        standing_patience_s=0.02,
        few_max=few_max,
        few_patience_s=0.15,
    )
    model, now_s, known = Model(length_max, few_max), 0.0, dict[int, Waiting[int]]()
    for arrival, ((step, tier, number), later_s) in enumerate(plan):
        now_s += later_s
        if step in ("join", "join single"):
            full, single = line.is_full_for(tier), step == "join single"
            known[arrival] = newcomer = Waiting(arrival, tier, now_s, now_s + number, single=single)
            shed = line.join(newcomer, now_s)
            expected = model.join((tier, arrival, now_s, now_s + number, single))
            assert (shed.item if shed else None) == expected
            assert full == (expected == arrival)
        elif step == "serve":
            first = line.first()
            assert (first.item if first else None) == model.first()
            if first is not None:
                line.leave(first)
                model.leave(first.item)
        elif step == "sweep":
            assert {w.item for w in line.impatient(now_s)} == model.impatient(now_s)
        elif known:
            gone = sorted(known)[int(number * (len(known) - 1))]
            line.leave(known[gone])
            model.leave(gone)
        assert line.length == sum(line.lengths()) == len(model.all)
        assert line.length <= length_max


def test_a_burst_waits_long_and_a_line_that_stands_does_not() -> None:
    """Maurer, "Fail at scale": the patience is short once the line has not been empty for the long one."""
    line: WaitingLine[str] = WaitingLine(length_max=9, patience_s=0.1, standing_patience_s=0.02)
    line.join(Waiting("burst", Tier.WRITE, 0.0, 9.0), 0.0)
    assert line.impatient(0.09) == []
    line.join(Waiting("later", Tier.WRITE, 0.095, 9.0), 0.095)
    assert [w.item for w in line.impatient(0.11)] == ["burst"]
    assert [w.item for w in line.impatient(0.116)] == ["later"]
    line.join(Waiting("after it was empty", Tier.WRITE, 0.12, 9.0), 0.12)
    assert line.impatient(0.2) == []


def as_shipped() -> WaitingLine[int]:
    return WaitingLine(
        length_max=DEFAULT_LIMITS.queue_max,
        patience_s=DEFAULT_LIMITS.queue_timeout_s,
        standing_patience_s=DEFAULT_LIMITS.queue_timeout_standing_s,
        few_max=DEFAULT_LIMITS.queue_few_max,
        few_patience_s=DEFAULT_LIMITS.queue_few_timeout_s,
    )


SWEEP_S = 0.005


@given(st.integers(1, 64), st.floats(0.0001, 0.0058))
def test_64_clients_that_ask_one_after_the_other_are_all_served(clients: int, takes_s: float) -> None:
    """One at a time is worked on, the others wait: for so many 5.8 ms each are three quarters of 0.5 s."""
    line, now_s, swept_s = as_shipped(), 0.0, 0.0
    for client in range(clients - 1):
        line.join(Waiting(client, Tier.WRITE, 0.0, 9.0, single=True), 0.0)
    for turn in range(1000):
        now_s += takes_s
        if now_s - swept_s >= SWEEP_S:
            swept_s = now_s
            assert line.impatient(now_s) == []
        assert not line.is_hopeless(Tier.WRITE, now_s, 1 / takes_s, single=True)
        line.join(Waiting(turn, Tier.WRITE, now_s, now_s + 9.0, single=True), now_s)
        first = line.first()
        assert first is not None
        line.leave(first)


@settings(max_examples=40)
@given(st.floats(1.5, 5.0), st.floats(0.002, 0.03), st.booleans())
def test_in_an_overload_who_is_not_served_hears_it_within_50_ms(
    times: float, takes_s: float, single: bool
) -> None:
    """An open loop of `times` the capacity, once the line has stood for as long as single operations wait;
    and nobody served has waited for longer than that."""
    line, served_s, swept_s = as_shipped(), 0.0, 0.0
    waits_s, refused_s = list[float](), list[float]()
    stands_s = DEFAULT_LIMITS.queue_few_timeout_s if single else 0.0
    for number in range(int(1.5 * times / takes_s)):
        now_s = number * takes_s / times
        while served_s + takes_s <= now_s:
            served_s += takes_s
            if (first := line.first()) is not None:
                line.leave(first)
                waits_s.append(served_s - first.joined_s)
        if now_s - swept_s >= SWEEP_S:
            swept_s = now_s
            gone = [each.joined_s for each in line.impatient(now_s)]
            refused_s += [now_s - joined_s for joined_s in gone if joined_s >= stands_s]
        if not line.is_hopeless(Tier.WRITE, now_s, 1 / takes_s, single=single):
            line.join(Waiting(number, Tier.WRITE, now_s, now_s + 9.0, single=single), now_s)
        elif now_s >= stands_s:
            refused_s.append(0.0)
    refused_s.sort()
    assert refused_s[int(len(refused_s) * 0.99)] <= 0.05 + max(SWEEP_S, takes_s)
    allowed_s = DEFAULT_LIMITS.queue_few_timeout_s if single else DEFAULT_LIMITS.queue_timeout_s
    assert max(waits_s) <= allowed_s + max(SWEEP_S, takes_s)


# --- the loop -------------------------------------------------------------------------------------------


@given(st.floats(0.001, 0.02), st.floats(0.00001, 0.05), st.floats(0.0, 0.1), st.lists(st.floats(0, 0.1)))
def test_the_work_of_a_turn_is_as_much_as_there_is_room_for(
    turn_s: float, cost_s: float, refused_s: float, before_s: list[float]
) -> None:
    """Each of those who wait costs the same here. Room: a turn, or what refusals took, up to four turns."""
    quota = TurnQuota(turn_s)
    for took_s in before_s:
        quota.left = 0
        quota.turn_ended(took_s, 0.0)
    for _ in range(2 * TurnQuota.MOST_MAX):
        began = quota.left
        quota.left = 0
        quota.turn_ended(began * cost_s + refused_s, refused_s)
        assert 1 <= quota.left == quota.most <= TurnQuota.MOST_MAX
    room_s = sorted((turn_s, refused_s, 4 * turn_s))[1]
    assert quota.most == 1 or quota.most * cost_s <= 2.001 * room_s
    assert quota.most == TurnQuota.MOST_MAX or quota.most * cost_s * 4.001 >= room_s


def test_a_turn_that_did_not_use_its_quota_says_nothing_about_more() -> None:
    quota = TurnQuota(0.01)
    quota.turn_ended(0.001, 0.0)
    assert quota.most == 1


@given(st.lists(st.sampled_from(Tier), max_size=60), st.sampled_from(Tier), st.integers(0, 4000))
def test_who_would_not_be_served_in_time_is_told_at_once(waiting: list[Tier], tier: Tier, per_s: int) -> None:
    line: WaitingLine[int] = WaitingLine(length_max=99, patience_s=0.1, standing_patience_s=0.02)
    for number, each in enumerate(waiting):
        line.join(Waiting(number, each, 0.0, 9.0), 0.0)
    assert not line.is_hopeless(tier, 0.05, 0.0), "a burst may wait"
    in_front = sum(each <= tier for each in waiting)
    assert line.is_hopeless(tier, 0.11, per_s) == (bool(waiting) and in_front > max(4, per_s * 0.02))
