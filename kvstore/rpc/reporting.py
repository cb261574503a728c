"""Saying what goes wrong without saying it a thousand times a second.

A peer with a wrong key comes back for ever; each kind of trouble is told at most once per interval and
per subject, with the number of times it was not told.
"""

from __future__ import annotations

from collections.abc import Callable

Report = Callable[..., None]
"""`report(event, **fields)`, the shape of a structlog method."""

INTERVAL_S = 5.0
_SUBJECTS_MAX = 256


def report_nothing(event: str, **fields: object) -> None:
    """For who does not listen."""


class RateLimited:
    """Calls `report` for the first of a kind, then once per interval with `suppressed` counted."""

    def __init__(self, report: Report, now: Callable[[], float], interval_s: float = INTERVAL_S) -> None:
        self._report, self._now, self._interval_s = report, now, interval_s
        self._told: dict[tuple[str, str], tuple[float, int]] = {}

    def __call__(self, event: str, subject: str, **fields: object) -> None:
        """`subject`: whom it is about, without what differs from one time to the next (such as a port)."""
        now_s = self._now()
        told_s, suppressed = self._told.get((event, subject), (-self._interval_s, 0))
        if now_s - told_s < self._interval_s:
            self._told[event, subject] = (told_s, suppressed + 1)
            return
        self._told.pop((event, subject), None)  # to the end: the first entry is the one told longest ago
        if len(self._told) >= _SUBJECTS_MAX:
            del self._told[next(iter(self._told))]
        self._told[event, subject] = (now_s, 0)
        if suppressed:
            fields["suppressed"] = suppressed
        self._report(event, **fields)
