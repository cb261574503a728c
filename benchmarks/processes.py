"""Real node processes on loopback, started for one run and stopped with it."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

START_DEADLINE_S = 60.0


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, all different.

    From below the range that outgoing connections draw from (Linux: 32768 up), so that a node that is down
    finds its port free when it comes back.
    """
    found: list[int] = []
    with ExitStack() as stack:
        while len(found) < count:
            s = stack.enter_context(socket.socket())
            with suppress(OSError):
                s.bind(("127.0.0.1", 10_000 + secrets.randbelow(22_000)))
                found.append(s.getsockname()[1])
    return found


class Processes:
    """Children, each with its log and the port that tells when it is ready. Leaving the block stops all."""

    def __init__(self, ready_path: str, ready_statuses: tuple[int, ...]) -> None:
        self._ready_path, self._ready_statuses = ready_path, ready_statuses
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self.starts: dict[int, tuple[list[str], Path, Mapping[str, str], str]] = {}

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children.values():
            child.send_signal(signal.SIGTERM)
            child.send_signal(signal.SIGCONT)  # one that is stopped would not hear of it
        for child in self._children.values():
            try:
                child.wait(15)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    @property
    def ports(self) -> list[int]:
        return list(self._children)

    def start(
        self,
        port: int,
        arguments: list[str],
        log: Path,
        environment: Mapping[str, str],
        program: str = sys.executable,
    ) -> None:
        """Run `program` with `arguments`; the child is known by its HTTP port."""
        self.starts[port] = (arguments, log, environment, program)
        self._children[port] = _started(arguments, log, environment, program)

    def restart(self, port: int, **more: str) -> None:
        """Start again, in the same way but for what is `more` in its environment, a child that has ended."""
        assert self.ended(port) is not None, "still running"
        arguments, log, environment, program = self.starts[port]
        self.start(port, arguments, log, {**environment, **more}, program)

    @contextmanager
    def beside(
        self, arguments: list[str], log: Path, environment: Mapping[str, str]
    ) -> Iterator[subprocess.Popen[bytes]]:
        """One more, for the time of the block."""
        child = _started(arguments, log, environment)
        try:
            yield child
        finally:
            child.kill()
            child.wait()

    def stop(self, *ports: int) -> None:
        """SIGTERM to all of them; returns when they have ended."""
        for port in ports:
            self._children[port].send_signal(signal.SIGTERM)
        for port in ports:
            self._children[port].wait(60)

    def kill(self, port: int) -> None:
        """SIGKILL, at once; returns when the process is gone."""
        self._children[port].kill()
        self._children[port].wait()

    def send(self, port: int, number: signal.Signals) -> None:
        self._children[port].send_signal(number)

    def pid(self, port: int) -> int:
        return self._children[port].pid

    def log(self, port: int) -> Path:
        return self.starts[port][1]

    def ended(self, port: int) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._children[port].poll()

    def cpu_s(self) -> float:
        """Processor time that the children have taken so far; 0 where there is no /proc."""
        return self.cpu_s_of(*self._children)

    def cpu_s_of(self, *ports: int) -> float:
        ticks = 0
        for child in [self._children[port] for port in ports]:
            with suppress(FileNotFoundError):
                # The name before the bracket may hold spaces; after it, fields 14 and 15 are user and system.
                after_name = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
                ticks += int(after_name[11]) + int(after_name[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def resident_bytes(self) -> list[int]:
        """Memory that each child holds (VmRSS), in the order of their start."""
        found = []
        for child in self._children.values():
            status = Path(f"/proc/{child.pid}/status").read_text()
            found.append(int(status.partition("VmRSS:")[2].split()[0]) * 1024)
        return found

    def wait_ready(self, *ports: int) -> None:
        """All, or those named. Raises SystemExit with the end of the log of one that did not get ready."""
        deadline = time.monotonic() + START_DEADLINE_S
        for port in ports or self._children:
            child = self._children[port]
            while not self._ready(port):
                if child.poll() is not None or time.monotonic() > deadline:
                    tail = "\n".join(self.starts[port][1].read_text(errors="replace").splitlines()[-20:])
                    raise SystemExit(f"the node on port {port} is not ready; the end of its log:\n{tail}")
                time.sleep(0.1)

    def _ready(self, port: int) -> bool:
        url = f"http://127.0.0.1:{port}{self._ready_path}"
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                status: int = answer.status
        except urllib.error.HTTPError as error:
            status = error.code
            error.close()
        except OSError:
            return False
        return status in self._ready_statuses


def start_floor(data_dir: Path, *, durability: str) -> Processes:
    """The three nodes of benchmarks/floor.py."""
    http_ports, peer_ports = free_ports(3), free_ports(3)
    nodes = Processes("/kv/ready", (404,))
    for index, port in enumerate(http_ports):
        arguments = ["-m", "benchmarks.floor", str(index), str(data_dir)]
        arguments += ["--http-ports", ",".join(map(str, http_ports))]
        arguments += ["--peer-ports", ",".join(map(str, peer_ports))]
        if durability == "async":
            arguments.append("--async")
        nodes.start(port, arguments, data_dir / f"floor{index}.log", {})
    return nodes


def start_etcd(data_dir: Path, *, program: str = "etcd") -> Processes:
    """Three nodes of etcd with its defaults, an fsync before each acknowledgement among them."""
    ports = free_ports(6)
    client_ports, peer_ports = ports[:3], ports[3:]
    members = ",".join(f"e{i}=http://127.0.0.1:{port}" for i, port in enumerate(peer_ports))
    nodes = Processes("/health", (200,))
    for i, (client_port, peer_port) in enumerate(zip(client_ports, peer_ports, strict=True)):
        client, peer = f"http://127.0.0.1:{client_port}", f"http://127.0.0.1:{peer_port}"
        arguments = ["--name", f"e{i}", "--data-dir", str(data_dir / f"etcd{i}"), "--enable-v2=true"]
        arguments += ["--listen-client-urls", client, "--advertise-client-urls", client]
        arguments += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        arguments += ["--initial-cluster", members, "--initial-cluster-state", "new", "--log-level", "error"]
        nodes.start(client_port, arguments, data_dir / f"etcd{i}.log", {}, program)
    return nodes


def start_cluster(
    data_dir: Path, *, nodes: int = 3, durability: str = "sync", programs: Sequence[list[str]] = ()
) -> Processes:
    """A cluster of kvstore with its defaults, N=3 R=2 W=2. `programs`: what each node runs instead."""
    ports = free_ports(2 * nodes)
    http_ports, rpc_ports = ports[:nodes], ports[nodes:]
    cluster_key = secrets.token_hex(32)
    cluster = Processes("/readyz", (200,))
    for index, (http_port, rpc_port) in enumerate(zip(http_ports, rpc_ports, strict=True)):
        settings = {
            "KVSTORE_NAME": f"n{index + 1}",
            "KVSTORE_HOST": f"n{index + 1}",  # one machine, but the copies must be on different nodes anyway
            "KVSTORE_DATA_DIR": str(data_dir / f"n{index + 1}"),
            "KVSTORE_HTTP_LISTEN": f"127.0.0.1:{http_port}",
            "KVSTORE_RPC_LISTEN": f"127.0.0.1:{rpc_port}",
            "KVSTORE_SEEDS": ",".join(f"127.0.0.1:{port}" for port in rpc_ports),
            "KVSTORE_BOOTSTRAP_EXPECT": str(nodes),
            "KVSTORE_CLUSTER_KEY": cluster_key,
            "KVSTORE_DURABILITY": durability,
            "KVSTORE_LOG_FORMAT": "json",
        }
        program = programs[index] if programs else ["-m", "kvstore", "serve"]
        cluster.start(http_port, program, data_dir / f"n{index + 1}.log", settings)
    return cluster


def start_host(data_dir: Path, *, nodes: int) -> tuple[Processes, list[int]]:
    """Nodes of one host under one `kvstore serve --processes`, N=nodes; and their HTTP ports."""
    while True:
        (first,) = free_ports(1)
        ports = range(first, first + 2 * nodes)
        if all(map(_is_free, ports)):
            break
    arguments = ["-m", "kvstore", "serve", "--processes", str(nodes), "--n", str(nodes)]
    arguments += [
        "--name",
        "m",
        "--data-dir",
        str(data_dir / f"host{nodes}"),
        "--bootstrap-expect",
        str(nodes),
    ]
    arguments += ["--http-listen", f"127.0.0.1:{ports[0]}", "--rpc-listen", f"127.0.0.1:{ports[nodes]}"]
    host = Processes("/readyz", (200,))
    settings = {"KVSTORE_CLUSTER_KEY": secrets.token_hex(32), "KVSTORE_LOG_FORMAT": "json"}
    host.start(ports[0], arguments, data_dir / f"host{nodes}.log", settings)
    return host, list(ports[:nodes])


def _is_free(port: int) -> bool:
    with socket.socket() as probe, suppress(OSError):
        probe.bind(("127.0.0.1", port))
        return True
    return False


def _started(
    arguments: list[str], log: Path, environment: Mapping[str, str], program: str = sys.executable
) -> subprocess.Popen[bytes]:
    with log.open("ab") as out:
        return subprocess.Popen(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**_without_settings(), **environment},
        )


def _without_settings() -> dict[str, str]:
    """The environment, but for settings of the user's own nodes."""
    return {name: value for name, value in os.environ.items() if not name.startswith("KVSTORE_")}
