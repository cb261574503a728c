"""Get, put and delete of one key: Call -> core.message -> Service -> Reply."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from kvstore.core.encoding import encode_context, etag, read_own, read_single
from kvstore.core.message import Got, Receipt
from kvstore.core.ring import full_key
from kvstore.core.sibling import is_visible, last_write, shown
from kvstore.core.token import seal_encoded
from kvstore.core.vector_clock import Dot
from kvstore.core.watermarks import Mark
from kvstore.errors import InvalidRequest
from kvstore.httpapi.growth import Growth
from kvstore.httpapi.media import negotiate
from kvstore.httpapi.metrics import Metrics
from kvstore.httpapi.options import ACCEPT, IF_NONE_MATCH, matches, to_choice, to_get, to_put
from kvstore.httpapi.reply import Reply
from kvstore.httpapi.representation import SIBLING_MEDIA, Shown, describing_lines, sibling_id, siblings_reply
from kvstore.httpapi.routes import Call
from kvstore.httpapi.service import Service
from kvstore.httpapi.status_codes import PROBLEM_TYPE, NoSuchSibling
from kvstore.node.best_effort import best_effort

LAST_WRITE = "lww"
BEST_EFFORT = "best_effort"
_NAMES_REMEMBERED_MAX = 4096
_SIBLING = re.compile(rb'"?([0-9a-f]{16})"?')
_NO_SUCH_KEY = b'{"type":"no-such-key","title":"The key has no value","status":404}'
_NO_SUCH_KEY_LINES = f"KV-Siblings: 0\r\nContent-Type: {PROBLEM_TYPE}\r\n"


class DataRoutes:
    """The handlers; also called for each operation of a batch."""

    def __init__(self, service: Service, metrics: Metrics, growth: Growth) -> None:
        self._service, self._metrics, self._growth = service, metrics, growth
        self._receipt = ReceiptLines(service)

    async def get(self, call: Call) -> Reply:
        """200 value, 300 siblings, 304, 404. Raises what Service.get raises."""
        request = to_get(call, self._service)
        choice = _choice(call.options) if call.options else None
        if call.options and to_choice(call.options, "consistency", (BEST_EFFORT,)) is not None:
            got, served = await best_effort(self._service.get, request, self._service.wall.elapsed_s)
            lines = f"{self._receipt(got.receipt)}KV-Served: {served}\r\n"
        else:
            got = await self._service.get(request)
            lines = self._receipt(got.receipt)
        if not got.state:
            return Reply(404, lines + _NO_SUCH_KEY_LINES, _NO_SUCH_KEY)
        return self._show(call, got, choice, lines)

    def _show(self, call: Call, got: Got, choice: str | None, lines: str) -> Reply:
        """A pure function of what was got, but for the clock that decides what has expired."""
        service = self._service
        context, dots, values = _visible(got, service.wall.now_ms())
        token = seal_encoded(context, full_key(call.bucket, call.key), service.signing_key)
        lines = f"{lines}KV-Context: {token}\r\n"
        if not values:
            return Reply(404, lines + _NO_SUCH_KEY_LINES, _NO_SUCH_KEY)
        tag = etag(dots)
        lines = f'{lines}ETag: "{tag}"\r\nKV-Siblings: {len(values)}\r\n'
        none_match = call.headers.get(IF_NONE_MATCH)
        if none_match is not None and matches(none_match, tag):
            return Reply(304, lines)
        if len(values) > 1:
            self._metrics.reads_with_siblings += 1
            self._metrics.siblings_shown += len(values)
        if choice is not None:
            values = _chosen(choice, values)
        if len(values) > 1:
            media = negotiate(call.headers.get(ACCEPT), SIBLING_MEDIA)
            return siblings_reply(values, tag, token, media, head=lines)
        version = values[0][1]
        return Reply(200, lines + describing_lines(version), version.value)

    def put(self, call: Call) -> Coroutine[Any, Any, Reply]:
        """204. Raises what Service.put raises, and what is wrong with the request."""
        return self.write(call, call.body)

    def delete(self, call: Call) -> Coroutine[Any, Any, Reply]:
        """204 whether or not there was a value."""
        return self.write(call, b"", tombstone=True)

    async def write(self, call: Call, value: bytes, *, tombstone: bool = False) -> Reply:
        service = self._service
        if self._growth.mark >= Mark.NO_GROWTH and not tombstone:
            self._growth.check(call, kept_here=service.keeps(call.bucket, call.key))
        written = await service.put(to_put(call, service, value, tombstone=tombstone))
        key = full_key(call.bucket, call.key)
        token = seal_encoded(written.context, key, service.signing_key)
        lines = self._receipt(written.receipt)
        return Reply(
            204,
            f'{lines}KV-Context: {token}\r\nETag: "{written.etag}"\r\nKV-Siblings: {written.siblings}\r\n',
        )


def _visible(got: Got, now_ms: int) -> tuple[bytes, Iterable[Dot], Shown]:
    """(encoded context, dots of all siblings, those that a read shows)."""
    single = read_single(got.state)
    if single is None:
        state = read_own(got.state)
        values = shown(state, now_ms, last_write_wins=got.last_write_wins)
        return encode_context(state.context), state.siblings, values
    context, dot, version = single
    return context, (dot,), ((dot, version),) if is_visible(version, now_ms) else ()


def _choice(options: dict[str, bytes]) -> str | None:
    """Which of several values is wanted: an id, "lww", or None for all. Raises InvalidRequest."""
    wanted = options.get("sibling")
    resolve = to_choice(options, "resolve", (LAST_WRITE,))
    if wanted is None:
        return resolve
    if resolve is not None:
        raise InvalidRequest("sibling and resolve contradict each other", advice="send one")
    match = _SIBLING.fullmatch(wanted)
    if match is None:
        raise InvalidRequest("sibling must be the id of one, 16 hex digits", advice="300 answers list them")
    return match[1].decode("ascii")


def _chosen(choice: str, values: Shown) -> Shown:
    """Raises NoSuchSibling."""
    if choice == LAST_WRITE:
        return tuple(last_write(dict(values)).items())
    for dot, version in values:
        if sibling_id(dot) == choice:
            return ((dot, version),)
    raise NoSuchSibling(
        f"{choice[:64]!r} is none of the {len(values)} values there are now",
        advice="read without sibling= to see them",
    )


class ReceiptLines:
    """What happened at the replicas, as header lines."""

    def __init__(self, service: Service) -> None:
        self._name_of: Callable[[str], str] = service.name_of
        self._me = service.node_id
        self._node_line = f"KV-Node: {header_token(service.name)}\r\n"
        self._tokens = HeaderTokens()

    def __call__(self, receipt: Receipt) -> str:
        coordinator, n, required, acks, replicas, hinted, repairs, layout_version = receipt
        tokens, name_of = self._tokens, self._name_of
        lines = (
            f"{self._node_line}KV-Outcome: ok\r\nKV-Acks: {acks}/{n}\r\n"
            f"KV-Required: {required}\r\nKV-Layout: {layout_version}\r\n"
        )
        if replicas:
            timing = ", ".join(
                [f'{tokens[name_of(node)]};dur={ms:.2f};desc="{did}"' for node, ms, did in replicas]
            )
            lines = f"{lines}Server-Timing: {timing}\r\n"
        if coordinator != self._me:
            lines += f"KV-Coordinator: {tokens[name_of(coordinator)]}\r\n"
        if hinted:
            lines += f"KV-Hinted: {len(hinted)}\r\n"
        if repairs:
            lines += f"KV-Repairs: {repairs}\r\n"
        return lines


class HeaderTokens(dict[str, str]):
    """Name -> `header_token` of it. Names come from other nodes; they are made fit for a header once."""

    def __missing__(self, name: str) -> str:
        if len(self) > _NAMES_REMEMBERED_MAX:
            self.clear()
        token = self[name] = header_token(name)
        return token


def header_token(name: str) -> str:
    """A name as RFC 9110 §5.6.2 takes it unquoted."""
    kept = (c if c.isascii() and (c.isalnum() or c in "!#$%&'*+.^_`|~-") else "_" for c in name)
    return "".join(kept) or "_"
