"""Many operations in one request: what was asked for, what came back, what is sent again. Pure.

Operations of a batch run side by side, also those on one key: a batch is not a transaction. Those
with a condition travel in requests of their own, so that the rest may be sent again after a lost answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from kvstore.client import answers, protocol
from kvstore.client.bucket_rules import BucketRules, Condition, Key
from kvstore.client.options import Count, query_dict
from kvstore.client.protocol import Reply, Request, judge
from kvstore.client.records import Receipt, Record
from kvstore.client.retry import MAY_RETRY, Effect, Failed, Fate, Policy, backoff_s, verdict
from kvstore.errors import BatchError, InvalidRequest, KVStoreError

T = TypeVar("T")

ITEMS_MAX = 250  # per request; the node's limit is 1000, and large answers are better split
BYTES_MAX = 4 * 1024 * 1024
_ITEM_OVERHEAD_BYTES = 512


class _Item:
    """One operation. `fields`: as the request carries it. `request`: as it would be alone."""

    __slots__ = ("error", "failures", "fields", "key", "reply", "request")

    def __init__(self, key: Key, request: Request, fields: dict[str, Any]) -> None:
        self.key, self.request, self.fields = key, request, fields
        self.reply: Reply | None = None
        self.error: KVStoreError | None = None
        self.failures: list[Failed] = []

    def _answer(self) -> Reply:
        if self.error is not None:
            raise self.error
        if self.reply is None:
            raise InvalidRequest("the batch was not sent yet", advice="read results after its `with` block")
        return self.reply


class BatchGet(_Item, Generic[T]):
    """A get of a batch; read it after the block."""

    __slots__ = ("_rules",)

    def __init__(self, rules: BucketRules[T], key: Key, request: Request, fields: dict[str, Any]) -> None:
        super().__init__(key, request, fields)
        self._rules = rules

    @property
    def record(self) -> Record[T]:
        """Raises this item's error."""
        return self._rules.record(self.key, self._answer())

    @property
    def value(self) -> T | None:
        """As Record.value. Raises this item's error."""
        return self.record.value


class BatchWrite(_Item):
    """A put or delete of a batch; read it after the block."""

    __slots__ = ()

    @property
    def receipt(self) -> Receipt:
        """Raises this item's error."""
        return answers.receipt(self._answer().headers)


