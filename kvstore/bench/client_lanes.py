"""Through the client library, as an application would: with its retries, deadlines and routing."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from typing import Any

from kvstore.bench.drive import Clock
from kvstore.bench.recording import Recording
from kvstore.bench.workload import Kind, Operation, Operations, key_text
from kvstore.client import AsyncBucket, Bucket
from kvstore.errors import KVStoreError, SiblingsError


class ClientLane:
    """One task of an AsyncClient, which all lanes share."""

    def __init__(self, bucket: AsyncBucket[bytes], values: list[bytes]) -> None:
        self._bucket, self._values, self._turn = bucket, values, 0

    async def run(self, operation: Operation) -> str:
        try:
            await self._run(operation)
        except SiblingsError:
            return ""
        except KVStoreError as error:
            return type(error).__name__
        return ""

    async def _run(self, operation: Operation) -> None:
        kind, key, items = operation
        bucket, text = self._bucket, key_text(key)
        if kind is Kind.READ:
            await bucket.get(text)
        elif kind is Kind.SCAN:
            await self._scan(text, items)
        elif kind is Kind.MODIFY:
            record = await bucket.fetch(text)
            await bucket.put(text, self._value(), context=record.context)
        else:
            await bucket.put(text, self._value())

    async def _scan(self, prefix: str, items: int) -> None:
        """The library lists by prefix: keys that share all digits but the last two."""
        async for _ in self._bucket.scan(prefix[:-2], page_size=items):
            items -= 1
            if items == 0:
                return

    def _value(self) -> bytes:
        self._turn = (self._turn + 1) % len(self._values)
        return self._values[self._turn]


class BatchLane:
    """Batches of `items` operations; the first draws the kind of all."""

    def __init__(
        self, bucket: AsyncBucket[bytes], values: list[bytes], operations: Operations, items: int
    ) -> None:
        self._bucket, self._values, self._operations, self._items = bucket, values, operations, items

    async def run(self, operation: Operation) -> str:
        wanted = [operation]
        while len(wanted) < self._items:
            another = self._operations.next()
            if (another.kind is Kind.READ) == (operation.kind is Kind.READ):
                wanted.append(another)
        try:
            async with self._bucket.batch() as batch:
                for i, each in enumerate(wanted):
                    if each.kind is Kind.READ:
                        batch.get(key_text(each.key))
                    else:
                        batch.put(key_text(each.key), self._values[i % len(self._values)])
        except KVStoreError as error:
            return type(error).__name__
        for each in wanted[1:]:
            if each.kind is Kind.INSERT:
                self._operations.acknowledged(each.key)
        return ""


def closed_loop_of_threads(
    buckets: list[Bucket[bytes]],
    operations: Callable[[int], Operations],
    values: list[bytes],
    *,
    warm_up_s: float,
    duration_s: float,
    clock: Clock,
) -> Recording:
    """The synchronous client: one thread per bucket, each with operations and a recording of its own."""
    begin_s = clock() + warm_up_s
    recordings = [Recording() for _ in buckets]

    def work(number: int) -> None:
        bucket, recording, mine = buckets[number], recordings[number], operations(number)
        while (now_s := clock()) < begin_s + duration_s:
            operation = mine.next()
            error = _sync(bucket, operation, values[number % len(values)])
            if operation.kind is Kind.INSERT and not error:
                mine.acknowledged(operation.key)
            if now_s >= begin_s:
                recording.add(operation.kind.value, clock() - now_s, error, now_s - begin_s)
        recording.duration_s = clock() - begin_s

    threads = [Thread(target=work, args=(i,), daemon=True) for i in range(len(buckets))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    whole = recordings[0]
    for recording in recordings[1:]:
        whole.merge(recording)
    return whole


def _sync(bucket: Bucket[bytes], operation: Operation, value: bytes) -> str:
    text: Any = key_text(operation.key)
    try:
        if operation.kind is Kind.READ:
            bucket.get(text)
        elif operation.kind is Kind.SCAN:
            for _ in zip(
                range(operation.items), bucket.scan(text[:-2], page_size=operation.items), strict=False
            ):
                pass
        elif operation.kind is Kind.MODIFY:
            bucket.put(text, value, context=bucket.fetch(text).context)
        else:
            bucket.put(text, value)
    except SiblingsError:
        return ""
    except KVStoreError as error:
        return type(error).__name__
    return ""
