"""What a route is, and how a path finds it. Dispatch and /openapi.json read the same table.

A route also names its options: what the table does not list is refused, so the description cannot
leave out what the node understands, nor the other way round.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from enum import Enum
from typing import Any, NamedTuple

from multidict import CIMultiDict, CIMultiDictProxy

from kvstore.core.bucket import check_bucket_name
from kvstore.core.credential import ANYBODY, Principal, Role
from kvstore.core.degradation import Tier
from kvstore.errors import Forbidden, InvalidRequest, NotFound, TooLarge
from kvstore.httpapi.reply import Reply
from kvstore.httpapi.status_codes import MethodNotAllowed
from kvstore.httpapi.target import decoded, decoded_text

_NAMES_REMEMBERED_MAX = 4096


class Call:
    """One request, or one operation of a batch, as handlers see it.

    `key`: of the path; an operation id where the path names that. `options`: of the query, values as bytes.
    `client`: whom requests are counted for, if anybody counts them. `parts`: how many it does one after the
    other. `waited_s`: for its body and for a place, before its work began.
    """

    __slots__ = ("body", "bucket", "client", "headers", "key", "method", "options",
                 "parts", "principal", "request_id", "waited_s")  # fmt: skip

    def __init__(
        self,
        method: str,
        bucket: str,
        key: bytes,
        options: dict[str, bytes],
        headers: CIMultiDict[str] | CIMultiDictProxy[str],
        request_id: str,
        body: bytes = b"",
    ) -> None:
        self.method, self.bucket, self.key, self.options = method, bucket, key, options
        self.headers, self.request_id, self.body = headers, request_id, body
        self.client, self.waited_s, self.principal, self.parts = "", 0.0, ANYBODY, 1


Handler = Callable[[Call], Awaitable[Reply]]


class Lane(Enum):
    """What a request waits behind. Health and administration are needed most when a node is full."""

    DATA = "data"  # other data: a place in flight, in the order of priority
    ADMIN = "admin"  # nothing; so many at once, and no more
    FREE = "free"  # nothing, and there is no bound but that of connections


class Pool(Enum):
    """Of large requests only a few at once, so that neither these are late nor all others behind them."""

    KEYS = "keys"  # one key each: as many as there are places
    BATCHES = "batches"
    SCANS = "scans"


class Parameter(NamedTuple):
    """One option or header. `schema` is JSON Schema."""

    name: str
    where: str  # query, header or path
    schema: Mapping[str, Any]
    text: str
    required: bool = False


class Answer(NamedTuple):
    """One status a route gives when all went well, with the media types of its body."""

    status: int
    text: str
    media: Mapping[str, Mapping[str, Any]] = {}
    headers: tuple[str, ...] = ()


class Route(NamedTuple):
    """`path`: literal, or a prefix followed by {bucket}, {bucket}/{key} or {operation}.

    `needs`: the role a credential must have, None for a route that is open to all. `lane`: what it waits
    behind; of data: `tier`, where neither an option nor a priority says another, and `pool`.
    `body_bytes_max`: 0 where no body is read. `writes`: an error must say what may have been applied.
    `timed` names its histogram. `problems`: statuses beside those that every route can give.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    answers: tuple[Answer, ...]
    parameters: tuple[Parameter, ...] = ()
    body: Mapping[str, Mapping[str, Any]] = {}
    problems: tuple[int, ...] = ()
    timed: str = ""
    writes: bool = False
    needs: Role | None = Role.READ
    lane: Lane = Lane.DATA
    tier: Tier = Tier.WRITE
    pool: Pool = Pool.KEYS
    body_bytes_max: int = 0

    @property
    def options(self) -> tuple[str, ...]:
        return tuple(p.name for p in self.parameters if p.where == "query")


class Found(NamedTuple):
    route: Route
    bucket: str
    key: bytes


Methods = dict[str, Route]


class Router:
    """Routes by path; prefixes in the order of the table, so the data routes are tried first."""

    def __init__(self, routes: Iterable[Route], *, key_bytes_max: int) -> None:
        self.routes = tuple(routes)
        self._key_bytes_max = key_bytes_max
        self._literal: dict[str, Methods] = {}
        buckets: dict[str, Methods] = {}
        keys: dict[str, Methods] = {}
        self._operations: dict[str, Methods] = {}
        tables = {
            "": self._literal, "bucket}": buckets, "bucket}/{key}": keys, "operation}": self._operations
        }  # fmt: skip
        for route in self.routes:
            prefix, brace, rest = route.path.partition("{")
            assert brace or not rest
            methods = tables[rest].setdefault(prefix, {})
            assert route.method not in methods, f"{route.method} {route.path} is there twice"
            methods[route.method] = route
        prefixes = dict.fromkeys([*keys, *buckets])
        self._prefixes = tuple((p, len(p), keys.get(p, {}), buckets.get(p, {})) for p in prefixes)
        self._names: set[str] = set()

    def find(self, method: str, path: str) -> Found:
        """Raises NotFound, MethodNotAllowed, InvalidRequest, TooLarge."""
        for prefix, length, of_key, of_bucket in self._prefixes:
            if path.startswith(prefix):
                bucket, slash, raw_key = path[length:].partition("/")
                methods = of_key if slash else of_bucket
                if not methods:
                    break
                route = methods.get(method) or _other(methods, method, path)
                if bucket not in self._names:
                    bucket = self._checked(bucket)
                return Found(route, bucket, self._key(raw_key) if slash else b"")
        for prefix, methods in self._operations.items():
            if path.startswith(prefix):
                route = methods.get(method) or _other(methods, method, path)
                return Found(route, "", decoded(path[len(prefix) :]))
        literal = self._literal.get(path)
        if literal is None:
            raise NotFound(f"there is no {path[:200]}", advice="/openapi.json lists what there is")
        return Found(literal.get(method) or _other(literal, method, path), "", b"")

    def _key(self, raw: str) -> bytes:
        key = decoded(raw)
        check_key(key, self._key_bytes_max)
        return key

    def _checked(self, raw: str) -> str:
        """The names of buckets that came before need no check; how many are remembered is bounded."""
        name = decoded_text(raw)
        check_bucket_name(name)
        if name == raw and len(self._names) < _NAMES_REMEMBERED_MAX:
            self._names.add(name)
        return name


def check_permission(principal: Principal, needed: Role, bucket: str) -> None:
    """Raises Forbidden."""
    if not principal.may(needed, bucket):
        where = f"bucket {bucket}" if bucket else "what is of no bucket"
        raise Forbidden(
            f"the token of {principal.name} does not include the role {needed.name.lower()} for {where}",
            advice="use a token whose role and buckets include it: `kvstore token new`",
        )


def check_key(key: bytes, bytes_max: int) -> None:
    """Raises what is wrong with its length."""
    if not key:
        raise InvalidRequest("the key is empty", advice="leave out the last '/' to list the bucket")
    if len(key) > bytes_max:
        raise TooLarge(
            f"the key has {len(key)} bytes, the limit is {bytes_max}",
            advice="keep long names in the value, and use their hash as the key",
        )


def _other(methods: Methods, method: str, path: str) -> Route:
    """HEAD is GET without a body. Raises MethodNotAllowed."""
    if method == "HEAD" and "GET" in methods:
        return methods["GET"]
    allowed = ", ".join([*methods, *(["HEAD"] if "GET" in methods and "HEAD" not in methods else [])])
    raise MethodNotAllowed(f"{path[:200]} knows no {method[:32]}", allowed=allowed)
