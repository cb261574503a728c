"""One bucket as both clients see it: arguments to requests, answers to values. Pure.

Holds what a bucket was opened with (codec, resolver, counts), and the two things it learns: how many
homes its keys have, if a level asked for that, and what this session has seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Generic, NamedTuple, TypeVar, cast

from kvstore.client import answers, protocol
from kvstore.client.codecs import Codec
from kvstore.client.last_seen import LastSeen
from kvstore.client.names import check_bucket, key_bytes
from kvstore.client.options import (
    Count,
    ReadOptions,
    WriteOptions,
    checked_timeout_s,
    homes_needed,
    read_query,
    write_query,
)
from kvstore.client.protocol import Reply, Request, Write
from kvstore.client.records import Outcome, Receipt, Record, Sibling
from kvstore.client.resolvers import Resolver
from kvstore.client.retry import Effect
from kvstore.client.session import Session
from kvstore.errors import InvalidRequest, Unavailable

T = TypeVar("T")
Key = str | bytes

_HOMES_KNOWN_S = 60.0  # somebody else may give the bucket another n


class Condition(NamedTuple):
    """What a write is based on."""

    context: str | None = None
    if_match: str | None = None
    if_absent: bool = False


class BucketRules(Generic[T]):
    def __init__(
        self,
        name: str,
        *,
        codec: Codec[T],
        resolver: Resolver[T] | None,
        reads: ReadOptions,
        writes: WriteOptions,
        session: Session | None,
        timeout_s: float,
        new_id: Callable[[], str],
    ) -> None:
        """Raises InvalidRequest."""
        self.name = check_bucket(name)
        self.codec, self.resolver, self.session = codec, resolver, session
        self.reads, self.writes = reads, writes
        self.timeout_s = checked_timeout_s(timeout_s)
        self._new_id = new_id
        self._last_seen = LastSeen() if reads.fallback is not None else None
        self._homes = 0
        self._homes_until_s = 0.0
        # Counts that make no sense are refused here; levels are checked with a number that fits any.
        self._get_query = read_query(reads, 3)
        self._put_query, self._delete_query = (
            write_query(writes, 3),
            write_query(writes._replace(ttl_s=None), 3),
        )

    # --- options ------------------------------------------------------------------------------------

    def read_options(
        self,
        r: Count,
        n: int | None,
        pr: int | None,
        monotonic: bool | None,
        sloppy: bool | None = None,
    ) -> ReadOptions:
        """The call's, and the bucket's where the call says nothing."""
        reads = self.reads
        if r is None and n is None and pr is None and monotonic is None and sloppy is None:
            return reads
        return ReadOptions(
            reads.r if r is None else r,
            reads.n if n is None else n,
            reads.pr if pr is None else pr,
            reads.monotonic if monotonic is None else monotonic,
            reads.sloppy if sloppy is None else sloppy,
            reads.fallback,
        )

    def write_options(
        self,
        w: Count,
        n: int | None,
        pw: int | None,
        dw: int | None,
        ttl_s: float | None,
        mode: str | None,
        sloppy: bool | None = None,
    ) -> WriteOptions:
        writes = self.writes
        if all(given is None for given in (w, n, pw, dw, ttl_s, mode, sloppy)):
            return writes
        return WriteOptions(
            writes.w if w is None else w,
            writes.n if n is None else n,
            writes.pw if pw is None else pw,
            writes.dw if dw is None else dw,
            writes.ttl_s if ttl_s is None else ttl_s,
            writes.mode if mode is None else mode,
            writes.sloppy if sloppy is None else sloppy,
        )

    def lacks_homes(self, options: ReadOptions | WriteOptions, now_s: float) -> bool:
        """Whether the bucket's n must be asked for before a request with these options can be built."""
        return homes_needed(options) and now_s >= self._homes_until_s

    def learn_homes(self, reply: Reply, now_s: float) -> None:
        """From the answer to protocol.properties."""
        n = answers.properties(reply).get("n")
        if type(n) is not int or n < 1:
            raise InvalidRequest(f"the cluster does not say how many homes {self.name} has", advice="pass n=")
        self._homes, self._homes_until_s = n, now_s + _HOMES_KNOWN_S

    # --- requests -----------------------------------------------------------------------------------

    def get(self, key: Key, options: ReadOptions) -> Request:
        """Raises InvalidRequest."""
        raw = key_bytes(key)
        seen = self.session.seen(raw) if self.session is not None else ""
        return protocol.get(
            self.name, raw, self.query_of_read(options), session=seen, homes=options.n or self._homes
        )

    def query_of_read(self, options: ReadOptions) -> str:
        if options is self.reads and not homes_needed(options):
            return self._get_query
        return read_query(options, self._homes)

    def query_of_write(self, options: WriteOptions, *, delete: bool = False) -> str:
        if options is self.writes and not homes_needed(options):
            return self._delete_query if delete else self._put_query
        if delete and options.ttl_s == self.writes.ttl_s:
            options = options._replace(ttl_s=None)  # the bucket's default is for puts
        return write_query(options, self._homes, delete=delete)

    def put(
        self,
        key: Key,
        value: T,
        options: WriteOptions,
        condition: Condition,
        *,
        meta: Mapping[str, str] | None = None,
        operation_id: str | None = None,
    ) -> Request:
        """Raises InvalidRequest, InvalidContext."""
        raw = key_bytes(key)
        options = self._without_mode(options, condition)
        write = self.write_of(raw, options, condition, operation_id)._replace(
            meta=meta, content_type=self.codec.content_type
        )
        data = self.codec.to_bytes(value, key)
        homes = options.n or self._homes
        return protocol.put(self.name, raw, self.query_of_write(options), data, write, homes=homes)

    def delete(
        self, key: Key, options: WriteOptions, condition: Condition, *, operation_id: str | None = None
    ) -> Request:
        """Raises InvalidRequest, InvalidContext."""
        raw = key_bytes(key)
        options = self._without_mode(options, condition)
        write = self.write_of(raw, options, condition, operation_id)
        query = self.query_of_write(options, delete=True)
        return protocol.delete(self.name, raw, query, write, homes=options.n or self._homes)

    def outcome(self, key: Key, operation_id: str, *, n: int | None, w: int | None) -> Request:
        """Raises InvalidRequest."""
        counts = write_query(WriteOptions(w=w, n=n))
        return protocol.outcome(self.name, key_bytes(key), operation_id, counts, homes=n or self._homes)

    def _without_mode(self, options: WriteOptions, condition: Condition) -> WriteOptions:
        """The bucket's default mode is for writes without a context."""
        if condition.context is None or options.mode is None or options.mode != self.writes.mode:
            return options
        return options._replace(mode=None)

    def write_of(
        self, raw: bytes, options: WriteOptions, condition: Condition, operation_id: str | None
    ) -> Write:
        context = condition.context
        if context is None and self.session is not None and options.mode is None:
            context = self.session.seen(raw) or None
        return Write(operation_id or self._new_id(), context, condition.if_match, condition.if_absent)

    # --- answers ------------------------------------------------------------------------------------

    def value(self, key: Key, reply: Reply) -> T | None:
        """Raises SiblingsError, InvalidRequest for a value that the codec cannot read."""
        status, headers, body = reply
        if status == 200:
            return self.codec.from_bytes(body, headers.get("content-type", ""), key)
        if status == 404:
            return None
        return self.record(key, reply).value

    def record(self, key: Key, reply: Reply) -> Record[T]:
        """Raises InvalidRequest for a value that the codec cannot read."""
        return self.decoded(key, answers.siblings(reply), answers.receipt(reply.headers))

    def seen(self, request: Request, reply: Reply) -> None:
        """The session has now seen what this answer shows."""
        if self.session is not None:
            sent = request.headers.get("KV-Session") or request.headers.get("KV-Context", "")
            self.session.remember(request.key, reply.headers.get("kv-context", ""), sent)
        if self._last_seen is not None:
            self._last_seen.remember(request.key, reply if request.effect is Effect.READ else None)

    def told(self, request: Request, reply: Reply) -> Outcome:
        """What became of a write; the session has now seen that write, if anybody holds it."""
        found = answers.outcome(reply)
        if self.session is not None:
            self.session.remember(request.key, found.context)
        return found

    def remembered(self, request: Request, error: Unavailable) -> Reply:
        """What was read last, where the bucket has a fallback. Raises `error` otherwise."""
        reply = self._last_seen.recall(request.key) if self._last_seen is not None else None
        if reply is None:
            raise error
        return reply

    def decoded(self, key: Key, stored: answers.Siblings, receipt: Receipt) -> Record[T]:
        codec = self.codec
        siblings = tuple(
            Sibling(
                codec.from_bytes(s.value, s.content_type, key), s.id, s.content_type, s.meta, s.modified_ms
            )
            for s in stored
        )
        resolved = None
        if len(siblings) > 1 and self.resolver is not None:
            resolved = (self.resolver(siblings),)
        return Record(siblings, receipt, resolved, key)

    # --- update -------------------------------------------------------------------------------------

    def based_on(self, record: Record[T], *, conditional: bool) -> tuple[Condition, str | None]:
        """Condition and mode of a write that replaces what `record` shows, and nothing that it does not."""
        context = record.context or None
        if conditional:
            if record.found:
                return Condition(context, if_match=record.etag), None
            return Condition(context, if_absent=True), None
        # Nothing was there, not even a delete. A blind overwrite would lose a first write made meanwhile.
        return Condition(context), None if context else "sibling"

    def modified(self, record: Record[T], fn: Callable[[T], T], default: T | None) -> T:
        """What `fn` makes of the value. Raises SiblingsError, InvalidRequest."""
        current = record.value if record.found else default
        new = fn(cast(T, current))  # a bucket whose values may be missing has an fn that takes that
        if new is None:
            raise InvalidRequest(
                f"the function given to update({record.key!r}) returned None",
                advice="return the new value; to remove the key, delete it with the record's context",
            )
        return new
