"""healthcheck: 0 if the node answers, 1 with the reason if not, and it finds the node by its settings."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from tests.cli.conftest import Type


@contextmanager
def node(status: int, body: bytes = b"") -> Iterator[int]:
    """Something on a port that answers /readyz so, and everything else with 404."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/readyz" else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_ready(type_: Type) -> None:
    with node(200) as port:
        result = type_("healthcheck", "--url", f"http://127.0.0.1:{port}")
    assert (result.exit_code, result.stdout) == (0, "ready\n")


def test_not_ready_says_why(type_: Type) -> None:
    with node(503, b"waits for 2 more nodes") as port:
        result = type_("healthcheck", "--url", f"http://127.0.0.1:{port}", "-o", "json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["reason"].endswith("is not ready (503): waits for 2 more nodes")


def test_nobody_there(type_: Type) -> None:
    result = type_("healthcheck", "--url", "http://127.0.0.1:1")
    assert result.exit_code == 1
    assert "does not answer" in result.stdout


def test_a_node_that_hangs_costs_the_timeout(type_: Type) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        result = type_(
            "healthcheck", "--timeout", "0.05", "--url", f"http://127.0.0.1:{listener.getsockname()[1]}"
        )
    assert result.exit_code == 1
    assert "timed out" in result.stdout


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_the_settings_of_the_container_name_the_node(type_: Type, host: str) -> None:
    with node(200) as port:
        assert type_("healthcheck", KVSTORE_HTTP_LISTEN=f"{host}:{port}").exit_code == 0


def test_settings_that_a_node_would_refuse_do_not_stop_the_question(type_: Type) -> None:
    """A missing secret is the node's business: its health check must not need to read it."""
    with node(200) as port:
        result = type_(
            "healthcheck", KVSTORE_HTTP_LISTEN=f"127.0.0.1:{port}", KVSTORE_CLUSTER_KEY_FILE="/none"
        )
    assert result.exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        ([], {"KVSTORE_HTTP_LISTEN": "127.0.0.1:0"}),
        ([], {"KVSTORE_HTTP_LISTEN": "nonsense"}),
        (["--url", "127.0.0.1:8001"], {}),
        (["--url", "ftp://n1"], {}),
        (["--url", "http://n1:port"], {}),
    ],
)
def test_what_names_no_node_is_a_usage_error(
    type_: Type, arguments: list[str], environment: dict[str, str]
) -> None:
    assert type_("healthcheck", *arguments, **environment).exit_code == 2
