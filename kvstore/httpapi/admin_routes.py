"""What operators, clients that route, and load balancers ask: buckets, cluster, layout, health, metrics."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from kvstore.core.bucket import BucketProperties
from kvstore.core.degradation import LEVELS
from kvstore.errors import InvalidRequest, NotReady
from kvstore.httpapi.media import JSON, document, encode_json, media_type
from kvstore.httpapi.metrics import Metrics
from kvstore.httpapi.options import ACCEPT, CONTENT_TYPE, IF_NONE_MATCH, matches, to_flag
from kvstore.httpapi.reply import Reply
from kvstore.httpapi.representation import key_fields
from kvstore.httpapi.routes import Call
from kvstore.httpapi.service import Service

API_VERSION = "v1"
PROPERTIES_BYTES_MAX = 64 * 1024
_TEXT_LINE = "Content-Type: text/plain; charset=utf-8\r\n"


def release() -> str:
    try:
        return version("quorum-kvstore")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "0+unknown"


class AdminRoutes:
    """`describe` makes the text of /openapi.json, `is_draining` says that the server takes its leave.

    `set_floor`: the level of degradation that holds at least.
    """

    def __init__(
        self,
        service: Service,
        metrics: Metrics,
        describe: Callable[[], dict[str, Any]],
        is_draining: Callable[[], bool],
        set_floor: Callable[[int], None],
    ) -> None:
        self._service, self._metrics, self._set_floor = service, metrics, set_floor
        self._describe, self._is_draining = describe, is_draining
        self._openapi = b""
        self._version = document(
            {
                "name": "kvstore",
                "version": release(),
                "api": API_VERSION,
                "node": service.name,
                "python": platform.python_version(),
            }
        )

    # --- buckets ------------------------------------------------------------------------------------

    async def buckets(self, call: Call) -> Reply:
        """200 with the buckets that somebody gave properties."""
        found = self._service.buckets()
        return document({"buckets": [_bucket(name, found[name], explicit=True) for name in sorted(found)]})

    async def get_bucket(self, call: Call) -> Reply:
        """200 with the effective properties, also where nobody set any."""
        properties, explicit = self._service.bucket(call.bucket)
        return document(_bucket(call.bucket, properties, explicit=explicit))

    async def set_bucket(self, call: Call) -> Reply:
        """200 with what holds now. Properties that are not named stay as they were."""
        values = _json_map(call, "properties", 'such as {"n": 3, "w": 2}')
        properties = await self._service.set_bucket(call.bucket, values)
        return document(_bucket(call.bucket, properties, explicit=True))

    # --- the cluster --------------------------------------------------------------------------------

    async def cluster(self, call: Call) -> Reply:
        return document(self._service.cluster())

    async def layout(self, call: Call) -> Reply:
        """200 or 304; for clients that route.

        The tag is of the content: a node that came back at another address changes the answer and not
        the layout's version. Raises NotReady.
        """
        layout = self._service.layout()
        if layout is None:
            raise NotReady(
                "there is no layout yet", advice="the nodes still look for each other: /readyz?verbose"
            )
        body = encode_json(layout)
        tag = blake2b(body, digest_size=8).hexdigest()
        lines = f'ETag: "{tag}"\r\nKV-Layout: {int(layout["version"])}\r\n'
        none_match = call.headers.get(IF_NONE_MATCH)
        if none_match is not None and matches(none_match, tag):
            return Reply(304, lines)
        return Reply(200, f"{lines}Content-Type: {JSON}\r\n", body)

    async def explain(self, call: Call) -> Reply:
        """200: the homes of a key and what each holds. Raises NotReady."""
        found = await self._service.explain(call.bucket, call.key)
        return document(key_fields(call.key, JSON) | found)

    async def hints(self, call: Call) -> Reply:
        """200: per target how much is kept for it, for how long, and when it is tried next."""
        return document(self._service.pending_hints())

    async def degradation(self, call: Call) -> Reply:
        """200: what is refused, and what an operator asked for at least."""
        level, floor = self._metrics.degradation()
        sheds = {reason: count for reason, count in self._metrics.sheds.items() if count}
        found = {"node": self._service.name, "level": LEVELS[level], "floor": LEVELS[floor]}
        return document({**found, "levels": LEVELS, "sheds": sheds})

    async def set_degradation(self, call: Call) -> Reply:
        """200 with what holds on this node from now on, until it is set again or the process ends."""
        advice = f'{{"floor": one of {", ".join(LEVELS)}}}'
        values = _json_map(call, "values", advice)
        floor = values.get("floor")
        if len(values) != 1 or floor not in LEVELS:
            raise InvalidRequest("the body must name a floor and nothing else", advice=advice)
        self._set_floor(LEVELS.index(floor))
        return await self.degradation(call)

    # --- the node -----------------------------------------------------------------------------------

    async def livez(self, call: Call) -> Reply:
        """200 as long as the loop turns: restarting helps against nothing else that is asked here."""
        return Reply(200, _TEXT_LINE, b"ok\n")

    async def readyz(self, call: Call) -> Reply:
        """200 or 503; `verbose` says why."""
        checks = [*self._service.readiness(), ("http", not self._is_draining(), "serving")]
        if self._is_draining():
            checks[-1] = ("http", False, "draining: no new requests, please")
        ready = all(holds for _, holds, _ in checks)
        if to_flag(call.options, "verbose"):
            lines = [f"[{'+' if holds else '-'}] {check}: {text}" for check, holds, text in checks]
        else:
            lines = [f"{check}: {text}" for check, holds, text in checks if not holds]
        body = "\n".join([*lines, "ready" if ready else "not ready"]) + "\n"
        retry = "" if ready else "Retry-After: 1\r\n"
        return Reply(200 if ready else 503, _TEXT_LINE + retry, body.encode("utf-8", "replace"))

    async def metrics(self, call: Call) -> Reply:
        body, content_type = self._metrics.exposition(call.headers.get(ACCEPT, ""))
        return Reply(200, f"Content-Type: {content_type}\r\n", body)

    async def version(self, call: Call) -> Reply:
        return Reply(200, self._version.head, self._version.body)

    async def openapi(self, call: Call) -> Reply:
        if not self._openapi:
            self._openapi = encode_json(self._describe())
        return Reply(200, f"Content-Type: {JSON}\r\n", self._openapi)


def _json_map(call: Call, what: str, advice: str) -> dict[str, Any]:
    """The body. Raises InvalidRequest."""
    media = media_type(call.headers.get(CONTENT_TYPE, JSON))
    if media not in (JSON, "application/octet-stream", "application/x-www-form-urlencoded"):
        raise InvalidRequest(f"{what} cannot be {media[:64]!r}", advice=f"send {JSON}")
    try:
        values = json.loads(call.body)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the {what} are not JSON: {str(error)[:200]}") from None
    if type(values) is not dict:
        raise InvalidRequest(f"the {what} must be a map", advice=advice)
    return values


def _bucket(name: str, properties: BucketProperties, *, explicit: bool) -> dict[str, Any]:
    return {"bucket": name, "explicit": explicit, "properties": properties.as_dict()}
