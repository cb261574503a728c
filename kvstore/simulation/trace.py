"""What happened in a run as one hash: equal for equal seeds, under any PYTHONHASHSEED."""

from __future__ import annotations

import asyncio
from collections import deque
from hashlib import blake2b
from typing import Any

import msgpack

_KEEP_MAX = 100_000
_Line = tuple[float, str, tuple[Any, ...]]
_pack = msgpack.Packer(autoreset=True).pack


class Trace:
    """Every message delivered, every fault, every operation with its result, each with its virtual time.

    `lines` keeps the newest of them for people, if asked; the hash takes all.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, keep: bool = False) -> None:
        self._loop = loop
        self._hash = blake2b(digest_size=16)
        self.count = 0
        self.lines: deque[_Line] | None = deque(maxlen=_KEEP_MAX) if keep else None

    def add(self, what: str, *fields: Any) -> None:
        """`fields`: values that msgpack takes, with one form only: no sets, no mappings by chance."""
        now_s = self._loop.time()
        self._hash.update(_pack((now_s, what, fields)))
        self.count += 1
        if self.lines is not None:
            self.lines.append((now_s, what, fields))

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()
