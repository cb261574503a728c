"""How far a long piece of work is."""

from __future__ import annotations

import sys
import time

from benchmarks.suite import say

_WIDTH = 40


class Progress:
    """A bar on a terminal, a line every ten percent elsewhere."""

    def __init__(self, total: int) -> None:
        self._total, self._began_s, self._next_s, self._told = total, time.monotonic(), 0.0, 0
        self._terminal = sys.stderr.isatty()

    def __call__(self, done: int) -> None:
        now_s = time.monotonic()
        if self._terminal and now_s >= self._next_s:
            self._next_s = now_s + 0.2
            print(f"\r{self.line(done, now_s - self._began_s)}", end="", file=sys.stderr, flush=True)
        elif not self._terminal and done * 10 // self._total > self._told:
            self._told = done * 10 // self._total
            say(self.line(done, now_s - self._began_s))

    def line(self, done: int, elapsed_s: float) -> str:
        filled = _WIDTH * done // self._total
        per_s = done / max(elapsed_s, 1e-9)
        left_s = (self._total - done) / max(per_s, 1e-9)
        bar = "#" * filled + "." * (_WIDTH - filled)
        return f"  [{bar}] {done:,} of {self._total:,} keys, {per_s:,.0f} per s, {left_s:.0f} s left"

    def end(self) -> None:
        if self._terminal:
            print(file=sys.stderr)
