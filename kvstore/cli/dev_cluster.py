"""A cluster of local processes in one directory.

.dev/cluster.json   its nodes and their ports, as chosen by the first `up`
.dev/cluster.key    its secret, made once, mode 0600
.dev/n1/            node.toml, pid, log, data/ of one node
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from secrets import token_hex

from kvstore.cli import processes
from kvstore.cli.health import check_ready
from kvstore.cli.processes import Process, State
from kvstore.cli.settings import KEY_BYTES, write_secret
from kvstore.errors import ConfigError, NotFound

DIRECTORY = Path(".dev")
ZONES = 3
SIZE_MAX = 20
HTTP_PORT_FIRST = 8001
RPC_PORT_FIRST = 9001
PROGRAM = ("-m", "kvstore")
_FILE = "cluster.json"
_KEY = "cluster.key"
_LOCK = "lock"
_FORMAT = 1


@dataclass(slots=True)
class DevNode:
    name: str
    zone: str
    http: str
    rpc: str

    @property
    def url(self) -> str:
        return f"http://{self.http}"


class DevCluster:
    """Raises NotFound where there is no cluster, ConfigError where the directory is not what it should be."""

    def __init__(self, directory: Path, nodes: list[DevNode], program: Sequence[str] = PROGRAM) -> None:
        """`program`: what to run with the interpreter; "serve --config FILE" is added."""
        self.directory, self.nodes, self.program = directory.absolute(), nodes, program

    @classmethod
    def open(cls, directory: Path) -> DevCluster:
        file = directory / _FILE
        try:
            document = json.loads(file.read_text())
            if document["format"] != _FORMAT:
                raise ConfigError(f"{file} has format {document['format']!r}, this release reads {_FORMAT}")
            return cls(directory, [DevNode(**fields) for fields in document["nodes"]])
        except FileNotFoundError:
            raise NotFound(f"no cluster in {directory}", advice="start one: kvstore dev up") from None
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{file} is not readable: {error}", advice="remove the directory and start anew"
            ) from None

    @classmethod
    def create(cls, directory: Path, size: int) -> DevCluster:
        """Writes nothing of a cluster before its ports are chosen."""
        directory.mkdir(parents=True, exist_ok=True)
        names = [f"n{i + 1}" for i in range(size)]
        http, rpc = free_ports(HTTP_PORT_FIRST, size), free_ports(RPC_PORT_FIRST, size)
        nodes = [
            DevNode(name, f"z{i % ZONES + 1}", f"127.0.0.1:{http[i]}", f"127.0.0.1:{rpc[i]}")
            for i, name in enumerate(names)
        ]
        cluster = cls(directory, nodes)
        with suppress(FileExistsError):
            write_secret(directory / _KEY, token_hex(KEY_BYTES))
        cluster.save()
        return cluster

    def save(self) -> None:
        document = {"format": _FORMAT, "nodes": [asdict(node) for node in self.nodes]}
        temporary = self.directory / f"{_FILE}.new"
        temporary.write_text(json.dumps(document, indent=1) + "\n")
        temporary.replace(self.directory / _FILE)

    @property
    def urls(self) -> str:
        return ",".join(node.url for node in self.nodes)

    def node(self, name: str) -> DevNode:
        for node in self.nodes:
            if node.name == name:
                return node
        raise NotFound(f"no node {name}", advice=f"the nodes are {', '.join(n.name for n in self.nodes)}")

    def home(self, node: DevNode) -> Path:
        return self.directory / node.name

    def log(self, node: DevNode) -> Path:
        return self.home(node) / "log"

    def process(self, node: DevNode) -> Process | None:
        """The one that was started last, whether or not it still runs."""
        return processes.remembered(self.home(node) / "pid")

    def state(self, node: DevNode) -> State:
        process = self.process(node)
        return process.state() if process else State.GONE

    def running(self) -> list[Process]:
        found = [self.process(node) for node in self.nodes]
        return [process for process in found if process and process.state() is not State.GONE]

    def start(self, node: DevNode) -> bool:
        """Whether it was started; False if it runs. A port that somebody took meanwhile is replaced."""
        if self.state(node) is not State.GONE:
            return False
        self._keep_or_replace_ports(node)
        home = self.home(node)
        home.mkdir(exist_ok=True)
        settings = home / "node.toml"
        settings.write_text(self._settings(node))
        environment = {k: v for k, v in os.environ.items() if not k.startswith("KVSTORE_")}
        processes.start(
            [*self.program, "serve", "--config", str(settings)],
            mark=str(settings),
            log=self.log(node),
            pid_file=home / "pid",
            environment=environment,
        )
        return True

    def _keep_or_replace_ports(self, node: DevNode) -> None:
        """Addresses are no identity: a node that comes back at another one says so to its peers."""
        taken = {int(a.rpartition(":")[2]) for n in self.nodes for a in (n.http, n.rpc)}
        for kind, first in (("http", HTTP_PORT_FIRST), ("rpc", RPC_PORT_FIRST)):
            if not _is_free(int(getattr(node, kind).rpartition(":")[2])):
                setattr(node, kind, f"127.0.0.1:{free_ports(first, 1, but_not=taken)[0]}")
                self.save()

    def _settings(self, node: DevNode) -> str:
        values = {
            "name": node.name,
            "data_dir": str(self.home(node) / "data"),
            "http_listen": node.http,
            "rpc_listen": node.rpc,
            "zone": node.zone,
            "host": node.name,  # plays a machine of its own
            "seeds": [other.rpc for other in self.nodes if other is not node],
            "bootstrap_expect": len(self.nodes),
            "n": min(3, len(self.nodes)),
            "cluster_key_file": str(self.directory / _KEY),
        }
        lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]  # JSON's texts are TOML's
        return "\n".join(["# Written by `kvstore dev`, each time the node is started.", *lines, ""])

    def ready(self, node: DevNode, timeout_s: float = 0.5) -> bool:
        return self.state(node) is State.RUNNING and check_ready(node.url, timeout_s)[0]

    def wipe(self) -> None:
        """Remove what `dev` made, and the directory if nothing else is in it."""
        for node in self.nodes:
            shutil.rmtree(self.home(node), ignore_errors=True)
        for name in (_FILE, _KEY, _LOCK):
            (self.directory / name).unlink(missing_ok=True)
        with suppress(OSError):
            self.directory.rmdir()


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """One `up` or `down` at a time. Raises ConfigError if another one is at work."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / _LOCK).open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"another `kvstore dev` is at work in {directory}", advice="wait until it is done"
            ) from None
        yield


def find(start: Path) -> DevCluster | None:
    """The cluster of this directory or of the nearest one above it that has one."""
    for directory in (start, *start.parents):
        if (directory / DIRECTORY / _FILE).is_file():
            return DevCluster.open(directory / DIRECTORY)
    return None


def free_ports(first: int, count: int, *, but_not: Set[int] = frozenset()) -> list[int]:
    """The lowest free ports of loopback from `first` on."""
    found: list[int] = []
    for port in range(first, min(first + 1000, 65_536)):
        if port not in but_not and _is_free(port):
            found.append(port)
            if len(found) == count:
                return found
    raise ConfigError(f"fewer than {count} free ports from {first} on", advice="stop other programs")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As the node does: connections of an earlier one that still linger are no hindrance.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
