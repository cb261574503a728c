"""The synchronous client, over urllib3.

    with Client("http://127.0.0.1:8001,127.0.0.1:8002") as kv:
        users = kv.bucket("users", codec="json")
        users.put("ann", {"friends": ["bob"]})
        users.get("ann")

All decisions are in the pure modules beside this one; here requests are sent and waits are waited.
"""

from __future__ import annotations

import json
import ssl as tls
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, Unpack, overload

from kvstore.client import answers, codecs, protocol
from kvstore.client.bucket_rules import BucketRules, Condition, Key
from kvstore.client.codecs import Codec
from kvstore.client.names import check_bucket, key_bytes
from kvstore.client.options import (
    Count,
    Defaults,
    ReadOptions,
    WriteOptions,
    checked_timeout_s,
    read_and_write,
)
from kvstore.client.protocol import Reply, Request
from kvstore.client.records import Outcome, Receipt, Record, ScanItem
from kvstore.client.resolvers import Resolver
from kvstore.client.retry import Policy
from kvstore.client.scan import ScanRules
from kvstore.client.session import Session
from kvstore.client.settings import (
    CONNECT_TIMEOUT_S,
    CONNECTIONS_MAX,
    REQUEST_TIMEOUT_S,
    shared_of,
)
from kvstore.client.sync_batch import Batch
from kvstore.client.sync_runner import SyncPorts, SyncRunner
from kvstore.client.urllib3_transport import SyncTransport, Urllib3Transport
from kvstore.errors import KVStoreError, PreconditionFailed, Unavailable

T = TypeVar("T")

UPDATES_MAX = 16


