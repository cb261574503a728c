"""Every route with its options, headers and answers: what the node dispatches and what it describes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kvstore.core.credential import Role
from kvstore.core.degradation import Tier
from kvstore.core.limits import Limits
from kvstore.core.ring import PARTITIONS
from kvstore.httpapi.admin_routes import PROPERTIES_BYTES_MAX, AdminRoutes
from kvstore.httpapi.data_routes import DataRoutes
from kvstore.httpapi.media import JSON, JSON_LINES, MSGPACK, MULTIPART
from kvstore.httpapi.options import COUNT_MAX, PRIORITIES
from kvstore.httpapi.outcome_routes import OutcomeRoutes
from kvstore.httpapi.parameter_schemas import (
    BUCKET,
    ENTITY_TAG,
    KEY,
    OPERATION,
    SIBLING,
    TIMEOUT,
    TIMEOUT_MS,
    TOKEN,
)
from kvstore.httpapi.repair_routes import RepairRoutes
from kvstore.httpapi.routes import Answer, Handler, Lane, Parameter, Pool, Route

Schema = Mapping[str, Any]

_COUNT: Schema = {"type": "integer", "minimum": 1, "maximum": COUNT_MAX}
_COUNT_OR_NONE: Schema = {"type": "integer", "minimum": 0, "maximum": COUNT_MAX}
_TEXT: Schema = {"type": "string"}
_FLAG: Schema = {"type": "boolean"}
_BYTES: Schema = {}  # any bytes
_OBJECT: Schema = {"type": "object"}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _option(name: str, schema: Schema, text: str) -> Parameter:
    return Parameter(name, "query", schema, text)


def _header(name: str, text: str, schema: Schema = _TEXT) -> Parameter:
    return Parameter(name, "header", schema, text)


_COMMON = (
    _header("KV-Request-Id", "Name of the request in answers and logs; made up if missing"),
    _header("KV-Timeout-Ms", "Deadline in ms, as the option timeout", TIMEOUT_MS),
    _header(
        "KV-Priority",
        "Who goes first where not all can; normal if not given",
        {"type": "string", "enum": [*PRIORITIES]},
    ),
    _header("traceparent", "W3C trace context; named in the log if the request fails"),
)
_TIMEOUT = _option("timeout", TIMEOUT, "Deadline: 500 or 500ms, or 2s")
_N = _option("n", _COUNT, "Homes to ask; at most the bucket's n")
_READ = (
    _N,
    _option("r", _COUNT, "Replicas that must answer"),
    _option("pr", _COUNT_OR_NONE, "How many of these must be homes of the key"),
    _option("sloppy", _FLAG, "Whether stand-ins may answer for homes that do not; not if monotonic"),
    _option(
        "read",
        {"type": "string", "enum": ["monotonic"]},
        "monotonic: R replicas hold durably what is shown before it is shown",
    ),
    _option(
        "consistency",
        {"type": "string", "enum": ["best_effort"]},
        "best_effort: where R replicas do not answer, what there is, with KV-Served: stale",
    ),
    _option("resolve", {"type": "string", "enum": ["lww"]}, "lww: of siblings only the last write, with 200"),
    _option("sibling", SIBLING, "Only the sibling of this id"),
    _TIMEOUT,
    _header("Accept", "Form of siblings: multipart/mixed, application/json or application/msgpack"),
    _header("If-None-Match", "304 if the ETag is still this"),
    _header(
        "KV-Session",
        "KV-Context of earlier answers for this key, with commas: the answer covers them, or is 503 stale",
        TOKEN,
    ),
    *_COMMON,
)
_DELETE = (
    _N,
    _option("w", _COUNT, "Replicas that must hold it"),
    _option("pw", _COUNT_OR_NONE, "How many of these must be homes of the key"),
    _option("sloppy", _FLAG, "Whether a stand-in's copy counts where a home does not answer"),
    _option("dw", _COUNT_OR_NONE, "Durable copies to wait for; 0: do not wait for the disk"),
    _option(
        "mode",
        {"type": "string", "enum": ["blind", "sibling"]},
        "Without KV-Context: overwrite what the node holds, or sit beside it",
    ),
    _TIMEOUT,
    _header(
        "KV-Context",
        "KV-Context of the answers that this write is based on, with commas: supersedes what they showed",
        TOKEN,
    ),
    _header("If-Match", "The ETag that must be current, or * for any value", ENTITY_TAG),
    _header("Idempotency-Key", "Name of this write, at most 64 bytes: sent again, it is the same", OPERATION),
    *_COMMON,
)
_PUT = (
    *_DELETE,
    _option("ttl", {"type": "number", "minimum": 0}, "Seconds until the value expires; 0: never"),
    _header("If-None-Match", "*: only if there is no value", {"type": "string", "enum": ["*"]}),
    _header("Content-Type", "Stored with the value"),
    _header("KV-Meta-*", "Stored with the value; names are lower case afterwards"),
)
_LIST = (
    _option("prefix", _TEXT, "Only keys that begin so; percent-encoded bytes"),
    _option("after", _TEXT, "Only keys after this one; percent-encoded bytes"),
    _option("limit", {"type": "integer", "minimum": 1, "maximum": 1000}, "Keys per page, 100 if not given"),
    _option("values", _FLAG, "With values and contexts"),
    _option("r", _COUNT, "Replicas of every partition that must answer"),
    _TIMEOUT,
    _header("Accept", "application/json or application/msgpack"),
    *_COMMON,
)
_RECEIPT = (
    "KV-Acks", "KV-Required", "KV-Outcome", "KV-Node", "KV-Coordinator", "KV-Layout", "KV-Hinted",
    "KV-Repairs", "KV-Request-Id", "Server-Timing",
)  # fmt: skip
_VALUE = (*_RECEIPT, "KV-Context", "ETag", "KV-Siblings")
_READ_VALUE = (*_VALUE, "KV-Served")
_SIBLINGS = {MULTIPART: _BYTES, JSON: _ref("Siblings"), MSGPACK: _ref("Siblings")}
_READ_ANSWERS = (
    Answer(200, "The value", {"*/*": _BYTES}, (*_READ_VALUE, "Last-Modified", "KV-Meta-*")),
    Answer(300, "Concurrent values: write one with this KV-Context to resolve them", _SIBLINGS, _READ_VALUE),
    Answer(304, "Still the ETag of If-None-Match", {}, _READ_VALUE),
    Answer(404, "No value; with KV-Context where there was one", {}, (*_RECEIPT, "KV-Context", "KV-Served")),
)
_WRITTEN = (Answer(204, "Applied, as KV-Acks says", {}, _VALUE),)
_READ_PROBLEMS = (429, 503)
_WRITE_PROBLEMS = (412, 428, 429, 503, 504, 507)

KEY_PATH = "/v1/kv/{bucket}/{key}"
BUCKET_PATH = "/v1/kv/{bucket}"


def key_routes(data: DataRoutes, limits: Limits) -> tuple[Route, ...]:
    return (
        Route("GET", KEY_PATH, data.get, "Read one key", _READ_ANSWERS, _READ, {}, _READ_PROBLEMS, "get",
              tier=Tier.QUORUM_READ),
        Route("HEAD", KEY_PATH, data.get, "The same without the value", _READ_ANSWERS, _READ, {},
              _READ_PROBLEMS, "get", tier=Tier.QUORUM_READ),
        Route("PUT", KEY_PATH, data.put, "Write one key", _WRITTEN, _PUT, {"*/*": _BYTES},
              (408, 413, *_WRITE_PROBLEMS), "put", writes=True, needs=Role.WRITE,
              body_bytes_max=limits.value_bytes_max),
        Route("DELETE", KEY_PATH, data.delete, "Delete one key; 204 also if it is absent", _WRITTEN, _DELETE,
              {}, _WRITE_PROBLEMS, "delete", writes=True, needs=Role.WRITE),
    )  # fmt: skip


def collection_routes(page: Handler, batch: Handler, limits: Limits) -> tuple[Route, ...]:
    forms = (JSON, MSGPACK)
    return (
        Route("GET", BUCKET_PATH, page, "List the keys of a bucket, in order",
              (Answer(200, "A page; go on while there is a next link", {m: _ref("Page") for m in forms},
                      ("Link", "KV-Complete")),),
              _LIST, {}, _READ_PROBLEMS, "list", tier=Tier.SCAN, pool=Pool.SCANS),
        Route("POST", "/v1/batch", batch, "Many gets, puts and deletes side by side",
              (Answer(200, "One entry per operation, in order",
                      {m: {"type": "array", "items": _ref("Answered")} for m in (*forms, JSON_LINES)}),),
              (_header("Accept", "Form of the answer; that of the request if not given"), *_COMMON),
              {m: {"type": "array", "items": _ref("Operation")} for m in (*forms, JSON_LINES)},
              (408, 413, 429, 503), "batch", writes=True, pool=Pool.BATCHES,
              body_bytes_max=limits.batch_bytes_max),
    )  # fmt: skip


def outcome_routes(outcomes: OutcomeRoutes) -> tuple[Route, ...]:
    return (
        Route("GET", "/v1/outcome/{operation}", outcomes.outcome,
              "What became of the write with this Idempotency-Key, after no answer or outcome unknown",
              (Answer(200, "ok: on W homes durably; unknown: nothing can be said (never failed: see README)",
                      {JSON: _ref("Outcome")}, ("KV-Outcome", "KV-Context")),),
              (Parameter("bucket", "query", BUCKET, "Bucket of the write", required=True),
               Parameter("key", "query", KEY, "Key of the write, percent-encoded bytes", required=True),
               _N, _option("w", _COUNT, "Homes that must hold it durably"), _TIMEOUT, *_COMMON), {},
              (429, 503, 507)),
    )  # fmt: skip


def admin_routes(admin: AdminRoutes) -> tuple[Route, ...]:
    def json_of(schema: Schema, text: str = "As described") -> tuple[Answer, ...]:
        return (Answer(200, text, {JSON: schema}),)

    bucket = json_of(_ref("Bucket"), "What holds now")
    text: Mapping[str, Schema] = {"text/plain": _TEXT}
    return (
        Route("GET", "/v1/buckets", admin.buckets, "Buckets with properties of their own",
              json_of(_ref("Buckets")), needs=Role.ADMIN, lane=Lane.ADMIN),
        Route("GET", "/v1/buckets/{bucket}", admin.get_bucket, "Effective properties of a bucket", bucket,
              lane=Lane.ADMIN),
        Route("PUT", "/v1/buckets/{bucket}", admin.set_bucket, "Set properties; others stay as they are",
              bucket, (), {JSON: _ref("Properties")}, (408, 413, 503, 504), writes=True, needs=Role.ADMIN,
              lane=Lane.ADMIN, body_bytes_max=PROPERTIES_BYTES_MAX),
        Route("GET", "/v1/cluster", admin.cluster, "Members and their state", json_of(_OBJECT),
              lane=Lane.ADMIN),
        Route("GET", "/v1/layout", admin.layout, "Who is home of which partition: for clients that route",
              (Answer(200, "The layout", {JSON: _OBJECT}, ("ETag", "KV-Layout")),
               Answer(304, "Still the ETag of If-None-Match", {}, ("ETag",))),
              (_header("If-None-Match", "304 if the ETag is still this"),), {}, (503,), lane=Lane.ADMIN),
        Route("GET", "/v1/explain/{bucket}/{key}", admin.explain,
              "The homes of a key, what each holds, and why its tombstone waits",
              json_of(_OBJECT), (), {}, (503,), lane=Lane.ADMIN),
        Route("GET", "/v1/hints", admin.hints, "What this node keeps for nodes that are away",
              json_of(_ref("Hints")), lane=Lane.ADMIN),
        Route("GET", "/v1/degradation", admin.degradation, "What this node refuses for want of room",
              json_of(_ref("Degradation")), lane=Lane.ADMIN),
        Route("PUT", "/v1/degradation", admin.set_degradation,
              "Refuse up to this level at least, on this node and as long as it runs",
              json_of(_ref("Degradation"), "What holds now"), (), {JSON: _ref("Floor")}, (408, 413),
              writes=True, needs=Role.ADMIN, lane=Lane.ADMIN, body_bytes_max=PROPERTIES_BYTES_MAX),
        Route("GET", "/livez", admin.livez, "The process answers", (Answer(200, "It does", text),),
              needs=None, lane=Lane.FREE),
        Route("GET", "/readyz", admin.readyz, "The node can serve",
              (Answer(200, "It can", text), Answer(503, "It cannot, and says why", text)),
              (_option("verbose", _FLAG, "Every check, not only those that fail"),),
              needs=None, lane=Lane.FREE),
        Route("GET", "/metrics", admin.metrics, "Metrics for Prometheus", (Answer(200, "Metrics", text),),
              (_header("Accept", "OpenMetrics or the text format"),), lane=Lane.FREE),
        Route("GET", "/version", admin.version, "What runs here", json_of(_OBJECT), needs=None,
              lane=Lane.FREE),
        Route("GET", "/openapi.json", admin.openapi, "This description", json_of(_OBJECT), lane=Lane.FREE),
    )  # fmt: skip


_WAIT = (
    _option("wait", _FLAG, "Answer when it has ended, or when the time is up"),
    _option("timeout", TIMEOUT, "How long to wait: 500 or 500ms, or 2s; as long as allowed if not given"),
)


def repair_routes(repair: RepairRoutes) -> tuple[Route, ...]:
    def task(status: int, text: str) -> Answer:
        return Answer(status, text, {JSON: _ref("Task")})

    return (
        Route("POST", "/v1/repair", repair.repair, "Compare replicas now, and heal what differs",
              (task(200, "It has ended"), task(202, "It runs: /v1/tasks tells how far it is")),
              (_option("bucket", _TEXT, "With key: repair this key at all its homes"),
               _option("key", _TEXT, "Percent-encoded bytes"),
               _option("partition", {"type": "integer", "minimum": 0, "maximum": PARTITIONS - 1},
                       "Repair one partition"),
               _option("all", _FLAG, "Repair every partition"), *_WAIT), {}, (413, 503, 504, 507),
              writes=True, needs=Role.ADMIN, lane=Lane.ADMIN),
        Route("GET", "/v1/repair", repair.status, "What this node has compared and healed, and when",
              (Answer(200, "As described", {JSON: _OBJECT}),), lane=Lane.ADMIN),
        Route("GET", "/v1/tasks", repair.tasks, "Tasks of this node, the newest first",
              (Answer(200, "Those that run, and the last that ended", {JSON: _ref("Tasks")}),),
              lane=Lane.ADMIN),
        Route("POST", "/v1/barrier", repair.barrier,
              "Return when every write acknowledged before is on all live homes",
              (task(200, "So it is; `missing` names the homes that are not live"),),
              (_WAIT[1],), {}, (503, 504), writes=True, needs=Role.ADMIN, lane=Lane.ADMIN),
    )  # fmt: skip
