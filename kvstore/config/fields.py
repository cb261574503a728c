"""Every setting, once: key, type, default, bounds, what it is, what a wrong one costs.

The command line, the environment, the file, `kvstore config show` and the documentation are all
made from this table. Units are last in names: `_s` is seconds, `_bytes_max` bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from kvstore.config.words import BUCKET_BOUNDS, BUCKET_CHOICES, BUCKET_WORDS, LIMIT_WORDS, NODES_MAX
from kvstore.core.bucket import BucketProperties
from kvstore.core.limits import MIB, Limits

ENV_PREFIX = "KVSTORE_"

OTHER_VARIABLES = (
    "KVSTORE_NODES",  # the client
    "KVSTORE_CONFIG",  # the loader of settings
    "KVSTORE_DEBUG",  # the command line
    "KVSTORE_IMAGE",  # deploy/ and .ci/
    "KVSTORE_ENV_FILE",
    "KVSTORE_DOCKER_ENGINE",
    "KVSTORE_REQUIRE_DOCKER",
)
"""Known, but no settings of a node."""


@dataclass(frozen=True, slots=True)
class Field:
    """One setting. `type`: text, name, integer, number, flag, path, address, addresses or choice.

    `default` is None where there is none to be had. `wrong` says what a wrong value costs.
    A secret has no flag, because every user of the machine can read command lines.
    """

    key: str
    type: str
    default: Any
    help: str
    wrong: str
    concern: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    secret: bool = False

    @property
    def env(self) -> str:
        return ENV_PREFIX + self.key.upper()

    @property
    def flag(self) -> str:
        return "" if self.secret else "--" + self.key.replace("_", "-")

    @property
    def unit(self) -> str:
        if self.key.endswith("_s"):
            return "seconds"
        return "bytes" if "_bytes" in self.key else ""


_NODE = (
    Field(
        "name",
        "name",
        "",
        "what people call this node; the host's name if empty",
        "two nodes of one name cannot be told apart in logs and status; nothing else depends on it",
        "node",
    ),
    Field(
        "data_dir",
        "path",
        None,
        "directory of this node's data and identity; made if it is missing",
        "another node's directory: refused; an empty one: a new node without copies, see recover_as",
        "node",
    ),
    Field(
        "recover_as",
        "text",
        "",
        "id of the member whose lost data directory this empty one replaces; no meaning for one in use",
        "of a member that still runs: refused by the others; of none: refused",
        "node",
    ),
    Field(
        "http_listen",
        "address",
        "127.0.0.1:8001",
        "host:port for clients; port 0 takes a free one",
        "clients cannot connect; any address but loopback needs a cluster key and a client token",
        "node",
    ),
    Field(
        "rpc_listen",
        "address",
        "127.0.0.1:9001",
        "host:port for the other nodes; port 0 takes a free one",
        "the other nodes see this one as down",
        "node",
    ),
    Field(
        "advertise_http",
        "address",
        "",
        "host:port that clients are told; the bound address if empty",
        "clients that route by key are sent to where nobody listens",
        "node",
    ),
    Field(
        "advertise_rpc",
        "address",
        "",
        "host:port that other nodes are told; the bound address if empty",
        "the other nodes connect to where nobody listens and see this one as down",
        "node",
    ),
    Field(
        "zone",
        "name",
        "",
        "the larger failure domain (room, rack, availability zone); each node its own if empty",
        "copies of a key may lie in one zone and be lost together",
        "node",
    ),
    Field(
        "host",
        "name",
        "",
        "the machine, as the failure domain of the nodes on it; the host's name if empty",
        "two nodes of one machine may hold copies of one key and fail together",
        "node",
    ),
    Field(
        "weight",
        "integer",
        1,
        "share of partitions relative to other nodes; 0 holds no data and only coordinates",
        "the disk fills sooner or later than those of the others",
        "node",
        low=0,
        high=1000,
    ),
    Field(
        "seeds",
        "addresses",
        (),
        "rpc addresses of some other nodes, separated by commas",
        "a node that reaches no seed and is none stays alone and never becomes ready",
        "node",
    ),
    Field(
        "bootstrap_expect",
        "integer",
        3,
        "how many nodes must see each other before a new cluster forms; no meaning afterwards",
        "too high: the cluster never forms; too low: two clusters may form that cannot be joined",
        "node",
        low=1,
        high=NODES_MAX,
    ),
    Field(
        "cache_bytes",
        "integer",
        64 * MIB,
        "memory of the engine's cache of blocks",
        "too low: reads go to the disk; too high: the machine swaps",
        "node",
        low=MIB,
        high=2**40,
    ),
    Field(
        "event_loop",
        "choice",
        "auto",
        "auto takes uvloop where it is installed",
        "asyncio's own loop costs 15 to 40 % of the throughput",
        "node",
        choices=("auto", "uvloop", "asyncio"),
    ),
)

_SECURITY = (
    Field(
        "cluster_key_file",
        "path",
        None,
        "file with the secret that all nodes share, as `kvstore keygen` writes it",
        "another key than the others': refused by them; a lost key: tokens that clients hold become invalid",
        "security",
    ),
    Field(
        "cluster_key",
        "text",
        None,
        "the same secret itself, at least 32 random bytes as hex or base64",
        "who knows it can read and change everything",
        "security",
        secret=True,
    ),
    Field(
        "client_token_file",
        "path",
        None,
        "file with one token that may do everything; no token at all, on loopback only: none is asked for",
        "clients with another token are refused (401)",
        "security",
    ),
    Field(
        "client_tokens_file",
        "path",
        None,
        "tokens of clients with roles and buckets, as `kvstore token new` writes them; read when it changes",
        "clients whose token is not in it are refused (401), what their role leaves out, too (403)",
        "security",
    ),
    Field(
        "http_certificate_file",
        "path",
        None,
        "certificate (PEM, with its chain) for TLS to clients; read again when it changes",
        "clients that do not trust it, or are told another name, do not connect",
        "security",
    ),
    Field(
        "http_key_file",
        "path",
        None,
        "the key of that certificate (PEM)",
        "the node does not start; after a change it goes on with the old one",
        "security",
    ),
    Field(
        "rpc_certificate_file",
        "path",
        None,
        "certificate (PEM) for TLS between nodes, which both sides show; read again when it changes",
        "the other nodes refuse this one; on some nodes only: they do not understand each other",
        "security",
    ),
    Field(
        "rpc_key_file",
        "path",
        None,
        "the key of that certificate (PEM)",
        "the node does not start; after a change it goes on with the old one",
        "security",
    ),
    Field(
        "rpc_ca_file",
        "path",
        None,
        "the CAs (PEM) that sign certificates of nodes",
        "nodes with a certificate of another CA are refused",
        "security",
    ),
    Field(
        "client_token",
        "text",
        None,
        "the same token itself, at least 16 characters; the client reads this variable too",
        "who knows it can read and change all data",
        "security",
        secret=True,
    ),
)

_LOG = (
    Field(
        "log_level",
        "choice",
        "info",
        "the least important events that are logged",
        "debug tells of every connection; error hides why a node is not ready",
        "log",
        choices=("debug", "info", "warning", "error"),
    ),
    Field(
        "log_format",
        "choice",
        "auto",
        "auto is console on a terminal and JSON lines otherwise",
        "console lines cannot be parsed by log collectors",
        "log",
        choices=("auto", "console", "json"),
    ),
)


def _bucket_field(key: str, default: Any) -> Field:
    help_, wrong = BUCKET_WORDS[key]
    if key in BUCKET_CHOICES:
        return Field(key, "choice", default, help_, wrong, "bucket", choices=BUCKET_CHOICES[key])
    if isinstance(default, bool):
        return Field(key, "flag", default, help_, wrong, "bucket")
    low, high = BUCKET_BOUNDS[key]
    return Field(key, _type_of(default), default, help_, wrong, "bucket", low=low, high=high)


def _limit_field(key: str, default: Any) -> Field:
    help_, wrong = LIMIT_WORDS.get(key, ("", ""))  # a new limit works at once; a test asks for its words
    low = (1 if isinstance(default, int) else 0.001) if default else 0
    return Field(key, _type_of(default), default, help_, wrong, "limits", low=low, high=2**40)


def _type_of(default: Any) -> str:
    return "integer" if isinstance(default, int) else "number"


FIELDS: dict[str, Field] = {
    field.key: field
    for field in (
        *_NODE,
        *_SECURITY,
        *(_bucket_field(f.name, f.default) for f in fields(BucketProperties) if f.init),
        *_LOG,
        *(_limit_field(f.name, f.default) for f in fields(Limits)),
    )
}
"""All settings by key, in the order in which they are shown."""
