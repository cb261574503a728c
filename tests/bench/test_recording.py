"""Histograms keep what went in, add up, and travel."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.bench.recording import LATENCY_US_MAX, PERCENTILES, Recording, by_second, decoded

LATENCIES_S = st.lists(st.floats(1e-6, 60.0), min_size=1, max_size=200)


def recorded(latencies_s: list[float], kind: str = "read") -> Recording:
    recording = Recording()
    for latency_s in latencies_s:
        recording.add(kind, latency_s, "", 0.0)
    recording.duration_s = 1.0
    return recording


@settings(max_examples=15)
@given(LATENCIES_S)
def test_percentiles_are_those_of_a_sorted_list_within_a_thousandth(latencies_s: list[float]) -> None:
    described = recorded(latencies_s).as_dict()["latency"]["all"]
    microseconds = sorted(int(latency_s * 1e6) for latency_s in latencies_s)
    for percent in PERCENTILES:
        rank = max(1, -(-len(microseconds) * int(percent * 10) // 1000))
        exact_ms = max(1, microseconds[rank - 1]) / 1000
        near = {
            max(1, microseconds[i]) / 1000
            for i in (max(0, rank - 2), rank - 1, min(rank, len(microseconds) - 1))
        }
        assert any(described[f"p{percent:g}_ms"] == pytest.approx(v, rel=0.002, abs=0.001) for v in near), (
            exact_ms
        )
    assert described["max_ms"] == pytest.approx(microseconds[-1] / 1000, rel=0.002, abs=0.001)


@settings(max_examples=10)
@given(LATENCIES_S, LATENCIES_S)
def test_two_processes_together_are_one_that_measured_both(first: list[float], second: list[float]) -> None:
    merged = recorded(first)
    merged.merge(recorded(second))
    merged.merge(recorded(second, "update"))
    whole = recorded(first + second)
    assert merged.kinds["read"].encode() == whole.kinds["read"].encode()
    assert merged.count == len(first) + 2 * len(second)


def test_a_recording_travels_between_processes() -> None:
    recording = recorded([0.001, 0.2])
    recording.errors["503"] += 1
    recording.late(0.0001)
    back = pickle.loads(pickle.dumps(recording))
    assert back.as_dict() == recording.as_dict()
    back.merge(recording)
    assert back.count == 4


def test_failed_operations_count_as_errors_and_not_as_throughput_and_their_time_is_kept() -> None:
    recording = recorded([0.001] * 8)
    recording.add("read", 2.0, "TimeoutError", 0.5)
    recording.unsent = 3
    document = recording.as_dict()
    assert document["per_s"] == 8.0
    assert document["failed"] == 4
    assert document["errors"] == {"TimeoutError": 1}
    assert document["latency"]["read"]["max_ms"] == pytest.approx(2000, rel=0.001)


def test_a_histogram_comes_back_from_its_text_and_the_slowest_is_never_dropped() -> None:
    described = recorded([0.001, 1e9]).as_dict()["latency"]["read"]
    again = decoded(described["histogram"])
    assert again.get_total_count() == 2
    assert again.get_max_value() >= LATENCY_US_MAX


def test_series_are_grouped_by_when_they_were_due() -> None:
    steps = by_second([0.1, 0.2, 0.7, 2.0], [0.001, 0.003, 0.5, 0.001], [0, 1, 0, 0])
    assert [(s["at_s"], s["count"], s["failed"], s["max_ms"]) for s in steps] == [
        (0.0, 2, 1, 3.0),
        (0.5, 1, 0, 500.0),
        (2.0, 1, 0, 1.0),
    ]
