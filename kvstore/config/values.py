"""What the rest of the node gets to see: frozen values, already checked."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from kvstore.config.certificates import Certificates
from kvstore.config.tokens import read_tokens
from kvstore.core.bucket import BucketProperties
from kvstore.core.credential import Credentials, only
from kvstore.core.limits import Limits

KEY_BYTES_MIN = 32
_DISTINCT_BYTES_MIN = 16  # 32 random bytes have about 30 distinct ones; fewer than 16: 3 times in 10^17


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """Which node this is and where it is found. Addresses are "host:port", IPv6 as "[::1]:8001".

    A listen port of 0 takes a free one. `advertise_*` is "" where others are to be told the
    address that was bound. `host` is the failure domain that takes several nodes down at once.
    `recover_as`: node id or "".
    """

    name: str
    data_dir: Path
    rpc_listen: str
    http_listen: str
    advertise_rpc: str
    advertise_http: str
    zone: str
    host: str
    weight: int
    recover_as: str
    seeds: tuple[str, ...]
    bootstrap_expect: int
    cache_bytes: int
    event_loop: str


@dataclass(frozen=True, slots=True)
class SecurityConfig:
    """`cluster_key`: what nodes prove to each other and sign tokens with. `client_token`: "" for none.

    Neither shows in a repr, so neither ends up in a log or a traceback. `client_tokens_file`: of more
    tokens, by hash; None for none. The other files: TLS, each set whole or not at all.
    """

    cluster_key: bytes = field(repr=False)
    client_token: str = field(repr=False)
    client_tokens_file: Path | None = None
    http_certificate_file: Path | None = None
    http_key_file: Path | None = None
    rpc_certificate_file: Path | None = None
    rpc_key_file: Path | None = None
    rpc_ca_file: Path | None = None

    def http_certificates(self) -> Certificates | None:
        """As the files are now; None for no TLS. Raises ConfigError."""
        if self.http_certificate_file is None or self.http_key_file is None:
            return None
        return Certificates(self.http_certificate_file, self.http_key_file)

    def rpc_certificates(self) -> Certificates | None:
        """The same between nodes, mutual."""
        if self.rpc_certificate_file is None or self.rpc_key_file is None:
            return None
        return Certificates(self.rpc_certificate_file, self.rpc_key_file, self.rpc_ca_file)

    def credentials(self) -> Credentials | None:
        """As the file is now; None where everybody is let in. Raises ConfigError."""
        if self.client_tokens_file is None and not self.client_token:
            return None
        principals = read_tokens(self.client_tokens_file) if self.client_tokens_file is not None else {}
        if self.client_token:
            principals |= only(self.client_token, "client_token")
        return Credentials(principals)


@dataclass(frozen=True, slots=True)
class LogConfig:
    """`level`: debug, info, warning, error. `format`: auto (console on a terminal), console, json."""

    level: str
    format: str


@dataclass(frozen=True, slots=True)
class Config:
    """Everything a node is told. `origins` maps each key to the source its value came from.

    `bucket` holds the properties of buckets that nobody gave any. `warnings` are legal settings
    with a cost that is easily overlooked, one sentence each.
    """

    node: NodeConfig
    security: SecurityConfig
    bucket: BucketProperties
    limits: Limits
    log: LogConfig
    origins: Mapping[str, str]
    warnings: tuple[str, ...] = ()


def split_address(address: str) -> tuple[str, int]:
    """("::1", 8001) of "[::1]:8001". Raises ValueError with what is wrong."""
    if "://" in address:
        raise ValueError(f"{address!r} is a URL, an address is host:port")
    host, colon, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not host or host == "[]":
        raise ValueError(f"{address!r} is not of the form host:port")
    if ":" in host and not bracketed:
        raise ValueError(f"{address!r} is not of the form host:port (IPv6: [::1]:8001)")
    if any(c.isspace() or c in "/@," for c in host):
        raise ValueError(f"{address!r} is not of the form host:port")
    if not (port.isascii() and port.isdigit()) or int(port) > 65_535:
        raise ValueError(f"the port of {address!r} is not a number from 0 to 65535")
    return (host[1:-1] if bracketed else host), int(port)


def is_address(host: str) -> bool:
    """Whether it is an IP address, not a name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect there. A name other than localhost counts as open."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def is_wildcard(host: str) -> bool:
    """0.0.0.0 and ::, where one can listen and nobody can connect."""
    try:
        return ip_address(host).is_unspecified
    except ValueError:
        return False


def parse_cluster_key(text: str) -> bytes:
    """The key's bytes from hex or base64. Raises ValueError, never with the key in it."""
    text = text.strip()
    key = _decoded(text)
    if key is None:
        raise ValueError("is neither hex nor base64")
    if len(key) < KEY_BYTES_MIN:
        raise ValueError(f"has {len(key)} bytes, at least {KEY_BYTES_MIN} are needed")
    if len(set(key)) < _DISTINCT_BYTES_MIN:
        raise ValueError("repeats itself: it was typed, not drawn at random")
    return key


def _decoded(text: str) -> bytes | None:
    try:
        return bytes.fromhex(text)
    except ValueError:
        pass
    try:
        standard = text.replace("-", "+").replace("_", "/").rstrip("=")
        return b64decode(standard + "=" * (-len(standard) % 4), validate=True)
    except ValueError:
        return None
