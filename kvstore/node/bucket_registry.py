"""The properties of every bucket, as this node knows them, and how they spread.

A record holds by (version, author), so any order of arrival ends in the same table. Setting one asks
a majority of the members for their version first and stores a higher one on a majority, as in a
multi-writer register (Attiya, Bar-Noy, Dolev 1995); gossip brings it to the rest.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from hashlib import blake2b

from kvstore.core.bucket import BucketProperties, properties_from
from kvstore.core.message import BucketRecord
from kvstore.errors import InvalidRequest, StorageFailed
from kvstore.node.ports import Kind, Storage

_META_KEY = b"buckets"
BUCKETS_MAX = 10_000


class BucketRegistry:
    """`defaults` hold for a bucket that nobody configured."""

    def __init__(self, storage: Storage, defaults: BucketProperties) -> None:
        self._storage = storage
        self.defaults = defaults
        self._records: dict[str, BucketRecord] = {}
        self._properties: dict[str, BucketProperties] = {}
        self.digest = b""

    def start(self) -> None:
        stored = self._storage.get(Kind.META, 0, _META_KEY)
        for fields in json.loads(stored) if stored else ():
            record = BucketRecord(*fields)
            self._take(record, _read(record))
        self.digest = self._digest()

    def properties(self, name: str) -> BucketProperties:
        return self._properties.get(name, self.defaults)

    def record(self, name: str) -> BucketRecord | None:
        return self._records.get(name)

    def records(self) -> tuple[BucketRecord, ...]:
        return tuple(self._records[name] for name in sorted(self._records))

    def named(self) -> dict[str, BucketProperties]:
        return {name: self._properties[name] for name in sorted(self._properties)}

    def merge(self, records: Iterable[BucketRecord]) -> bool:
        """Take what is newer; True if anything was. Written, not yet synced.

        Raises InvalidRequest, and takes nothing, if one of them cannot be read.
        """
        news = {record: _read(record) for record in records if self._is_news(record)}
        if not news:
            return False
        if len(self._records) + len(news) > BUCKETS_MAX:
            raise StorageFailed(f"more than {BUCKETS_MAX} buckets with properties of their own")
        for record, properties in news.items():
            self._take(record, properties)
        self.digest = self._digest()
        table = json.dumps(self.records()).encode()
        self._storage.apply([(Kind.META, 0, _META_KEY, table)])
        return True

    def _is_news(self, record: BucketRecord) -> bool:
        held = self._records.get(record.name)
        return held is None or (held.version, held.author) < (record.version, record.author)

    def _take(self, record: BucketRecord, properties: BucketProperties) -> None:
        self._records[record.name] = record
        self._properties[record.name] = properties

    def _digest(self) -> bytes:
        marks = "\n".join(f"{r.name} {r.version} {r.author}" for r in self.records())
        return blake2b(marks.encode(), digest_size=16).digest()


def _read(record: BucketRecord) -> BucketProperties:
    """Raises InvalidRequest."""
    try:
        values = json.loads(record.properties)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise InvalidRequest(f"the properties of bucket {record.name[:64]!r} are no JSON object")
    return properties_from(values, BucketProperties())
