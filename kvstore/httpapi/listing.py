"""The keys of a bucket, page by page.

A page is a read: it is as complete as R answers for every partition make it, and says when they could
not be had. Keys whose value was deleted or has expired are passed over, so that a page can be short
without being the last one: go on as long as there is a next link.
"""

from __future__ import annotations

from typing import Any

from kvstore.core.encoding import etag
from kvstore.core.ring import full_key
from kvstore.core.sibling import KeyState, shown
from kvstore.core.token import seal
from kvstore.errors import TooLarge
from kvstore.httpapi.media import JSON, MSGPACK, encode, joined, negotiate
from kvstore.httpapi.options import ACCEPT, left_ms, to_count, to_flag, to_priority
from kvstore.httpapi.reply import Reply
from kvstore.httpapi.representation import described, key_fields
from kvstore.httpapi.routes import Call
from kvstore.httpapi.service import Service
from kvstore.httpapi.target import encoded
from kvstore.node.slices import RECORDS_AT_ONCE

LIMIT_DEFAULT = 100
LISTING_MEDIA = (JSON, MSGPACK)


class Listing:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def page(self, call: Call) -> Reply:
        """200. Raises InvalidRequest, TooLarge, and what Service.scan raises."""
        service, options = self._service, call.options
        prefix, after = self._key(options, "prefix"), self._key(options, "after")
        limit = to_count(options, "limit", 1, service.limits.scan_items_max) or LIMIT_DEFAULT
        values = to_flag(options, "values")
        to_priority(call.headers)
        page = await service.scan(
            call.bucket,
            prefix=prefix,
            after=after,
            limit=min(limit, service.limits.scan_items_max),
            values=values,
            r=to_count(options, "r", 1),
            timeout_s=left_ms(call, service.limits) / 1000,
        )
        media = negotiate(call.headers.get(ACCEPT), LISTING_MEDIA)
        now_ms = service.wall.now_ms()
        last_write_wins = service.bucket(call.bucket)[0].last_write_wins
        items: list[bytes] = []
        async with service.slices:
            for number, (key, state) in enumerate(page.items, 1):
                versions = shown(state, now_ms, last_write_wins=last_write_wins)
                if versions:
                    item = self._item(call.bucket, key, state, versions, media, values=values)
                    items.append(encode(item, media))
                if number % RECORDS_AT_ONCE == 0:
                    await service.slices.rest()
        rest: dict[str, Any] = {"complete": page.complete}
        head = f"KV-Complete: {'true' if page.complete else 'false'}\r\n"
        if page.last is not None:
            rest["next"] = link = _next_link(call, page.last)
            head += f'Link: <{link}>; rel="next"\r\n'
        body = joined("items", items, rest, media)
        return Reply(200, f"Content-Type: {media}\r\n{head}", body)

    def _item(
        self, bucket: str, key: bytes, state: KeyState, versions: Any, media: str, *, values: bool
    ) -> dict[str, Any]:
        """A context comes only with the values: who has not seen them must not supersede them."""
        item = key_fields(key, media) | {"etag": etag(state.siblings), "siblings": len(versions)}
        if values:
            item["context"] = seal(state.context, full_key(bucket, key), self._service.signing_key)
        item["values"] = [described(dot, version, media, with_value=values) for dot, version in versions]
        return item

    def _key(self, options: dict[str, bytes], name: str) -> bytes:
        raw = options.get(name, b"")
        if len(raw) > self._service.limits.key_bytes_max:
            raise TooLarge(f"{name} is longer than any key: {len(raw)} bytes")
        return raw


def _next_link(call: Call, last: bytes) -> str:
    """The same question, further on."""
    options = {name: value for name, value in call.options.items() if name != "after"}
    options["after"] = last
    query = "&".join(f"{name}={encoded(value)}" for name, value in options.items())
    return f"/v1/kv/{call.bucket}?{query}"
