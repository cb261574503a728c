"""What this room needs of a node. `kvstore.node.node.Node` fits by shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from kvstore.core.bucket import BucketProperties
from kvstore.core.limits import Limits
from kvstore.core.message import Get, Got, Put, Written
from kvstore.core.outcome import AskOutcome, OutcomeTold
from kvstore.node.ports import WallClock
from kvstore.node.scan import Page
from kvstore.node.slices import Slices
from kvstore.node.tasks import Task
from kvstore.node.upkeep import Figures


class UpkeepService(Protocol):
    """`kvstore.node.upkeep.Upkeep` fits by shape."""

    def begin_repair(self, bucket: str, key: bytes, partition: int | None, /) -> Task:
        """Of one key, if there is one; else of one partition, or of all."""

    def begin_barrier(self, timeout_s: float, /) -> Task: ...

    def shown_tasks(self) -> list[dict[str, Any]]:
        """Ready for JSON: those that run and the last that ended, the newest first."""

    def status(self) -> dict[str, Any]:
        """Ready for JSON: what was compared and healed, and when each peer was last compared."""

    def figures(self) -> Figures: ...


class Service(Protocol):
    """Every call raises errors of `kvstore.errors` and nothing else on purpose."""

    @property
    def limits(self) -> Limits: ...

    @property
    def wall(self) -> WallClock: ...

    @property
    def signing_key(self) -> bytes: ...

    @property
    def node_id(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def slices(self) -> Slices: ...

    @property
    def upkeep(self) -> UpkeepService: ...

    def name_of(self, node: str, /) -> str: ...

    async def get(self, request: Get, /) -> Got: ...

    async def put(self, request: Put, /) -> Written: ...

    async def outcome(self, asked: AskOutcome, /) -> OutcomeTold: ...

    async def scan(
        self,
        bucket: str,
        *,
        prefix: bytes,
        after: bytes,
        limit: int,
        values: bool,
        r: int | None,
        timeout_s: float,
    ) -> Page: ...

    def bucket(self, name: str, /) -> tuple[BucketProperties, bool]:
        """Effective properties, and whether somebody set them."""

    async def set_bucket(self, name: str, values: Mapping[str, Any], /) -> BucketProperties: ...

    def buckets(self) -> dict[str, BucketProperties]:
        """Those that somebody set."""

    def cluster(self) -> dict[str, Any]:
        """Ready for JSON: members with addresses, domains, state, share of the partitions."""

    def peers(self) -> dict[str, Any]:
        """Ready for JSON: breakers and latency of each peer, and hedges."""

    def keeps(self, bucket: str, key: bytes, /) -> bool:
        """Whether this node is a home of the key, as far as it knows."""

    def clocks(self) -> tuple[dict[str, int], int]:
        """(ms by which each peer's clock is ahead of ours, times refused as too far ahead)."""

    def layout(self) -> dict[str, Any] | None:
        """Ready for JSON: what a client needs to route; None before the first layout."""

    async def explain(self, bucket: str, key: bytes, /) -> dict[str, Any]: ...

    def pending_hints(self) -> dict[str, Any]:
        """Ready for JSON: what this node keeps for others, by target."""

    def readiness(self) -> list[tuple[str, bool, str]]:
        """(check, holds, what it says)."""
