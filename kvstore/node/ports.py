"""What a node needs of the world, as Protocols. Everything else in `node/` and `core/` is ours.

The event loop's own time (`loop.time()`) is the fifth port: under simulation it is virtual.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Protocol

from kvstore.core.membership import NodeId
from kvstore.core.message import Reply, Request
from kvstore.errors import KVStoreError, PeerTimeout


class Kind(IntEnum):
    """Kinds of records; each is a column family where the engine has them."""

    DATA = 0  # partition, bucket\\0key -> encoded key state
    COPY = 1  # partition, b"" -> replica id and counter of the copy here
    META = 2  # partition 0, name -> identity, generation, layout, buckets
    HINT = 3  # partition, target ‖ key -> state kept for another node


Write = tuple[Kind, int, bytes, bytes | None]
"""(kind, partition, key, value); None deletes."""


class Reader(Protocol):
    def get(self, kind: Kind, partition: int, key: bytes) -> bytes | None:
        """The value, or None. Raises CorruptRecord, StorageFailed."""

    def scan(self, kind: Kind, partition: int, start: bytes = b"") -> Iterator[tuple[bytes, bytes | None]]:
        """(key, value) of one partition in order of keys, from `start` on, as of the call.

        A record whose checksum does not hold comes as (key, None). Raises StorageFailed.
        """


class Snapshot(Reader, Protocol):
    """The store as it was at one moment."""

    def close(self) -> None: ...


class Storage(Reader, Protocol):
    """`apply` is atomic across kinds and visible at once; `sync` makes it durable.

    After a crash a prefix of the unsynced batches survives, in order, never a part of one.
    """

    @property
    def was_clean(self) -> bool:
        """Whether the last user of this directory closed it. A new directory counts as clean."""

    def apply(self, batch: Sequence[Write]) -> None:
        """Raises StorageFull (nothing applied) or StorageFailed. Never waits for the disk."""

    def sync(self) -> asyncio.Future[None]:
        """Done when everything applied before the call is durable; calls are grouped.

        Fails with StorageFailed, and from then on always: a second fsync may lie.
        """

    def snapshot(self) -> Snapshot: ...

    def checkpoint(self, path: Path) -> None:
        """A copy that can be opened on its own. `path` must not exist."""

    def set_aside(self, batch: Sequence[Write]) -> str:
        """Keep a copy of all there is and go on with Kind.META alone, changed by `batch`. Says where.

        Atomic, and durable on return: it waits for the disk. For a start, before anything is read. Raises
        StorageFull, StorageFailed.
        """

    async def close(self) -> None:
        """Sync, mark the stop as clean, release the directory. Idempotent."""


Told = Callable[[Reply | KVStoreError], None]
"""Hears what a call came to."""


def outcome_of(call: asyncio.Future[Reply]) -> Reply | KVStoreError:
    """What a call came to, as `Told` hears it."""
    error = PeerTimeout("cancelled") if call.cancelled() else call.exception()
    if error is None:
        return call.result()
    return error if isinstance(error, KVStoreError) else KVStoreError(str(error))


class Peers(Protocol):
    """Calls to other nodes, multiplexed and authenticated."""

    def ask(self, node: NodeId, request: Request, deadline_s: float, told: Told) -> None:
        """As `call`, without a future: `told` is called once, and never before this returns."""

    def call(
        self, node: NodeId, request: Request, deadline_s: float, *, background: bool = False
    ) -> asyncio.Future[Reply]:
        """Never raises here: the future fails with PeerUnreachable, PeerTimeout or PeerRefused.

        `deadline_s` counts from now. The reply has the class that `REPLY_OF` names.
        """

    def call_address(self, address: str, request: Request, deadline_s: float) -> asyncio.Future[Reply]:
        """The same to whoever listens there: for seeds, whose id nobody knows yet."""

    def learn(self, node: NodeId, address: str) -> None:
        """From now on this node is to be found at `address` (host:port)."""

    def forget(self, node: NodeId) -> None: ...


class WallClock(Protocol):
    def now_ms(self) -> int:
        """Unix time in ms. May jump; decides nothing about data but expiry."""

    def elapsed_s(self) -> float:
        """Monotonic seconds, for telling how long something took: a loop's own time may tick in ms."""


class Random(Protocol):
    """Chance, one independent stream per purpose."""

    def bits(self, purpose: str, count: int) -> int: ...

    def uniform(self, purpose: str, low: float, high: float) -> float: ...
