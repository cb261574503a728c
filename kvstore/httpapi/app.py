"""One request from its header to its reply: id, credential, admission, dispatch, errors, metrics.

One handler under aiohttp's low-level server, without Application, router or middlewares: these cost a
sixth of a small request (measured), and all they would do is on this page.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from time import perf_counter

from aiohttp import web

from kvstore.core.credential import ANYBODY, Credentials, Principal, Role
from kvstore.errors import CorruptRecord, Forbidden, KVStoreError, QuorumNotMet, StorageFailed
from kvstore.httpapi.admin_routes import AdminRoutes, release
from kvstore.httpapi.admission import Admission
from kvstore.httpapi.authentication import Audit, Authentication
from kvstore.httpapi.batch import Batch
from kvstore.httpapi.batch_items import BatchReader
from kvstore.httpapi.body import body_at_hand, read_body
from kvstore.httpapi.connection import Connection, WholeRequest
from kvstore.httpapi.data_routes import DataRoutes, header_token
from kvstore.httpapi.growth import Growth
from kvstore.httpapi.listing import Listing
from kvstore.httpapi.media import encode_json
from kvstore.httpapi.metrics import Metrics
from kvstore.httpapi.openapi import describe
from kvstore.httpapi.options import REQUEST_ID
from kvstore.httpapi.outcome_routes import OutcomeRoutes
from kvstore.httpapi.rate_limits import RateLimits
from kvstore.httpapi.repair_routes import RepairRoutes
from kvstore.httpapi.reply import DateLine, Reply
from kvstore.httpapi.route_table import (
    admin_routes,
    collection_routes,
    key_routes,
    outcome_routes,
    repair_routes,
)
from kvstore.httpapi.routes import Call, Lane, Route, Router, check_permission
from kvstore.httpapi.service import Service
from kvstore.httpapi.status_codes import PROBLEM_TYPE, headers_of, outcome_of, problem_of, status_of
from kvstore.httpapi.target import parse_query, refuse_unknown, split_target

_DATA = Lane.DATA  # as core.quorum.MET: a look-up on an Enum is not for the way of every request
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:~-]{0,63}")


class App:
    """`report` and `audit` take an event and its fields, for the log. `credentials`: None asks for none."""

    def __init__(
        self,
        service: Service,
        metrics: Metrics,
        growth: Growth,
        *,
        credentials: Credentials | None,
        report: Callable[..., None],
        audit: Callable[..., None],
    ) -> None:
        self._service, self._metrics, self._growth, self._report = service, metrics, growth, report
        self.authentication = Authentication(credentials, service.wall.now_ms)
        self._audit = Audit(audit)
        self._elapsed_s = service.wall.elapsed_s
        self._dates = DateLine()
        self._node_line = f"KV-Node: {header_token(service.name)}\r\n"
        self._id_prefix, self._ids = secrets.token_hex(4), 0
        self._body_timeout_s = service.limits.body_timeout_s
        self.draining = False
        self._active = 0
        self._all_answered: asyncio.Future[None] | None = None
        self.admission = Admission(service.limits, metrics, self._elapsed_s)
        service.slices.others = self.admission.has_others_than_scans
        self.rates = RateLimits(service, metrics, self._elapsed_s)
        self.router = Router(self._routes(), key_bytes_max=service.limits.key_bytes_max)
        self._open_paths = {route.path for route in self.router.routes if route.needs is None}

    def _routes(self) -> tuple[Route, ...]:
        service, metrics, limits = self._service, self._metrics, self._service.limits
        data = DataRoutes(service, metrics, self._growth)
        of_keys = key_routes(data, limits)
        reader = BatchReader(service.limits, {route.method: route for route in of_keys})
        batch = Batch(service, data, reader, self.admission, self.rates, metrics, self.failed)
        admin = AdminRoutes(
            service,
            metrics,
            lambda: describe(self.router.routes, version=release()),
            lambda: self.draining,
            self.admission.set_floor,
        )
        return (
            *of_keys,
            *collection_routes(Listing(service).page, batch.run, limits),
            *outcome_routes(OutcomeRoutes(service, self.rates)),
            *admin_routes(admin),
            *repair_routes(RepairRoutes(service)),
        )

    async def handle(self, request: web.BaseRequest | WholeRequest) -> Reply:
        """Called for each request. Answers everything; raises only what ends the connection."""
        started_s = self._elapsed_s()
        protocol = request.protocol
        assert isinstance(protocol, Connection)
        since_s, turn_s = protocol.begin(), perf_counter()  # since 0: it came with the one before
        self._active += 1
        method, headers = request.method, request.headers
        given_id = headers.get(REQUEST_ID)
        request_id = self._next_id() if given_id is None else self._request_id(given_id)
        route: Route | None = None
        path = ""
        waited_s = -1.0  # for body and place; below 0 without a place: a refusal says nothing of the load
        try:
            path, query = split_target(request.raw_path)
            principal = ANYBODY
            if self.authentication.credentials is not None and path not in self._open_paths:
                principal = self.authentication.principal(protocol, headers)
            route, bucket, key = self.router.find(method, path)
            options = _known(parse_query(query), route) if query else {}
            call = Call(method, bucket, key, options, headers, request_id)
            if principal is not ANYBODY:
                self._check_permission(principal, route, call, protocol, path)
            if self.rates.active and route.lane is _DATA:
                call.client = principal.name or protocol.address
                self.rates.check(call.client, bucket)
            if route.body_bytes_max:
                body = body_at_hand(request, route.body_bytes_max)
                if body is None:
                    await self._read_body(route, call, request)
                else:
                    call.body = body
            if route.lane is _DATA:
                late = turn_s - since_s > self.admission.turn_s and since_s > 0.0
                if late or not self.admission.enters_at_once(route, call):
                    await self.admission.enter(route, call, protocol, late=late)
                waited_s = call.waited_s
                try:
                    reply = await route.handler(call)
                finally:
                    self.admission.leave(pool=route.pool)
            else:
                reply = await self._beside_data(route, call, protocol, path)
        except Exception as error:
            write = route.writes if route else method in ("PUT", "DELETE", "POST")
            trace = headers.get("traceparent", "")
            reply = self.failed(error, write=write, request_id=request_id, instance=path[:1024], trace=trace)
        finally:
            self._active -= 1
            if self._all_answered is not None and not self._active and not self._all_answered.done():
                self._all_answered.set_result(None)
        now_s = self._elapsed_s()
        duration_s = now_s - started_s
        if waited_s >= 0.0:
            self.admission.ended((duration_s - waited_s) / call.parts, now_s)
        elif reply.status == 503:
            self.admission.refused(duration_s, int(headers.get("Content-Length", 0)))
        self._metrics.count(method, reply.status, route.timed if route else "", duration_s)
        return self._finished(reply, request_id)

    async def _read_body(self, route: Route, call: Call, request: web.BaseRequest | WholeRequest) -> None:
        """A body that is still on its way takes no place: a slow client would take it from all others."""
        if route.lane is _DATA:
            self.admission.refuse_early(route, call)
        began_s = self._elapsed_s()
        call.body = await read_body(request, route.body_bytes_max, self._body_timeout_s)
        call.waited_s = self._elapsed_s() - began_s

    async def _beside_data(self, route: Route, call: Call, connection: Connection, path: str) -> Reply:
        if route.lane is Lane.FREE:
            return await route.handler(call)
        self.admission.enter_admin()
        status = 0
        try:
            reply = await route.handler(call)
            status = reply.status
            return reply
        except Exception as error:
            status = status_of(error, write=route.writes).code
            raise
        finally:
            self.admission.leave_admin()
            if route.needs is Role.ADMIN:
                self._audit(call, connection, path, status)

    def _check_permission(
        self, principal: Principal, route: Route, call: Call, connection: Connection, path: str
    ) -> None:
        """Raises Forbidden."""
        call.principal = principal
        if route.needs is None:
            return
        try:
            check_permission(principal, route.needs, call.bucket)
        except Forbidden:
            if route.needs is Role.ADMIN:
                self._audit(call, connection, path, 403)
            raise

    async def finish(self, timeout_s: float) -> None:
        """Wait until every request is answered, but no longer than that."""
        if not self._active:
            return
        self._all_answered = asyncio.get_running_loop().create_future()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._all_answered

    def stop(self) -> None:
        """Nothing of this room is left on the loop."""
        self.admission.stop()

    def failed(
        self, error: BaseException, *, write: bool, request_id: str, instance: str, trace: str = ""
    ) -> Reply:
        """The problem document for an error; counted, and logged if it is the node's own fault."""
        status = status_of(error, write=write)
        if isinstance(error, QuorumNotMet):
            self._metrics.quorum_failures["write" if write else "read"] += 1
        if not isinstance(error, KVStoreError):
            self._report("request failed", request_id=request_id, trace=trace, exc_info=error)
        elif isinstance(error, CorruptRecord | StorageFailed):
            self._report("storage failed", request_id=request_id, trace=trace, reason=error.detail)
        problem = problem_of(error, write=write, request_id=request_id, instance=instance)
        lines = f"Content-Type: {PROBLEM_TYPE}\r\n{self._node_line}{headers_of(error, status)}"
        if write:
            lines += f"KV-Outcome: {outcome_of(error)}\r\n"
        return Reply(status.code, lines, encode_json(problem))

    def answer(self, error: BaseException) -> Reply:
        """For what never became a request: malformed HTTP, slow headers, one connection too many."""
        request_id = self._next_id()
        reply = self.failed(error, write=False, request_id=request_id, instance="")
        self._metrics.count("other", reply.status, "", 0.0)
        return self._finished(reply, request_id)

    def _finished(self, reply: Reply, request_id: str) -> Reply:
        reply.request_id = request_id
        reply.date_line = self._dates.at(self._service.wall.now_ms())
        reply.timeout_s = self._body_timeout_s
        if self.draining:
            reply.keep_alive = False
        return reply

    def _request_id(self, given: str) -> str:
        """The client's own if it is fit for a header and a log; it is a name, not a secret."""
        return given if _REQUEST_ID.fullmatch(given) else self._next_id()

    def _next_id(self) -> str:
        self._ids += 1
        return f"{self._id_prefix}-{self._ids:x}"


def _known(options: dict[str, bytes], route: Route) -> dict[str, bytes]:
    for name in options:
        if name not in route.options:
            refuse_unknown(name, route.options, "option")
    return options
