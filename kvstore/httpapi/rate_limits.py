"""Requests per second, of one client and to one bucket, as far as somebody limited them.

A client is who its credential says, or else where it connects from. Each node counts for itself: a
client that spreads over all nodes gets as much from each.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from kvstore.core.token_bucket import TokenBucket
from kvstore.errors import RateLimited
from kvstore.httpapi.metrics import Metrics
from kvstore.httpapi.service import Service

CLIENTS_MAX = 10_000
BUCKETS_MAX = 10_000


class RateLimits:
    """`active`: whether anything is limited at all; the only thing that is looked at while it is not.

    `refresh` is called about once a second: so long a new property of a bucket takes to hold here.
    """

    def __init__(self, service: Service, metrics: Metrics, elapsed_s: Callable[[], float]) -> None:
        self._service, self._metrics, self._elapsed_s = service, metrics, elapsed_s
        self._client_rate_per_s = service.limits.client_requests_per_s
        self._burst_s = service.limits.rate_burst_s
        self._clients: OrderedDict[str, TokenBucket] = OrderedDict()
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()
        self.active = False
        self.refresh()

    def check(self, client: str, bucket: str) -> None:
        """Counts one request; `bucket` may be "". Raises RateLimited, and then it is not counted."""
        if self._client_rate_per_s:
            wait_s = self._of_client(client).take(self._elapsed_s())
            if wait_s:
                raise self._refused(
                    "client_rate", f"more than {self._client_rate_per_s:g} requests per second", wait_s
                )
        if bucket:
            self.check_bucket(bucket)

    def check_bucket(self, bucket: str) -> None:
        """One operation of a batch, whose request was counted as its client's. Raises RateLimited."""
        found = self._of_bucket(bucket)
        wait_s = found.take(self._elapsed_s()) if found is not None else 0.0
        if found is not None and wait_s:
            raise self._refused(
                "bucket_rate",
                f"bucket {bucket} gets more than {found.rate_per_s:g} requests per second",
                wait_s,
            )

    def charge(self, client: str, count: int) -> None:
        """A request that turned out to be so many more; what is over the limit delays the next one."""
        if self._client_rate_per_s and count:
            self._of_client(client).charge(self._elapsed_s(), count)

    def refresh(self) -> None:
        """Forgets who has been quiet, and sees which buckets are limited."""
        now_s = self._elapsed_s()
        for table in (self._clients, self._buckets):
            for name in [name for name, found in table.items() if found.is_full(now_s)]:
                del table[name]
        self.active = (
            self._client_rate_per_s > 0
            or self._service.bucket("")[0].requests_per_s > 0
            or any(properties.requests_per_s for properties in self._service.buckets().values())
        )

    def _of_client(self, client: str) -> TokenBucket:
        found = self._clients.get(client)
        if found is None:
            found = self._made(self._clients, client, self._client_rate_per_s, CLIENTS_MAX)
        return found

    def _of_bucket(self, bucket: str) -> TokenBucket | None:
        rate_per_s = self._service.bucket(bucket)[0].requests_per_s
        if not rate_per_s:
            return None
        found = self._buckets.get(bucket)
        if found is None or found.rate_per_s != rate_per_s:
            found = self._made(self._buckets, bucket, rate_per_s, BUCKETS_MAX)
        return found

    def _made(
        self, table: OrderedDict[str, TokenBucket], name: str, rate_per_s: float, entries_max: int
    ) -> TokenBucket:
        if len(table) >= entries_max:
            table.popitem(last=False)
        burst = max(1.0, rate_per_s * self._burst_s)
        table[name] = made = TokenBucket(rate_per_s=rate_per_s, burst=burst, now_s=self._elapsed_s())
        return made

    def _refused(self, reason: str, detail: str, wait_s: float) -> RateLimited:
        self._metrics.sheds[reason] += 1
        return RateLimited(
            detail, retry_after_s=wait_s, reason=reason, advice="nothing was done: wait as Retry-After says"
        )
