"""Changing the properties of a bucket: read what a majority of the members has, write to a majority."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, cast

from kvstore.core.bucket import BucketProperties, check_bucket_name, properties_from
from kvstore.core.limits import Limits
from kvstore.core.message import BucketHeld, BucketRecord, FetchBucket, Reply, Request, StoreBucket
from kvstore.core.quorum import Outcome, Tally, majority
from kvstore.errors import InvalidRequest, NotReady, QuorumNotMet
from kvstore.node.bucket_registry import BucketRegistry
from kvstore.node.cluster_view import ClusterView
from kvstore.node.fan_out import FanOut
from kvstore.node.ports import Storage


class BucketChanges:
    def __init__(
        self,
        *,
        view: ClusterView,
        buckets: BucketRegistry,
        storage: Storage,
        fan_out: Callable[[Tally], FanOut],
        limits: Limits,
    ) -> None:
        self._view, self._buckets, self._storage = view, buckets, storage
        self._fan_out, self._limits = fan_out, limits

    async def set(self, name: str, values: Mapping[str, Any]) -> BucketProperties:
        """Durable on a majority of the members before it returns. Raises QuorumNotMet, InvalidRequest."""
        check_bucket_name(name)
        layout = self._view.layout
        if layout is None:
            raise NotReady("this node belongs to no cluster yet")
        newest = await self._newest_record(name)
        base = self._buckets.defaults
        if newest is not None:
            base = properties_from(json.loads(newest.properties), base)
        properties = properties_from(values, base)
        if properties.n > len(layout.members):
            raise InvalidRequest(
                f"n={properties.n} is more than the {len(layout.members)} nodes of this cluster",
                advice="set a smaller n, or add nodes first",
            )
        version = newest.version + 1 if newest else 1
        record = BucketRecord(name, version, self._view.me.node_id, json.dumps(properties.as_dict()))
        self._buckets.merge([record])
        await self._storage.sync()
        await self._ask_majority(StoreBucket(record))
        return properties

    async def _newest_record(self, name: str) -> BucketRecord | None:
        """As a majority of the members knows it: any majority stored the newest one at least once."""
        heard = [cast(BucketHeld, reply).record for reply in await self._ask_majority(FetchBucket(name))]
        held = [record for record in (self._buckets.record(name), *heard) if record is not None]
        return max(held, key=lambda r: (r.version, r.author), default=None)

    async def _ask_majority(self, request: Request) -> list[Reply]:
        """Answers of so many other members that they are a majority with this node. Raises QuorumNotMet."""
        layout = self._view.layout
        assert layout is not None, "asked before there are members"
        others = [m.node_id for m in layout.members if m.node_id != self._view.me.node_id]
        need = majority(len(layout.members)) - 1
        votes = self._fan_out(Tally(asked=len(others), need=need))
        for node in others:
            votes.ask(node, request, self._limits.peer_deadline_s)
        if await votes.decided() is Outcome.LOST:
            raise QuorumNotMet(
                required=need + 1,
                received=votes.tally.acks + 1,
                asked=len(layout.members),
                advice="properties change with a majority of all members in reach: send it again then",
            )
        return [reply for _, reply, _ in votes.answers]
