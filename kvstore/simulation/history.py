"""What the clients of a run did and saw: what every checker reads, from simulation and real processes alike.

A history is a list of operations in order of their start. Every write carries a unique `write_id` (it
travels as the operation id, so a retry is the same write) and names the operation whose answer gave it
its token; tokens themselves stay opaque.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class Kind(Enum):
    GET = "get"
    PUT = "put"
    DELETE = "delete"


class Ended(Enum):
    OK = "ok"  # acknowledged; a read: answered
    FAILED = "failed"  # the answer said: applied nowhere
    UNKNOWN = "unknown"  # no answer, or one that says so; a read that failed is UNKNOWN too


@dataclass(slots=True)
class Operation:
    """One operation of one client. Times are seconds on one clock of the harness.

    `write_id`: of a put or delete; b"" for a get. `token_from`: index in the history of the operation
    whose answer gave the token (a get: what it saw; a write: what its own token covered, and itself);
    None for a write without a token, which goes beside what is there. `seen`: write ids of the live
    values a get showed; `seen_values` the same with their bytes, in the same order. `seen_tombstones`:
    write ids of deletes in the answer, where the harness can look inside (a simulation), else empty.
    `strict`: a get with pr or a write with pw, whose primaries overlap (P6). `session`: a get that sent
    what its client had seen before on this key, writes and reads alike (P8). `monotonic`: a get that was
    promised P7: monotonic, 2 r > n, and only homes answered. `attempts`: how often a write was sent and may
    have been applied; a write sent twice may have two dots. `ended_s` is infinite while it has not ended.
    A client is sequential: it begins an operation after its last one ended, or was given up.
    """

    index: int
    client: int
    kind: Kind
    key: bytes
    started_s: float
    ended_s: float = float("inf")
    ended: Ended = Ended.UNKNOWN
    write_id: bytes = b""
    value: bytes = b""
    token_from: int | None = None
    seen: tuple[bytes, ...] = ()
    seen_values: tuple[bytes, ...] = ()
    seen_tombstones: tuple[bytes, ...] = ()
    strict: bool = False
    session: bool = False
    monotonic: bool = False
    node: str = ""
    error: str = ""
    attempts: int = 1


@dataclass(slots=True)
class FinalState:
    """What one replica held of one key when all faults were over and time for repair had passed.

    `fingerprint` is equal for replicas that hold equal states.
    """

    node: str
    key: bytes
    live: tuple[bytes, ...]
    tombstones: tuple[bytes, ...] = ()
    fingerprint: bytes = b""


@dataclass(slots=True)
class History:
    operations: list[Operation] = field(default_factory=list)
    final: list[FinalState] = field(default_factory=list)
