"""Listing a bucket page by page. Pure: which page is next, and what was on this one."""

from __future__ import annotations

from typing import Generic, TypeVar

from kvstore.client import answers, protocol
from kvstore.client.bucket_rules import BucketRules, Key
from kvstore.client.names import key_bytes
from kvstore.client.options import ReadOptions, query_dict
from kvstore.client.protocol import Reply, Request
from kvstore.client.records import Receipt, ScanItem
from kvstore.errors import QuorumNotMet

T = TypeVar("T")


class ScanRules(Generic[T]):
    """`request` is the next page, None after the last one."""

    def __init__(
        self,
        rules: BucketRules[T],
        *,
        prefix: Key,
        values: bool,
        page_size: int,
        options: ReadOptions,
        partial: bool,
    ) -> None:
        """Raises InvalidRequest."""
        raw = key_bytes(prefix) if prefix else b""
        self._rules, self._partial = rules, partial
        query = rules.query_of_read(ReadOptions(r=options.r, n=options.n))
        r = int(found) if (found := query_dict(query).get("r")) else None
        self.request: Request | None = protocol.scan(
            rules.name, prefix=raw, limit=page_size, values=values, r=r
        )

    def items(self, reply: Reply) -> list[ScanItem[T]]:
        """Raises QuorumNotMet for a page that may lack keys, InvalidRequest for a value of another codec."""
        assert self.request is not None
        rules = self._rules
        page = answers.page(reply, rules.name)
        if not page.complete and not self._partial:
            raise QuorumNotMet(
                f"some of the keys of {rules.name} could not be asked for: too few of their homes answer",
                outcome="failed",
                advice="scan again, or with partial=True for those that are there",
                request_id=reply.headers.get("kv-request-id", ""),
            )
        self.request = protocol.next_page(self.request, page.link) if page.link else None
        return [
            ScanItem(
                key, rules.decoded(key, found, Receipt(context=context, etag=etag, siblings=count)), count
            )
            for key, etag, count, context, found in page.items
        ]
