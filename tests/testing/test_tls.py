"""TLS to clients and mutual TLS between nodes: who gets in, who does not, and certificates that change."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import trustme

from kvstore import AsyncClient, Client, ConnectError, Policy, Unavailable
from kvstore.config import load
from kvstore.errors import ConfigError
from kvstore.rpc.peer_server import STRANGERS_MAX
from kvstore.server import NodeServer, memory_storage
from kvstore.testing import LocalCluster

DEADLINE_S = 10.0
KEY = "8f1c" + "0a1b2c3d4e5f60718293a4b5c6d7e8f9" + "00112233445566778899aabbccdd"

WITH_PASSPHRASE = """\
-----BEGIN ENCRYPTED PRIVATE KEY-----
MIHsMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAiirWM78EH81AICCAAw
DAYIKoZIhvcNAgkFADAdBglghkgBZQMEASoEEGSO2PFYQ789IrP6AMUox8gEgZCu
3ApqfLiEch/CFHOBz58+klU+Iit62deoZg6UShqow8awsJhQr/IRq026moOYhdie
//Fc6X5bIJei3aR5OkgTjQ2qbekUyGg3DFhzR7WF+jCjPfyU0iPkGE3xOZvj4L7s
ZxcDqlf1q1EuqJ1OWJZP6fjs9qMVUeFaoDD6YgDTq6GiB3TlhTLrT9M2RqjA3r8=
-----END ENCRYPTED PRIVATE KEY-----
"""


class Files:
    """A CA, and one certificate of it for all nodes, in files that may be written again."""

    def __init__(self, folder: Path, ca: trustme.CA | None = None) -> None:
        folder.mkdir(exist_ok=True)
        self.ca = ca or trustme.CA()
        self.certificate, self.key, self.trusted = folder / "node.pem", folder / "node.key", folder / "ca.pem"
        self.serial = 0
        self.issue()
        self.ca.cert_pem.write_to_path(self.trusted)

    def issue(self) -> None:
        """A new certificate; each file is replaced at once."""
        issued = self.ca.issue_cert("127.0.0.1", "localhost")
        for file, blobs in (
            (self.key, [issued.private_key_pem]),
            (self.certificate, issued.cert_chain_pems),
        ):
            beside = file.with_suffix(".new")
            beside.write_bytes(b"".join(blob.bytes() for blob in blobs))
            beside.replace(file)

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "http_certificate_file": self.certificate, "http_key_file": self.key,
            "rpc_certificate_file": self.certificate, "rpc_key_file": self.key, "rpc_ca_file": self.trusted,
        }  # fmt: skip

    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.trusted)


async def until(condition: Callable[[], Any], what: str) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.01)
    assert condition(), what


async def shown(cluster: LocalCluster, name: str, trust: ssl.SSLContext) -> bytes:
    """The certificate, DER, that a node shows to clients that connect now."""
    host, port = cluster.running[name].http_address.split(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=trust)
    certificate: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return certificate


async def put_and_get(files: Files) -> None:
    async with LocalCluster(nodes=3, **files.settings) as cluster:
        assert all(url.startswith("https://127.0.0.1:") for url in cluster.endpoints)
        async with AsyncClient(cluster.endpoints, ssl=files.trust()) as client:
            users = client.bucket("users")
            receipt = await users.put("ann", b"v" * 100_000, w=3)
            assert receipt.acks == 3
            assert await users.get("ann", r=3) == b"v" * 100_000
            await cluster.stop("n3")
            await cluster.start("n3")
            await cluster.ready()
            await until(lambda: len(cluster.running["n3"].node.readiness()) > 0, "it serves")
            assert await users.get("ann") == b"v" * 100_000


async def test_a_cluster_with_tls_everywhere(tmp_path: Path) -> None:
    await put_and_get(Files(tmp_path))


def test_the_same_under_uvloop(tmp_path: Path) -> None:
    uvloop = pytest.importorskip("uvloop")
    scenario: Callable[[], Coroutine[Any, Any, None]] = lambda: put_and_get(Files(tmp_path))  # noqa: E731
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())


async def test_who_does_not_trust_the_ca_or_speaks_plainly_gets_nothing(tmp_path: Path) -> None:
    files = Files(tmp_path)
    async with LocalCluster(nodes=1, **files.settings) as cluster:
        (url,) = cluster.endpoints
        once = Policy(attempts_max=1)
        async with AsyncClient(url, timeout_s=DEADLINE_S, policy=once) as stranger:
            with pytest.raises(ConnectError):
                await stranger.bucket("users").get("ann")
        async with AsyncClient(url.replace("https", "http"), timeout_s=DEADLINE_S, policy=once) as plain:
            with pytest.raises(Unavailable):
                await plain.bucket("users").get("ann")

        def in_a_thread() -> bytes | None:
            with Client(url, ssl=files.trust()) as client:
                client.bucket("users").put("ann", b"v")
                return client.bucket("users").get("ann")

        assert await asyncio.to_thread(in_a_thread) == b"v"


async def test_a_node_with_a_certificate_of_another_ca_is_no_peer_even_with_the_cluster_key(
    tmp_path: Path,
) -> None:
    ours, theirs = Files(tmp_path / "a"), Files(tmp_path / "b")
    async with LocalCluster(nodes=3, cluster_key=KEY, **ours.settings) as cluster:
        known = cluster.running["n1"]
        seed = known.rpc_address

        def stranger(**tls: Any) -> NodeServer:
            place = {"http_listen": "127.0.0.1:0", "rpc_listen": "127.0.0.1:0", "data_dir": tmp_path / "x"}
            given = {"name": "x", "seeds": [seed], "cluster_key": KEY, **place, **tls}
            return NodeServer(load(given), storage=memory_storage())

        def refused(me: NodeServer) -> str:
            link = me._peers._seeds.get(seed)
            return link._why if link is not None else ""

        for tls, comes_in in (
            ({}, False),
            (theirs.settings, False),
            ({**theirs.settings, "rpc_ca_file": ours.trusted}, False),
            (ours.settings, True),
        ):
            server = stranger(**tls)
            await server.start()

            def meets(running: NodeServer, me: NodeServer = server) -> bool:
                return me.node.view.me.node_id in running._peer_server.peers()

            if comes_in:
                await until(lambda: any(map(meets, cluster.running.values())), "a node of the CA is heard")
            else:
                await until(partial(refused, server), "it was refused")
                assert not any(map(meets, cluster.running.values()))
            await server.stop()


async def test_failed_handshakes_leave_room_for_peers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connections of which TLS makes nothing count as strangers only until TLS gave up."""
    files = Files(tmp_path)
    async with LocalCluster(nodes=2, connect_timeout_s=0.2, **files.settings) as cluster:
        server = cluster.running["n1"]._peer_server
        host, port = cluster.running["n1"].rpc_address.split(":")
        peers = len(server.peers())
        for _ in range(2):
            writers = [(await asyncio.open_connection(host, int(port)))[1] for _ in range(STRANGERS_MAX // 2)]
            for number, writer in enumerate(writers):
                writer.write(b"GET / HTTP/1.1\r\n\r\n" if number % 2 else b"")
            await until(lambda: len(server._sessions) <= peers, "they are forgotten")
            for writer in writers:
                writer.transport.abort()
        await cluster.stop("n2")
        await cluster.start("n2")
        await cluster.ready()


async def test_a_connection_too_many_is_told_so_through_tls(tmp_path: Path) -> None:
    files = Files(tmp_path)
    async with LocalCluster(nodes=1, connections_max=1, **files.settings) as cluster:
        host, port = cluster.running["n1"].http_address.split(":")
        trust = files.trust()
        request = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
        writers = []
        for status in (b"200", b"503"):
            reader, writer = await asyncio.open_connection(host, int(port), ssl=trust)
            writers.append(writer)
            writer.write(request)
            async with asyncio.timeout(DEADLINE_S):
                assert (await reader.readline()).split()[1] == status
        for writer in writers:
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()


async def test_the_command_line_trusts_what_openssl_is_told_to_trust(tmp_path: Path) -> None:
    files = Files(tmp_path)
    async with LocalCluster(nodes=1, **files.settings) as cluster:
        (url,) = cluster.endpoints

        async def typed(*arguments: str, **environment: str) -> tuple[int | None, bytes]:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "kvstore", *arguments),
                env={**os.environ, "KVSTORE_NODES": url, **environment},
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            said, _ = await process.communicate()
            return process.returncode, said

        trusting = {"SSL_CERT_FILE": str(files.trusted)}
        assert (await typed("put", "users", "ann", "v", **trusting))[0] == 0
        assert await typed("get", "users", "ann", **trusting) == (0, b"v")
        assert (await typed("status", **trusting))[0] == 0
        assert (await typed("get", "users", "ann"))[0] == 5
        own = {"KVSTORE_HTTP_LISTEN": url.removeprefix("https://"), "KVSTORE_HTTP_CERTIFICATE_FILE": "x"}
        assert await typed("healthcheck", **own) == (0, b"ready\n")


# --- reload ---------------------------------------------------------------------------------------------


async def test_certificates_change_while_nodes_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvstore.server.RELOAD_S", 0.02)
    files = Files(tmp_path)
    async with (
        LocalCluster(nodes=3, **files.settings) as cluster,
        AsyncClient(cluster.endpoints, ssl=files.trust()) as client,
    ):
        users, trust = client.bucket("users"), files.trust()
        await users.put("ann", b"1", w=3)
        first = await shown(cluster, "n1", trust)
        files.issue()
        async with asyncio.timeout(DEADLINE_S):
            while await shown(cluster, "n1", trust) == first:
                await asyncio.sleep(0.01)
        second = await shown(cluster, "n1", trust)
        assert await users.get("ann") == b"1", "connections that are open go on"
        await cluster.stop("n3")
        await cluster.start("n3")
        await cluster.ready()
        assert (await users.put("ann", b"2", w=3)).acks == 3, "peers meet with the new ones"

        reports: list[str] = []
        monkeypatch.setattr(cluster.running["n1"], "_report", lambda event, **_: reports.append(event))
        files.certificate.write_text("no certificate")
        await until(lambda: "certificates not reloaded" in reports, "it is told")
        assert await shown(cluster, "n1", trust) == second, "a wrong file changes nothing"
        files.issue()
        async with asyncio.timeout(DEADLINE_S):
            while await shown(cluster, "n1", trust) == second:
                await asyncio.sleep(0.01)


# --- settings -------------------------------------------------------------------------------------------


def refusal(**settings: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load({"data_dir": "/nowhere/data", "cluster_key": KEY, **settings})
    return caught.value


@pytest.mark.parametrize("left_out", ["http_key_file", "rpc_ca_file", "rpc_certificate_file"])
def test_half_of_what_tls_takes_is_refused(tmp_path: Path, left_out: str) -> None:
    settings = {key: value for key, value in Files(tmp_path).settings.items() if key != left_out}
    assert f"without {left_out}" in refusal(**settings).detail


def test_files_that_are_no_certificates_are_refused_by_name(tmp_path: Path) -> None:
    files, other = Files(tmp_path / "a"), Files(tmp_path / "b")
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("garbage")
    for changed, words in (
        ({"http_certificate_file": garbage}, "are no certificate with its key"),
        ({"http_key_file": other.key}, "are no certificate with its key"),
        ({"rpc_ca_file": garbage}, "holds no CA certificates"),
        ({"rpc_key_file": tmp_path / "nowhere"}, "No such file"),
    ):
        error = refusal(**{**files.settings, **changed})
        assert words in error.detail
        assert str(next(iter(changed.values()))) in error.detail


def test_a_key_with_a_passphrase_asks_nobody(tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.key.write_text(WITH_PASSPHRASE)
    assert "the key has a passphrase" in refusal(**files.settings).detail


def test_open_addresses_without_tls_are_pointed_out(tmp_path: Path) -> None:
    settings = {
        "data_dir": "/nowhere/data", "cluster_key": KEY, "client_token": "t" * 20,
        "seeds": "192.0.2.2:9001", "http_listen": "192.0.2.1:8001", "rpc_listen": "192.0.2.1:9001",
    }  # fmt: skip
    warnings = load(settings).warnings
    assert [w.rpartition(" ")[2] for w in warnings] == ["http_certificate_file", "rpc_certificate_file"]
    files = Files(tmp_path)
    files.key.chmod(0o600)
    assert load({**settings, **files.settings}).warnings == ()


async def test_connections_that_never_begin_tls_are_bounded_too(tmp_path: Path) -> None:
    """Their descriptors are the node's. One too many is closed at once, before a handshake costs anything."""
    files, most, asked = Files(tmp_path), 8, 60
    async with LocalCluster(nodes=1, connections_max=most, **files.settings) as cluster:
        host, port = cluster.running["n1"].http_address.split(":")
        streams = [await asyncio.open_connection(host, int(port)) for _ in range(asked)]
        ends = [asyncio.ensure_future(reader.read()) for reader, _ in streams]
        await until(lambda: sum(end.done() for end in ends) == asked - most, "all but those are closed")
        for _, writer in streams:
            writer.transport.abort()
        await asyncio.gather(*ends, return_exceptions=True)
        async with AsyncClient(cluster.endpoints, ssl=files.trust()) as client:
            await client.bucket("users").put("ann", b"v")


async def test_a_request_that_comes_with_the_end_of_the_handshake_is_answered(tmp_path: Path) -> None:
    files = Files(tmp_path)
    async with LocalCluster(nodes=1, **files.settings) as cluster:
        host, port = cluster.running["n1"].http_address.split(":")
        for _ in range(20):
            reader, writer = await asyncio.open_connection(host, int(port), ssl=files.trust())
            writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            async with asyncio.timeout(DEADLINE_S):
                assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
            writer.transport.abort()


async def test_a_node_without_descriptors_does_not_spin_and_takes_clients_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B17: the kernel says at every turn that somebody waits; a look that cannot help is not repeated."""
    monkeypatch.setattr("kvstore.httpapi.tls_door._EXHAUSTED_S", 0.1)
    files = Files(tmp_path)
    async with LocalCluster(nodes=1, **files.settings) as cluster:
        door = cluster.running["n1"]._http._door
        assert door is not None
        looks, arrive = 0, door._arrive

        class Exhausted:
            def __init__(self, bound: socket.socket) -> None:
                self.fileno, self._bound, self.over = bound.fileno, bound, False

            def accept(self) -> tuple[socket.socket, Any]:
                nonlocal looks
                looks += 1
                if not self.over:
                    raise OSError(errno.EMFILE, "Too many open files")
                return self._bound.accept()

        (bound,) = door._listening
        exhausted = cast(Any, Exhausted(bound))
        door._listening.append(exhausted)
        asyncio.get_running_loop().add_reader(bound.fileno(), arrive, exhausted)
        async with AsyncClient(cluster.endpoints, ssl=files.trust(), connect_timeout_s=5.0) as client:
            going = asyncio.ensure_future(client.cluster())
            await until(lambda: looks, "somebody waits")
            assert looks < 3
            exhausted.over = True
            await going
        door._listening.pop()
