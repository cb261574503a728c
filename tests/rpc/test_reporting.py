"""Trouble is told, but not a thousand times a second."""

from __future__ import annotations

from kvstore.rpc.reporting import RateLimited


def test_a_kind_of_trouble_is_told_once_per_interval_with_the_number_left_out() -> None:
    told: list[tuple[str, dict[str, object]]] = []
    now_s = 0.0
    report = RateLimited(lambda event, **fields: told.append((event, fields)), lambda: now_s, interval_s=5.0)
    for _ in range(100):
        report("peer refused", "10.0.0.1", reason="key")
    report("peer refused", "10.0.0.2", reason="key")
    assert told == [("peer refused", {"reason": "key"})] * 2
    now_s = 5.0
    report("peer refused", "10.0.0.1", reason="key")
    report("peer refused", "10.0.0.2", reason="key")
    assert told[2:] == [
        ("peer refused", {"reason": "key", "suppressed": 99}),
        ("peer refused", {"reason": "key"}),
    ]


def test_strangers_cannot_make_it_remember_without_bound() -> None:
    report = RateLimited(lambda event, **fields: None, lambda: 0.0)
    for number in range(10_000):
        report("peer refused", f"stranger {number}")
    assert len(report._told) <= 256
