"""Many operations in one request, each answered as it would have been alone.

The body is a JSON array, JSON lines, or a msgpack array of maps:

    {"op": "get" | "put" | "delete", "bucket": text, "key": text, or "key_base64": text,
     "value": text, or "value_base64": text,  "options": {name: value}, as in the query of a single one,
     "context", "session", "content_type", "if_match", "if_none_match", "idempotency_key": text,
     "meta": {name: text}}

msgpack may hold bytes for `key` and `value`. The answer has one entry per operation, in order:
`status`, `headers`, and the value, the siblings or the problem. Operations run side by side, also
those on one key: a batch is not a transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from kvstore.core.credential import Role
from kvstore.errors import KVStoreError
from kvstore.httpapi.admission import Admission
from kvstore.httpapi.batch_items import BatchReader, Operation, parse_items
from kvstore.httpapi.data_routes import DataRoutes
from kvstore.httpapi.media import JSON, JSON_LINES, MSGPACK, decode, document, media_type, negotiate
from kvstore.httpapi.metrics import Metrics
from kvstore.httpapi.options import ACCEPT, CONTENT_TYPE
from kvstore.httpapi.rate_limits import RateLimits
from kvstore.httpapi.reply import Reply
from kvstore.httpapi.representation import value_fields
from kvstore.httpapi.routes import Call, check_permission
from kvstore.httpapi.service import Service
from kvstore.httpapi.status_codes import PROBLEM_TYPE

BATCH_MEDIA = (JSON, MSGPACK, JSON_LINES)
AT_ONCE = 32
"""Operations of one batch that run side by side, if there are as many places in flight."""


class Failed(Protocol):
    """Turns the error of one operation into its reply, and counts it."""

    def __call__(self, error: BaseException, *, write: bool, request_id: str, instance: str) -> Reply: ...


class Work(NamedTuple):
    position: int
    operation: Operation | KVStoreError


class Batch:
    def __init__(
        self,
        service: Service,
        data: DataRoutes,
        reader: BatchReader,
        admission: Admission,
        rates: RateLimits,
        metrics: Metrics,
        failed: Failed,
    ) -> None:
        self._service, self._data, self._reader = service, data, reader
        self._admission, self._rates = admission, rates
        self._metrics, self._failed = metrics, failed

    async def run(self, call: Call) -> Reply:
        """200 with an entry per operation. Raises what is wrong with the batch as a whole."""
        limits, body = self._service.limits, call.body
        media = media_type(call.headers.get(CONTENT_TYPE, JSON))
        # Checked as a whole before anything runs: what was parsed may take many times its bytes.
        items = parse_items(body, media, limits.batch_items_max)
        offered = (media, *(m for m in BATCH_MEDIA if m != media))
        answer_media = negotiate(call.headers.get(ACCEPT), offered)
        siblings_media = MSGPACK if answer_media == MSGPACK else JSON
        operations = [self._reader.read(item, call, siblings_media) for item in items]
        self._rates.charge(call.client, len(items) - 1)
        del items
        answers: list[dict[str, Any]] = [{}] * len(operations)
        work = map(Work, range(len(operations)), operations)
        # The request itself has one place already; where the node is full, the batch goes on with that.
        more = self._admission.take_more(min(AT_ONCE, len(operations)) - 1, call)
        call.parts = max(1, -(-len(operations) // (1 + more)))
        try:
            await asyncio.gather(*(self._work(call, work, answers, answer_media) for _ in range(1 + more)))
        finally:
            self._admission.leave(more)
        return document(answers, answer_media)

    async def _work(
        self, call: Call, work: Iterator[Work], answers: list[dict[str, Any]], media: str
    ) -> None:
        """Takes the next operation as long as there is one; a task for each would cost more."""
        for position, operation in work:
            try:
                reply = await self._one(operation)
            except Exception as error:
                write = isinstance(operation, Operation) and operation.call.method != "GET"
                instance = f"/v1/batch#{position}"
                reply = self._failed(error, write=write, request_id=call.request_id, instance=instance)
            answers[position] = _entry(reply, media)

    async def _one(self, operation: Operation | KVStoreError) -> Reply:
        if isinstance(operation, KVStoreError):
            raise operation
        call, needed = operation.call, Role.READ if operation.name == "get" else Role.WRITE
        check_permission(call.principal, needed, call.bucket)
        self._metrics.batch_items[operation.name] += 1
        if self._rates.active:
            self._rates.check_bucket(operation.call.bucket)
        if operation.name == "get":
            return await self._data.get(operation.call)
        return await self._data.write(operation.call, operation.value, tombstone=operation.name == "delete")


def _entry(reply: Reply, media: str) -> dict[str, Any]:
    """One operation's answer: the same headers, and the body by what it is."""
    headers = reply.headers()
    entry: dict[str, Any] = {"status": reply.status, "headers": headers}
    content_type = headers.get("Content-Type", "")
    if content_type == PROBLEM_TYPE:
        entry["problem"] = decode(reply.body, JSON)
    elif reply.status == 300:
        entry |= decode(reply.body, media_type(content_type))
    elif reply.status == 200:
        entry |= value_fields(reply.body, content_type, media)
    return entry
