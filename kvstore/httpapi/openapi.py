"""/openapi.json: the route table as OpenAPI 3.1. It knows no route by name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from kvstore.core.bucket import BLIND_MODES, CONFLICTS, DURABILITIES, BucketProperties
from kvstore.core.degradation import LEVELS
from kvstore.core.outcome import OK, UNKNOWN
from kvstore.httpapi.batch_items import FIELDS, METHODS
from kvstore.httpapi.parameter_schemas import BUCKET, KEY, OPERATION
from kvstore.httpapi.routes import Answer, Parameter, Route
from kvstore.httpapi.status_codes import PROBLEM_TYPE, STATUSES

_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_EVERYWHERE = (400, 401, 403, 500, 503)
_TEXT = {"type": "string"}
_PATH: dict[str, tuple[str, dict[str, Any]]] = {
    "bucket": ("Letters, digits and . _ ~ -, beginning with a letter or digit", BUCKET),
    "key": ("Any bytes, percent-encoded; a / need not be", KEY),
    "operation": ("The Idempotency-Key of the write, percent-encoded", OPERATION),
}
"""Placeholder -> text and schema."""

_BASE64 = {"type": "string", "contentEncoding": "base64"}
_HEADER_TEXTS = {
    "ETag": "Of the siblings there are, all of them together",
    "KV-Acks": "Answers / homes, such as 2/3",
    "KV-Complete": "false: replicas were missing, and keys may be",
    "KV-Context": "What this answer has shown; send it with the write that is based on it",
    "KV-Coordinator": "The node the request was forwarded to",
    "KV-Hinted": "Homes that a stand-in answered for",
    "KV-Layout": "Version of the layout that was used",
    "KV-Meta-*": "As stored with the value",
    "KV-Node": "Name of the node that answers",
    "KV-Outcome": "ok, failed (applied nowhere) or unknown (may be applied)",
    "KV-Repairs": "Replicas that are sent what they lacked",
    "KV-Request-Id": "Name of the request",
    "KV-Required": "Answers that were needed",
    "KV-Served": "With consistency=best_effort: quorum, or stale (what there was)",
    "KV-Siblings": "Concurrent values there are",
    "Last-Modified": "When the value was written, by the clock of the node that wrote it",
    "Link": 'rel="next": the next page',
    "Server-Timing": "Each replica's time in ms, and what it did",
}


def describe(routes: Iterable[Route], *, version: str) -> dict[str, Any]:
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "kvstore",
            "version": version,
            "description": "A leaderless, quorum-replicated key-value store.",
        },
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Only if the node has client tokens; x-role: what it must include",
                }
            },
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": "_".join(
            (route.method.lower(), *_PLACEHOLDER.sub(r"\1", route.path).strip("/").split("/"))
        ),
        "summary": route.summary,
        "parameters": [
            *(
                _parameter(Parameter(name, "path", schema, text, required=True))
                for name, (text, schema) in _PATH.items()
                if name in _PLACEHOLDER.findall(route.path)
            ),
            *map(_parameter, route.parameters),
        ],
        "responses": {str(answer.status): _answer(answer) for answer in route.answers},
    }
    if route.body:
        operation["requestBody"] = {
            "required": True,
            "content": _content(route.body),
        }
    if route.needs is None:
        operation["security"] = []
    else:
        operation["x-role"] = route.needs.name.lower()
    too_large = (413,) if "{key}" in route.path or "{operation}" in route.path else ()
    for code in sorted({*_EVERYWHERE, *too_large, *route.problems}):
        operation["responses"].setdefault(str(code), _problem(code))
    return operation


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.where,
        "required": parameter.required,
        "description": parameter.text,
        "schema": dict(parameter.schema),
    }


def _answer(answer: Answer) -> dict[str, Any]:
    described: dict[str, Any] = {"description": answer.text}
    if answer.media:
        described["content"] = _content(answer.media)
    if answer.headers:
        described["headers"] = {
            name: {"description": _HEADER_TEXTS[name], "schema": _TEXT} for name in answer.headers
        }
    return described


def _content(media: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Bytes of any kind have no schema (OpenAPI 3.1 §4.8.14.3)."""
    return {name: {"schema": dict(schema)} if schema else {} for name, schema in media.items()}


