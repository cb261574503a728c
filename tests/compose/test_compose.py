"""The containers as a user starts them: they serve, they survive the loss of one, and they are confined."""

from __future__ import annotations

import asyncio
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from kvstore import AsyncClient
from tests.compose.stack import NAMES, ROOT, Stack, docker, why_not

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

BUCKET = "compose"
KEYS = 200
BACK_S = 60.0


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """REQUIRE_DOCKER=1 makes a missing engine a failure: for machines that are known to have one."""
    reason = why_not()
    if reason and os.environ.get("REQUIRE_DOCKER") != "1":
        pytest.skip(reason)
    assert not reason, reason
    made = Stack(tmp_path_factory.mktemp("compose"))
    try:
        started = time.monotonic()
        made.start()
        print(f"\nbuilt, started and healthy after {time.monotonic() - started:.0f} s")
        yield made
    finally:
        made.remove()


def is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.HTTPError):
        return False


async def put_all(client: AsyncClient, prefix: str) -> None:
    """Raises what the first failing operation raises."""
    bucket = client.bucket(BUCKET)
    for number in range(KEYS):
        await bucket.put(f"{prefix}-{number}", f"{prefix} {number}".encode())


async def read_all(client: AsyncClient, prefix: str) -> None:
    bucket = client.bucket(BUCKET)
    for number in range(KEYS):
        assert await bucket.get(f"{prefix}-{number}", r=2) == f"{prefix} {number}".encode()


async def test_one_container_killed_loses_nothing_and_comes_back(stack: Stack) -> None:
    token = stack.secrets["KVSTORE_CLIENT_TOKEN"]
    async with AsyncClient(stack.urls.values(), token=token) as client:
        await put_all(client, "before")
        await read_all(client, "before")

        docker("kill", "--signal", "KILL", stack.container("n3"))
        assert stack.inspect("n3")["State"]["ExitCode"] == 137
        assert not is_ready(stack.urls["n3"])
        await put_all(client, "without")
        await read_all(client, "without")
        await read_all(client, "before")

    docker("start", stack.container("n3"))
    deadline = time.monotonic() + BACK_S
    while not is_ready(stack.urls["n3"]):
        assert time.monotonic() < deadline, stack.compose("logs", "--tail=20", "n3").stdout
        await asyncio.sleep(0.1)
    async with AsyncClient(stack.urls["n3"], token=token, follow_layout=False) as through_n3:
        await read_all(through_n3, "before")
        await read_all(through_n3, "without")
        await put_all(through_n3, "after")
        receipt = (await through_n3.bucket(BUCKET).fetch("after-0")).receipt
        assert receipt.acks >= 2
    stack.compose("wait-healthy", "60")


@pytest.mark.parametrize("name", NAMES)
def test_containers_are_confined(stack: Stack, name: str) -> None:
    described = stack.inspect(name)
    assert described["HostConfig"]["ReadonlyRootfs"] is True
    assert described["HostConfig"]["Privileged"] is False
    status = docker("exec", stack.container(name), "cat", "/proc/1/status").stdout.splitlines()
    fields = dict(line.split(":\t", 1) for line in status if ":\t" in line)
    assert fields["Uid"].split() == ["10001"] * 4
    assert fields["Gid"].split() == ["10001"] * 4
    assert {fields[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert fields["NoNewPrivs"] == "1"
    writing = docker("exec", stack.container(name), "sh", "-c", "echo x > /opt/kvstore/x", check=False)
    assert writing.returncode != 0
    assert "Read-only file system" in writing.stderr


@pytest.mark.parametrize("name", NAMES)
def test_ports_are_published_on_loopback_only(stack: Stack, name: str) -> None:
    bindings = stack.inspect(name)["HostConfig"]["PortBindings"]
    port = stack.urls[name].rpartition(":")[2]
    assert bindings == {"8001/tcp": [{"HostIp": "127.0.0.1", "HostPort": port}]}


def test_clients_without_the_token_are_refused(stack: Stack) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{stack.urls['n1']}/v1/kv/{BUCKET}/before-0", timeout=5)
    refused.value.close()
    assert refused.value.code == 401


def test_secrets_are_made_once_and_are_in_no_layer_of_the_image(stack: Stack) -> None:
    made = stack.secrets
    assert stack.secrets_mode == 0o600
    assert len(set(made.values())) == 2
    stack.compose("ps")
    assert stack.secrets == made
    image = stack.inspect("n1")["Image"]
    told = docker("image", "inspect", image).stdout + docker("history", "--no-trunc", image).stdout
    assert all(value not in told for value in made.values())


def test_without_secrets_it_says_which_one_is_missing(stack: Stack) -> None:
    """As somebody who calls compose directly sees it."""
    refused = stack.compose_without_secrets("config")
    assert refused.returncode != 0
    assert "KVSTORE_C" in refused.stderr
    assert "make compose-up" in refused.stderr


def test_every_container_has_its_zone(stack: Stack) -> None:
    zones = {}
    for name in NAMES:
        settings = dict(entry.split("=", 1) for entry in stack.inspect(name)["Config"]["Env"])
        zones[settings["KVSTORE_NAME"]] = settings["KVSTORE_ZONE"]
    assert sorted(zones) == list(NAMES)
    assert len(set(zones.values())) == 3


def test_what_is_built_from_is_named_in_no_file_of_secrets() -> None:
    """The build context holds no .env: deny all, then name what goes in."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] not in ("#", "")]
    assert lines[0] == "*"
    assert not [line for line in lines if line.startswith("!") and ".env" in line]
