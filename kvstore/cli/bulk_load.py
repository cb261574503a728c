"""Many records into a bucket: in batches, several at once, those with one key one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

from kvstore.cli import records
from kvstore.cli.checkpoint import Progress
from kvstore.cli.records import Place, Record
from kvstore.errors import BatchError, KVStoreError, Unavailable

if TYPE_CHECKING:
    from kvstore.client.asynchronous import AsyncBucket, AsyncClient

BATCH_RECORDS = 50
BATCH_BYTES = 2 << 20
HANDLES_MAX = 256

Raw = tuple[Place, Any]
PutMany = Callable[[list[Record]], Awaitable[list[KVStoreError | None]]]
"""Puts records side by side; for each what was wrong, in their order."""


class Writer:
    """PutMany on a bucket. The content type belongs to a handle's codec, so there is one for each."""

    def __init__(self, client: AsyncClient, bucket: str, w: int | None, timeout_s: float) -> None:
        self._client, self._bucket, self._w, self._timeout_s = client, bucket, w, timeout_s
        self._handles: dict[str, AsyncBucket[bytes]] = {}

    async def put_many(self, batch: list[Record]) -> list[KVStoreError | None]:
        """The first value of a record replaces what is there, the others sit beside it."""
        errors: list[KVStoreError | None] = [None] * len(batch)
        by_type: dict[str, list[int]] = {}
        for position, record in enumerate(batch):
            by_type.setdefault(record.values[0].content_type, []).append(position)
        for content_type, positions in by_type.items():
            await self._put_first_values(content_type, positions, batch, errors)
        for position, record in enumerate(batch):
            if len(record.values) > 1 and errors[position] is None:
                errors[position] = await self._put_siblings(record)
        return errors

    async def _put_first_values(
        self, content_type: str, positions: list[int], batch: list[Record], errors: list[KVStoreError | None]
    ) -> None:
        sent: list[int] = []
        try:
            async with self._handle(content_type).batch() as block:
                for position in positions:
                    key, (value, *_) = batch[position]
                    try:
                        block.put(key, value.data, meta=value.meta or None, w=self._w)
                    except KVStoreError as error:  # this record can be sent to nobody
                        errors[position] = error
                    else:
                        sent.append(position)
        except BatchError as failed:
            for index, own in failed.errors.items():
                errors[sent[index]] = own

    async def _put_siblings(self, record: Record) -> KVStoreError | None:
        try:
            for value in record.values[1:]:
                handle = self._handle(value.content_type)
                await handle.put(record.key, value.data, meta=value.meta or None, w=self._w, mode="sibling")
        except KVStoreError as error:
            return error
        return None

    def _handle(self, content_type: str) -> AsyncBucket[bytes]:
        from kvstore.client.codecs import Codec

        if content_type not in self._handles:
            if len(self._handles) >= HANDLES_MAX:
                self._handles.clear()
            codec: Codec[bytes] = Codec("bytes", content_type, bytes, bytes)
            self._handles[content_type] = self._client.bucket(
                self._bucket, codec=codec, timeout_s=self._timeout_s
            )
        return self._handles[content_type]


class Load:
    """One run. `step` is called now and then; `failures_max` failed records end it."""

    def __init__(
        self,
        put_many: PutMany,
        progress: Progress,
        step: Callable[[], None],
        *,
        batches_max: int,
        failures_max: int,
    ) -> None:
        self._put_many, self._progress, self._step = put_many, progress, step
        self._failures_max = failures_max
        self._free = asyncio.Semaphore(batches_max)
        self._batch: dict[bytes, tuple[Place, Record]] = {}
        self._batch_bytes = 0
        self._writing: dict[bytes, asyncio.Task[None]] = {}

    async def run(self, source: Iterator[Raw]) -> None:
        """Raises KVStoreError when too many records failed, or when `source` cannot be read on."""
        try:
            async with asyncio.TaskGroup() as group:
                for place, raw in source:
                    self._progress.started(place)
                    try:
                        record = records.parse(raw)
                    except KVStoreError as error:
                        self._failed(place, error)
                        continue
                    await self._add(group, place, record)
                await self._send(group)
        except* KVStoreError as errors:
            raise _first(errors) from None
        self._progress.finished = True

    async def _add(self, group: asyncio.TaskGroup, place: Place, record: Record) -> None:
        key = record.key
        if key in self._batch:
            await self._send(group)
        if key in self._writing:
            await asyncio.wait((self._writing[key],))
        self._batch[key] = (place, record)
        self._batch_bytes += sum(len(value.data) for value in record.values)
        if len(self._batch) >= BATCH_RECORDS or self._batch_bytes >= BATCH_BYTES:
            await self._send(group)

    async def _send(self, group: asyncio.TaskGroup) -> None:
        """Hand the batch over as soon as there is a place."""
        batch, self._batch, self._batch_bytes = self._batch, {}, 0
        if batch:
            await self._free.acquire()
            task = group.create_task(self._write(batch))
            self._writing.update(dict.fromkeys(batch, task))

    async def _write(self, batch: dict[bytes, tuple[Place, Record]]) -> None:
        try:
            errors = await self._put_many([record for _, record in batch.values()])
            for (place, _), error in zip(batch.values(), errors, strict=True):
                if error is None:
                    self._progress.written(place)
                else:
                    self._failed(place, error)
        finally:
            for key in batch:
                del self._writing[key]
            self._free.release()
        self._step()

    def _failed(self, place: Place, error: KVStoreError) -> None:
        self._progress.failed(place, error)
        if len(self._progress.errors) >= self._failures_max:
            last = f"{len(self._progress.errors)} records failed, the last one: {error}"
            raise Unavailable(last, outcome=error.outcome, advice=error.advice)


def _first(errors: BaseExceptionGroup[KVStoreError]) -> KVStoreError:
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
