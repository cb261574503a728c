"""The description is made of the routes that are dispatched, and is well-formed OpenAPI 3.1."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from kvstore.httpapi.status_codes import STATUSES
from tests.httpapi.conftest import Api

METHODS = ("get", "head", "put", "post", "delete", "patch", "options")
FILLED = {"bucket": "users", "key": "ann", "operation": "op-1"}


@pytest.fixture
async def described(api: Api) -> dict[str, Any]:
    document: dict[str, Any] = (await api.get("/openapi.json")).json
    return document


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield method, path, operation


def filled(path: str) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: FILLED[match[1]], path)


async def test_every_operation_is_dispatched(api: Api, described: dict[str, Any]) -> None:
    seen = 0
    for method, path, _ in operations(described):
        answer = await api.ask(method.upper(), filled(path), b"" if method in ("put", "post") else None)
        assert answer.status != 405, (method, path)
        if answer.status == 404:
            kind = answer.problem["type"] if method != "head" else "no-such-key"
            assert kind == "no-such-key", (method, path)
        seen += 1
    assert seen >= 17


async def test_no_method_is_dispatched_that_is_not_described(api: Api, described: dict[str, Any]) -> None:
    for path, item in described["paths"].items():
        for method in METHODS:
            if method in item or (method == "head" and "get" in item):
                continue
            answer = await api.ask(method.upper(), filled(path))
            assert answer.status == 405, (method, path)
            allowed = {m.strip().lower() for m in answer.headers["Allow"].split(",")}
            assert allowed - {"head"} == set(item) - {"head"}


async def test_described_options_are_known_and_others_are_not(api: Api, described: dict[str, Any]) -> None:
    for method, path, operation in operations(described):
        named = [p["name"] for p in operation["parameters"] if p["in"] == "query"]
        for name in [*named, "surely-unknown"]:
            answer = await api.ask(method.upper(), f"{filled(path)}?{name}=%00", None)
            if method == "head":
                assert answer.status in (200, 400, 404)
            else:
                unknown = b"unknown option" in answer.body
                assert unknown == (name not in named), (method, path, name)


async def test_what_the_node_takes_is_described(api: Api, described: dict[str, Any]) -> None:
    routes = api.server._app.router.routes
    assert len(routes) == len(list(operations(described)))
    for route in routes:
        operation = described["paths"][route.path][route.method.lower()]
        taken = {(p.name, p.where) for p in route.parameters}
        shown = {(p["name"], p["in"]) for p in operation["parameters"] if p["in"] != "path"}
        assert shown == taken, (route.method, route.path)
        assert {str(answer.status) for answer in route.answers} <= set(operation["responses"])
        assert {str(code) for code in route.problems} <= set(operation["responses"])


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


async def test_it_is_openapi(described: dict[str, Any]) -> None:
    assert described["openapi"].startswith("3.1.")
    assert described["info"]["title"]
    assert described["info"]["version"]
    for reference in references(described):
        node: Any = described
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]
        assert node["type"]
    ids = [operation["operationId"] for _, _, operation in operations(described)]
    assert len(set(ids)) == len(ids)
    for method, path, operation in operations(described):
        assert method in METHODS
        assert operation["summary"]
        placeholders = set(re.findall(r"\{(\w+)\}", path))
        in_path = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
        assert placeholders == in_path
        named = [(p["name"].lower(), p["in"]) for p in operation["parameters"]]
        assert len(set(named)) == len(named), "a parameter is there twice"
        for parameter in operation["parameters"]:
            assert set(parameter) == {"name", "in", "required", "description", "schema"}
            assert parameter["required"] or parameter["in"] != "path"
        takes_body = method == "put" or path == "/v1/batch"
        assert ("requestBody" in operation) == takes_body
        assert any(code[0] in "23" for code in operation["responses"])
        for code, response in operation["responses"].items():
            assert re.fullmatch(r"[2345]\d\d", code)
            assert response["description"]


async def test_problems_are_those_of_the_table(described: dict[str, Any]) -> None:
    listed = set(described["components"]["schemas"]["Problem"]["properties"]["type"]["enum"])
    assert listed == {status.type for status in STATUSES} | {"no-such-key"}
    codes = {status.code for status in STATUSES}
    for _, _, operation in operations(described):
        for code, response in operation["responses"].items():
            if "application/problem+json" in response.get("content", {}):
                assert int(code) in codes
                assert any(s.type in response["description"] for s in STATUSES if s.code == int(code))


async def test_what_needs_no_credential_says_so(described: dict[str, Any]) -> None:
    free = {path for _, path, operation in operations(described) if operation.get("security") == []}
    assert free == {"/livez", "/readyz", "/version"}


async def test_a_refusal_for_length_is_described_wherever_it_is_given(
    api: Api, described: dict[str, Any]
) -> None:
    """Found by schemathesis: /v1/explain and reads refuse long keys with a 413 that they did not name."""
    long_name, seen = "k" * 2000, 0
    for method, path, operation in operations(described):
        queries = [p["name"] for p in operation["parameters"] if (p["in"], p["name"]) == ("query", "key")]
        targets = [re.sub(r"\{(key|operation)\}", long_name, path).replace("{bucket}", "users")]
        targets += [f"{filled(path)}?bucket=users&key={long_name}" for _ in queries]
        headers = {"Idempotency-Key": "x" * 65} if method in ("put", "delete") else {}
        for target in targets:
            answer = await api.ask(method.upper(), target, None, headers)
            assert str(answer.status) in operation["responses"], (method, path)
            seen += answer.status == 413
    assert seen == 7