class Client:
    """Many threads may share one.

    `nodes`: one text with commas, or several; KVSTORE_NODES if not given. A few are enough, the rest
    is learned (`follow_layout`). `token`: KVSTORE_CLIENT_TOKEN if not given. `timeout_s` is for an
    operation with all its attempts. `priority`: critical, normal or background: who gives way where a
    node sheds load. Raises ConfigError, InvalidRequest.
    """

    def __init__(
        self,
        nodes: str | Iterable[str] | None = None,
        *,
        token: str | None = None,
        priority: str = "normal",
        timeout_s: float = REQUEST_TIMEOUT_S,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        connections_max: int = CONNECTIONS_MAX,
        ssl: tls.SSLContext | None = None,
        follow_layout: bool = True,
        policy: Policy = Policy(),  # noqa: B008 - a frozen value
        transport: SyncTransport | None = None,
        ports: SyncPorts = SyncPorts(),  # noqa: B008
    ) -> None:
        shared = shared_of(
            nodes,
            token=token,
            priority=priority,
            connect_timeout_s=connect_timeout_s,
            follow_layout=follow_layout,
            policy=policy,
        )
        self._runner = SyncRunner(
            shared, transport or Urllib3Transport(connections_max=connections_max, ssl=ssl), ports
        )
        self._timeout_s = checked_timeout_s(timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections. Idempotent."""
        self._runner.close()

    @overload
    def bucket(
        self,
        name: str,
        *,
        resolver: Resolver[bytes] | None = None,
        session: bool = False,
        timeout_s: float | None = None,
        **defaults: Unpack[Defaults],
    ) -> Bucket[bytes]: ...

    @overload
    def bucket(
        self,
        name: str,
        *,
        codec: Codec[T],
        resolver: Resolver[T] | None = None,
        session: bool = False,
        timeout_s: float | None = None,
        **defaults: Unpack[Defaults],
    ) -> Bucket[T]: ...

    @overload
    def bucket(
        self,
        name: str,
        *,
        codec: str,
        resolver: Resolver[Any] | None = None,
        session: bool = False,
        timeout_s: float | None = None,
        **defaults: Unpack[Defaults],
    ) -> Bucket[Any]: ...

    def bucket(
        self,
        name: str,
        *,
        codec: str | Codec[Any] = codecs.RAW,
        resolver: Resolver[Any] | None = None,
        session: bool = False,
        timeout_s: float | None = None,
        **defaults: Unpack[Defaults],
    ) -> Bucket[Any]:
        """A bucket, with what its calls use unless they say otherwise. Asks no node.

        `resolver` makes one value of several. `session`: reads see what was written and read before
        through this object, call after call. Raises InvalidRequest.
        """
        reads, writes = read_and_write(defaults)
        rules: BucketRules[Any] = BucketRules(
            name,
            codec=codecs.named(codec),
            resolver=resolver,
            reads=reads,
            writes=writes,
            session=Session() if session else None,
            timeout_s=self._timeout_s if timeout_s is None else timeout_s,
            new_id=self._runner.ports.new_id,
        )
        return Bucket(self._runner, rules)

    def cluster(self) -> dict[str, Any]:
        """Members, their addresses and state, as the node that answers sees them."""
        return answers.document(self._runner.perform(protocol.cluster(), self._timeout_s))

    def layout(self) -> dict[str, Any]:
        """Who is home of which partition. Raises NotReady before there is a layout."""
        return answers.document(self._runner.perform(protocol.layout(), self._timeout_s))

    def explain(self, bucket: str, key: Key) -> dict[str, Any]:
        """The homes of a key, and what each of them holds."""
        request = protocol.explain(check_bucket(bucket), key_bytes(key))
        return answers.document(self._runner.perform(request, self._timeout_s))


class Bucket(Generic[T]):
    """One bucket of a client. Made by Client.bucket.

    Every call takes `timeout_s` for itself with all its attempts, and counts that go before the
    bucket's. Beside what is named, calls raise Unavailable and its kind: see `kvstore.errors`.
    """

    def __init__(self, runner: SyncRunner, rules: BucketRules[T]) -> None:
        self._runner, self._rules = runner, rules
        self._perform = runner.perform

    @property
    def name(self) -> str:
        return self._rules.name

    def get(
        self,
        key: Key,
        *,
        r: Count = None,
        n: int | None = None,
        pr: int | None = None,
        monotonic: bool | None = None,
        sloppy: bool | None = None,
        timeout_s: float | None = None,
    ) -> T | None:
        """The value, None if there is none.

        Raises SiblingsError if there are several and the bucket has no resolver.
        """
        options = self._rules.read_options(r, n, pr, monotonic, sloppy)
        return self._rules.value(key, self._read(key, options, timeout_s))

    def fetch(
        self,
        key: Key,
        *,
        r: Count = None,
        n: int | None = None,
        pr: int | None = None,
        monotonic: bool | None = None,
        sloppy: bool | None = None,
        timeout_s: float | None = None,
    ) -> Record[T]:
        """All that is there: values, context, etag, metadata, and how it was read."""
        options = self._rules.read_options(r, n, pr, monotonic, sloppy)
        return self._rules.record(key, self._read(key, options, timeout_s))

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
        pw: int | None = None,
        dw: int | None = None,
        mode: str | None = None,
        sloppy: bool | None = None,
        operation_id: str | None = None,
        timeout_s: float | None = None,
    ) -> Receipt:
        """Write. With the `context` of a record it supersedes what that showed, and nothing else.

        Without one it overwrites what the node that takes it holds; if that node was away, this may be
        less than what there is, and the rest stays as siblings. `update` and buckets with
        `session=True` send contexts by themselves.

        `if_match` (an etag) and `if_absent` raise PreconditionFailed if something else is there; such
        a write is not sent again once it may have been applied. `operation_id` names the write: sent
        again with the same one, also by another process, it is the same write.
        """
        options = self._rules.write_options(w, n, pw, dw, ttl_s, mode, sloppy)
        condition = Condition(context, if_match, if_absent)
        return self._put(key, value, condition, options, timeout_s, meta, operation_id)

    def delete(
        self,
        key: Key,
        *,
        context: str | None = None,
        if_match: str | None = None,
        w: Count = None,
        n: int | None = None,
        pw: int | None = None,
        dw: int | None = None,
        mode: str | None = None,
        sloppy: bool | None = None,
        operation_id: str | None = None,
        timeout_s: float | None = None,
    ) -> Receipt:
        """Delete; no error if nothing is there. Arguments as for `put`."""
        options = self._rules.write_options(w, n, pw, dw, None, mode, sloppy)
        self._know_homes(options)
        request = self._rules.delete(key, options, Condition(context, if_match), operation_id=operation_id)
        return self._write(request, timeout_s)

    def outcome(
        self,
        key: Key,
        operation_id: str,
        *,
        n: int | None = None,
        w: int | None = None,
        timeout_s: float | None = None,
    ) -> Outcome:
        """What became of a write that got no answer, or one that says "unknown".

        `operation_id`: as it was given to `put` or `delete`, or that of the error. "ok" is as good as an
        acknowledgement; "unknown" says nothing, and sending it again with the same id is safe.
        """
        request = self._rules.outcome(key, operation_id, n=n, w=w)
        reply = self._perform(request, self._timeout_of(timeout_s))
        return self._rules.told(request, reply)

    def update(
        self,
        key: Key,
        fn: Callable[[T], T],
        default: T | None = None,
        *,
        conditional: bool | None = None,
        attempts_max: int = UPDATES_MAX,
        r: Count = None,
        w: Count = None,
        timeout_s: float | None = None,
    ) -> T:
        """Read, let `fn` make the new value, write it; again if somebody else wrote meanwhile.

        Returns what was written. `fn` gets the value, resolved, or a copy of `default` where there is
        none. `conditional` writes only over what was read, and starts again otherwise; it is what a
        bucket without a resolver does. With a resolver the write is causal: what was written
        meanwhile stays as a sibling for the resolver to merge, so `fn` is called once.

        Raises PreconditionFailed after `attempts_max` lost races, SiblingsError without a resolver.
        """
        rules = self._rules
        if conditional is None:
            conditional = rules.resolver is None
        for attempt in range(1, attempts_max + 1):
            record = self.fetch(key, r=r, timeout_s=timeout_s)
            new = rules.modified(record, fn, deepcopy(default))
            condition, mode = rules.based_on(record, conditional=conditional)
            try:
                self._put(
                    key, new, condition, rules.write_options(w, None, None, None, None, mode), timeout_s
                )
            except PreconditionFailed:
                if attempt == attempts_max:
                    raise
                self._runner.back_off(attempt)
            else:
                return new
        raise AssertionError("attempts_max is at least 1")

    def batch(self, *, timeout_s: float | None = None) -> Batch[T]:
        """Many operations in one request, sent at the end of the block.

            with users.batch() as b:
                bob = b.get("bob")
                b.put("carl", {"age": 4})
            bob.value

        Raises BatchError there if any of them failed; the others are done.
        """
        return Batch(self, timeout_s)

    def scan(
        self,
        prefix: Key = "",
        *,
        values: bool = True,
        page_size: int = 100,
        r: Count = None,
        partial: bool = False,
        timeout_s: float | None = None,
    ) -> Iterator[ScanItem[T]]:
        """Keys with this prefix, in order of their bytes, as of when their page is read.

        Raises QuorumNotMet where keys may be missing, unless `partial` takes what there is.
        """
        options = self._rules.read_options(r, None, None, None)
        self._know_homes(options)
        pages = ScanRules(
            self._rules, prefix=prefix, values=values, page_size=page_size, options=options, partial=partial
        )
        while pages.request is not None:
            reply = self._perform(pages.request, self._timeout_of(timeout_s))
            for item in pages.items(reply):  # noqa: UP028 - the asynchronous twin cannot delegate
                yield item

    def properties(self) -> dict[str, Any]:
        """What holds for this bucket: n, r, w, conflict, blind, durability, ttl_s and so on."""
        return answers.properties(self._perform(protocol.properties(self.name), self._rules.timeout_s))

    def configure(self, **properties: Any) -> dict[str, Any]:
        """Set properties, for everyone; others stay as they are. Returns what holds now."""
        request = protocol.configure(self.name, json.dumps(properties).encode())
        reply = self._perform(request, self._rules.timeout_s)
        self._rules.learn_homes(reply, self._runner.ports.clock())
        return answers.properties(reply)

    def explain(self, key: Key) -> dict[str, Any]:
        """The homes of a key, and what each of them holds."""
        request = protocol.explain(self.name, key_bytes(key))
        return answers.document(self._perform(request, self._rules.timeout_s))

    def _read(self, key: Key, options: ReadOptions, timeout_s: float | None) -> Reply:
        rules = self._rules
        self._know_homes(options)
        request = rules.get(key, options)
        try:
            reply = self._perform(request, self._timeout_of(timeout_s))
        except Unavailable as error:
            return rules.remembered(request, error)
        rules.seen(request, reply)
        return reply

    def _put(
        self,
        key: Key,
        value: T,
        condition: Condition,
        options: WriteOptions,
        timeout_s: float | None,
        meta: Mapping[str, str] | None = None,
        operation_id: str | None = None,
    ) -> Receipt:
        self._know_homes(options)
        request = self._rules.put(key, value, options, condition, meta=meta, operation_id=operation_id)
        return self._write(request, timeout_s)

    def _write(self, request: Request, timeout_s: float | None) -> Receipt:
        try:
            reply = self._perform(request, self._timeout_of(timeout_s))
        except KVStoreError as error:
            error.operation_id = request.headers["Idempotency-Key"]
            raise
        self._rules.seen(request, reply)
        return answers.receipt(reply.headers)

    def _know_homes(self, options: ReadOptions | WriteOptions) -> None:
        rules = self._rules
        if rules.lacks_homes(options, self._runner.ports.clock()):
            reply = self._perform(protocol.properties(self.name), rules.timeout_s)
            rules.learn_homes(reply, self._runner.ports.clock())

    def _timeout_of(self, timeout_s: float | None) -> float:
        return self._rules.timeout_s if timeout_s is None else checked_timeout_s(timeout_s)
