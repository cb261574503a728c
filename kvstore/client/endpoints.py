"""Where the nodes are and who asks: from arguments, or from KVSTORE_NODES and KVSTORE_CLIENT_TOKEN."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

from kvstore.errors import ConfigError

PORT_DEFAULT = 8001
NODES_VARIABLE = "KVSTORE_NODES"
TOKEN_VARIABLE = "KVSTORE_CLIENT_TOKEN"  # noqa: S105 - the name of it, not the token
_NODES_MAX = 1000
_EXAMPLE = 'such as "http://127.0.0.1:8001,127.0.0.1:8002"'


def origins(nodes: str | Iterable[str] | None, environment: Mapping[str, str]) -> tuple[str, ...]:
    """ "http://host:port" of each, in order, none twice. Raises ConfigError.

    Takes one text with commas, or several. What has no scheme takes that of the one before.
    """
    source = "nodes"
    if nodes is None:
        nodes, source = environment.get(NODES_VARIABLE, ""), NODES_VARIABLE
        if not nodes.strip():
            raise ConfigError("no node is named", advice=f"pass them, or set {NODES_VARIABLE}: {_EXAMPLE}")
    if isinstance(nodes, str):
        nodes = [nodes]
    found: dict[str, None] = {}
    scheme = "http"
    for text in nodes:
        if not isinstance(text, str):
            raise ConfigError(f"{source}: {text!r} is {type(text).__name__}, not text", advice=_EXAMPLE)
        for part in text.split(","):
            if part.strip():
                origin = parse_origin(part.strip(), scheme, source)
                scheme = origin.partition("://")[0]
                found[origin] = None
    if not found:
        raise ConfigError(f"{source} names no node", advice=_EXAMPLE)
    if len(found) > _NODES_MAX:
        raise ConfigError(
            f"{source} names {len(found)} nodes; {_NODES_MAX} are plenty",
            advice="name a few: the rest is learned",
        )
    return tuple(found)


def parse_origin(text: str, scheme: str, source: str) -> str:
    """Raises ConfigError that quotes the text, but never a password in it."""
    try:
        parts = urlsplit(text if "://" in text else f"{scheme}://{text}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"{source}: {text[:100]!r} is no address: {error}", advice=_EXAMPLE) from None
    if parts.username is not None or parts.password is not None:
        raise ConfigError(f"{source}: an address holds a user or a password", advice="pass token= instead")
    if parts.scheme not in ("http", "https"):
        raise ConfigError(f"{source}: {text[:100]!r} is neither http nor https", advice=_EXAMPLE)
    if not host or any(c.isspace() or ord(c) < 33 for c in text):
        raise ConfigError(f"{source}: {text[:100]!r} names no host", advice=_EXAMPLE)
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ConfigError(
            f"{source}: {text[:100]!r} has a path; only scheme, host and port are wanted", advice=_EXAMPLE
        )
    if port == 0:
        raise ConfigError(f"{source}: {text[:100]!r} has port 0", advice=_EXAMPLE)
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}:{port or PORT_DEFAULT}"


def is_local(origin: str) -> bool:
    """Loopback or unspecified: an address that means another machine to each machine that reads it."""
    host = urlsplit(origin).hostname or ""
    try:
        address = ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified


def credential(token: str | None, environment: Mapping[str, str]) -> dict[str, str]:
    """The header that carries the token; none without one. Raises ConfigError."""
    if token is None:
        token = environment.get(TOKEN_VARIABLE, "")
    if not token:
        return {}
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(
            "the client token must be printable ASCII without spaces", advice="is there a line end in it?"
        )
    return {"Authorization": f"Bearer {token}"}