def _problem(code: int) -> dict[str, Any]:
    types = dict.fromkeys(f"{s.type} ({s.title})" for s in STATUSES if s.code == code)
    return {
        "description": "; ".join(types),
        "content": {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }


def _object(properties: dict[str, Any], required: Iterable[str] = ()) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": sorted(required)}


def _schemas() -> dict[str, Any]:
    integer, flag = {"type": "integer"}, {"type": "boolean"}
    types = dict.fromkeys(status.type for status in STATUSES)
    value = {"value": _TEXT, "value_base64": _BASE64}
    sibling = _object(
        {"id": _TEXT, "content_type": _TEXT, "modified_ms": integer, "expires_at_ms": integer,
         "meta": {"type": "object", "additionalProperties": _TEXT}, **value},
        ("id", "content_type"),
    )  # fmt: skip
    entries = {"type": "array", "items": {"$ref": "#/components/schemas/Sibling"}}
    siblings = {"siblings": entries, "context": _TEXT, "etag": _TEXT}
    fields: dict[str, Any] = dict.fromkeys(FIELDS, _TEXT)
    fields |= {"op": {"type": "string", "enum": [*METHODS]}, "options": {"type": "object"}}
    fields |= {"meta": {"type": "object", "additionalProperties": _TEXT}, "value_base64": _BASE64}
    return {
        "Problem": _object(
            {"type": {"type": "string", "enum": [*types, "no-such-key"]}, "title": _TEXT, "status": integer,
             "detail": _TEXT, "advice": _TEXT, "outcome": {"type": "string", "enum": ["failed", "unknown"]},
             "required": integer, "received": integer, "asked": integer, "hinted": integer,
             "replicas": {"type": "array", "items": _object({"node": _TEXT, "answer": _TEXT})},
             "reason": _TEXT, "request_id": _TEXT, "instance": _TEXT},
            ("type", "title", "status"),
        ),
        "Outcome": _object(
            {"operation": _TEXT, "outcome": {"type": "string", "enum": [OK, UNKNOWN]}, "n": integer,
             "required": integer, "answered": integer, "acks": integer, "advice": _TEXT},
            ("operation", "outcome", "n", "required", "answered", "acks"),
        ),
        "Sibling": sibling,
        "Siblings": _object(siblings, siblings),
        "Page": _object(
            {"items": {"type": "array", "items": {"$ref": "#/components/schemas/Item"}}, "complete": flag,
             "next": _TEXT},
            ("items", "complete"),
        ),
        "Item": _object(
            {"key": _TEXT, "key_base64": _BASE64, "etag": _TEXT, "siblings": integer, "context": _TEXT,
             "values": entries},
            ("etag", "siblings", "values"),
        ),
        "Operation": _object(fields, ("op", "bucket")),
        "Answered": _object(
            {"status": integer, "headers": {"type": "object", "additionalProperties": _TEXT},
             "problem": {"$ref": "#/components/schemas/Problem"}, **value, **siblings},
            ("status", "headers"),
        ),
        "Task": _object(
            {"id": _TEXT, "kind": {"type": "string", "enum": ["repair", "barrier"]},
             "state": {"type": "string", "enum": ["running", "done", "failed"]}, "done": integer,
             "total": integer, "took_s": {"type": "number"}, "error": _TEXT, "healed": integer,
             "missing": {"type": "array", "items": _TEXT}, "failed": {"type": "array", "items": integer}},
            ("id", "kind", "state", "done", "total", "took_s"),
        ),
        "Tasks": _object({"tasks": {"type": "array", "items": {"$ref": "#/components/schemas/Task"}}}),
        "Properties": _object(_properties()),
        **_hints(),
        **_degradation(),
        "Buckets": _object({"buckets": {"type": "array", "items": {"$ref": "#/components/schemas/Bucket"}}}),
        "Bucket": _object(
            {"bucket": _TEXT, "explicit": flag, "properties": {"$ref": "#/components/schemas/Properties"}},
            ("bucket", "explicit", "properties"),
        ),
    }  # fmt: skip


def _hints() -> dict[str, Any]:
    integer, seconds = {"type": "integer"}, {"type": ["number", "null"]}
    amounts = {"count": integer, "bytes": integer}
    return {
        "Hints": _object(
            {"node": _TEXT, "delivered": integer, "dropped": integer, "marks": integer, **amounts,
             "count_max": integer, "bytes_max": integer,
             "targets": {"type": "array", "items": _object(
                 {"id": _TEXT, "name": _TEXT, "in_reach": {"type": "boolean"}, "oldest_age_s": seconds,
                  "next_attempt_s": seconds, **amounts})}},
            ("node", "targets", *amounts),
        ),
    }  # fmt: skip


def _degradation() -> dict[str, Any]:
    level = {"type": "string", "enum": [*LEVELS]}
    told = {"node": _TEXT, "level": level, "floor": level, "levels": {"type": "array", "items": _TEXT},
            "sheds": {"type": "object", "additionalProperties": {"type": "integer"}}}  # fmt: skip
    return {"Floor": _object({"floor": level}, ("floor",)), "Degradation": _object(told, told)}


def _properties() -> dict[str, Any]:
    """From the defaults' own types, so that a new property is described as soon as it exists."""
    choices = {"conflict": CONFLICTS, "blind": BLIND_MODES, "durability": DURABILITIES}
    names = {int: "integer", float: "number", str: "string", bool: "boolean"}
    described: dict[str, Any] = {}
    for name, value in BucketProperties().as_dict().items():
        described[name] = {"type": names[type(value)], "default": value}
        if name in choices:
            described[name]["enum"] = [*choices[name]]
    return described
