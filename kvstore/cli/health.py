"""healthcheck: whether a node is ready, for container health checks.

Runs every few seconds beside the node, so it imports little: no client, no event loop.
"""

from __future__ import annotations

import os
import ssl
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit

import click

from kvstore.cli.output import Exit, emit, output_option
from kvstore.config import is_wildcard, split_address
from kvstore.config.sources import read_settings
from kvstore.errors import ConfigError

_TEXT_BYTES_MAX = 512


@click.command()
@click.option("--url", help="Base URL of the node; else where the settings here make it listen.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0.01), default=2.0, help="In seconds. [2]")
@output_option
def healthcheck(url: str | None, timeout_s: float, output: str) -> None:
    """Exit code 0 if the node serves requests, 1 if it does not, with the reason.

    Asks /readyz of the node that the settings (KVSTORE_HTTP_LISTEN, KVSTORE_CONFIG) of this machine
    or container describe.

    \b
    Example:
      HEALTHCHECK CMD ["kvstore", "healthcheck"]
      kvstore healthcheck --url http://127.0.0.1:8001 && echo ready
    """
    named, url = url is not None, url or _own_url()
    ready, reason = check_ready(url, timeout_s, verify=named)
    emit(output, {"ready": ready, "url": url, "reason": reason}, [reason])
    if not ready:
        click.get_current_context().exit(Exit.ERROR)


def check_ready(url: str, timeout_s: float, *, verify: bool = True) -> tuple[bool, str]:
    """(ready, what the node or the network says about it).

    `verify`: not where a node asks itself on loopback, a name that its certificate does not have; nothing
    secret is sent.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise click.UsageError(f"--url {url!r} is not of the form http://host:port")
    try:
        if parts.scheme == "https":
            trust = ssl.create_default_context() if verify else ssl._create_unverified_context()  # noqa: S323
            connection: HTTPConnection = HTTPSConnection(
                parts.hostname, parts.port, timeout=timeout_s, context=trust
            )
        else:
            connection = HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)
        try:
            connection.request("GET", "/readyz")
            answer = connection.getresponse()
            body = answer.read(_TEXT_BYTES_MAX).decode("utf-8", "replace").strip()
        finally:
            connection.close()
    except ValueError as error:
        raise click.UsageError(f"--url {url!r}: {error}") from None
    except (OSError, HTTPException) as error:
        return False, f"{url} does not answer: {str(error) or type(error).__name__}"
    if answer.status == 200:
        return True, "ready"
    return False, f"{url} is not ready ({answer.status}): {body}"


def _own_url() -> str:
    """Where the node of this container listens. A wildcard is asked on loopback."""
    settings, problems = read_settings({}, os.environ)
    if "http_listen" in settings.malformed:
        raise ConfigError(problems[0].text, advice=problems[0].advice)
    host, port = split_address(settings["http_listen"].value)
    if port == 0:
        raise ConfigError(
            f"{settings.said('http_listen')} takes any free port", advice="name the node with --url"
        )
    if is_wildcard(host):
        host = "::1" if ":" in host else "127.0.0.1"
    scheme = "https" if settings["http_certificate_file"].value is not None else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