class BatchRules(Generic[T]):
    """Collects operations, splits them into requests, and takes in the answers."""

    def __init__(self, rules: BucketRules[T], policy: Policy) -> None:
        self._rules, self._policy = rules, policy
        self.items: list[BatchGet[T] | BatchWrite] = []
        self._rounds = 0

    # --- what is asked ------------------------------------------------------------------------------

    def get(self, key: Key, *, r: Count = None, n: int | None = None) -> BatchGet[T]:
        """Raises InvalidRequest."""
        rules = self._rules
        options = rules.read_options(r, n, None, None)
        request = rules.get(key, options)
        fields = self._fields("get", request, rules.query_of_read(options))
        if session := request.headers.get("KV-Session"):
            fields["session"] = session
        item: BatchGet[T] = BatchGet(rules, key, request, fields)
        self.items.append(item)
        return item

    def put(
        self,
        key: Key,
        value: T,
        *,
        context: str | None = None,
        if_match: str | None = None,
        if_absent: bool = False,
        ttl_s: float | None = None,
        meta: Mapping[str, str] | None = None,
        w: Count = None,
        n: int | None = None,
        mode: str | None = None,
    ) -> BatchWrite:
        """Raises InvalidRequest, InvalidContext."""
        rules = self._rules
        options = rules.write_options(w, n, None, None, ttl_s, mode)
        request = rules.put(key, value, options, Condition(context, if_match, if_absent), meta=meta)
        fields = self._fields("put", request, rules.query_of_write(options))
        fields |= {"value": request.body, "content_type": rules.codec.content_type}
        if meta:
            fields["meta"] = {name.lower(): text for name, text in meta.items()}
        return self._write(key, request, fields)

    def delete(
        self,
        key: Key,
        *,
        context: str | None = None,
        if_match: str | None = None,
        w: Count = None,
        n: int | None = None,
    ) -> BatchWrite:
        """Raises InvalidRequest, InvalidContext."""
        rules = self._rules
        options = rules.write_options(w, n, None, None, None, None)
        request = rules.delete(key, options, Condition(context, if_match))
        return self._write(
            key, request, self._fields("delete", request, rules.query_of_write(options, delete=True))
        )

    def _fields(self, name: str, request: Request, query: str) -> dict[str, Any]:
        fields: dict[str, Any] = {"op": name, "bucket": request.bucket, "key": request.key}
        if query:
            fields["options"] = query_dict(query)
        return fields

    def _write(self, key: Key, request: Request, fields: dict[str, Any]) -> BatchWrite:
        headers = request.headers
        for field, header in (
            ("idempotency_key", "Idempotency-Key"),
            ("context", "KV-Context"),
            ("if_match", "If-Match"),
            ("if_none_match", "If-None-Match"),
        ):
            if header in headers:
                fields[field] = headers[header]
        item = BatchWrite(key, request, fields)
        self.items.append(item)
        return item

    # --- sending ------------------------------------------------------------------------------------

    def requests(self) -> list[tuple[Request, list[_Item]]]:
        """What is still to be sent, in requests within the limits of a node."""
        open_items = [item for item in self.items if item.reply is None and item.error is None]
        conditional = [item for item in open_items if item.request.effect is Effect.CONDITIONAL]
        rest = [item for item in open_items if item.request.effect is not Effect.CONDITIONAL]
        made = []
        for group, effect in ((rest, Effect.WRITE), (conditional, Effect.CONDITIONAL)):
            for chunk in _chunks(group):
                only_reads = all(item.request.effect is Effect.READ for item in chunk)
                request = protocol.batch(
                    [item.fields for item in chunk], Effect.READ if only_reads else effect
                )
                made.append((request, chunk))
        return made

    def answered(self, chunk: list[_Item], reply: Reply) -> None:
        """Raises KVStoreError if the answer as a whole does not parse."""
        node = reply.headers.get("kv-node", "a node")
        for item, own in zip(chunk, answers.batch(reply, len(chunk)), strict=True):
            failed = judge(item.request, own, node)
            if failed is None:
                item.reply = own
                self._rules.seen(item.request, own)
                continue
            item.failures.append(failed)
            if (
                not MAY_RETRY[item.request.effect, failed.fate]
                or len(item.failures) >= self._policy.attempts_max
            ):
                item.error = verdict(item.failures)

    def lost(self, chunk: list[_Item], error: KVStoreError) -> None:
        """The request as a whole failed, after its own retries."""
        for item in chunk:
            item.error = verdict([*item.failures, Failed(error, Fate.FINAL)])

    def next_round_s(self, left_s: float, chance: float) -> float | None:
        """Seconds to wait before what is left is sent again; None if nothing is, or no time is left."""
        left = [item for item in self.items if item.reply is None and item.error is None]
        if not left:
            return None
        self._rounds += 1
        wait_s = backoff_s(self._rounds, chance, self._policy)
        if wait_s < left_s:
            return wait_s
        for item in left:
            item.error = verdict(item.failures)
        return None

    def finish(self) -> None:
        """Raises BatchError with every item's error, if there are any."""
        errors = {i: item.error for i, item in enumerate(self.items) if item.error is not None}
        if errors:
            first = next(iter(errors.values()))
            raise BatchError(
                f"{len(errors)} of {len(self.items)} operations failed, the first with: {first}",
                errors=errors,
            ) from first


def _chunks(items: Sequence[_Item]) -> list[list[_Item]]:
    chunks: list[list[_Item]] = []
    size_bytes = BYTES_MAX
    for item in items:
        item_bytes = len(item.request.body) + len(item.request.key) + _ITEM_OVERHEAD_BYTES
        if size_bytes + item_bytes > BYTES_MAX or len(chunks[-1]) >= ITEMS_MAX:
            chunks.append([])
            size_bytes = 0
        chunks[-1].append(item)
        size_bytes += item_bytes
    return chunks
