"""A node that tells where its processor time went: samples of its main thread, by the function that ran.

    python -m benchmarks.sampler FILE serve [...]     as `kvstore serve`, [file, function, samples] into FILE

Every PERIOD_S of processor time the innermost Python frame is counted. What C does, the engine and the
sockets too, counts for the Python that called it; uvloop's own share for the file that runs the loop.
SIGUSR1 starts the counting anew, so that a start and a warm-up are not in it.
"""

from __future__ import annotations

import json
import signal
import sys
from collections import Counter
from pathlib import Path
from types import FrameType

PERIOD_S = 0.001


class Sampler:
    """`places`: (file, function) -> samples."""

    def __init__(self) -> None:
        self.places: Counter[tuple[str, str]] = Counter()

    def start(self) -> None:
        signal.signal(signal.SIGPROF, self._sample)
        signal.signal(signal.SIGUSR1, lambda *_: self.places.clear())
        signal.setitimer(signal.ITIMER_PROF, PERIOD_S, PERIOD_S)

    def stop(self) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)

    def _sample(self, _: int, frame: FrameType | None) -> None:
        if frame is not None:
            self.places[frame.f_code.co_filename, frame.f_code.co_qualname] += 1


def main() -> None:
    from kvstore.cli.app import app

    target = Path(sys.argv[1])
    sampler = Sampler()
    sampler.start()
    try:
        app(args=sys.argv[2:], prog_name="kvstore", standalone_mode=False)
    finally:
        sampler.stop()
        rows = [[*place, count] for place, count in sampler.places.most_common()]
        target.write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
