"""Five containers from deploy/docker-compose.yml under a project name of their own, removed afterwards."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from secrets import token_hex
from typing import Any

from benchmarks.processes import free_ports

ROOT = Path(__file__).parents[2]
NAMES = ("n1", "n2", "n3", "n4", "n5")


def why_not() -> str:
    """What keeps containers from being started here; "" if nothing does."""
    if shutil.which("docker") is None:
        return "no docker command"
    if docker("info", check=False).returncode:
        return "docker is there, but no engine answers"
    if docker("compose", "version", check=False).returncode and shutil.which("docker-compose") is None:
        return "neither docker compose nor docker-compose"
    image = os.environ.get("PYTHON_IMAGE", "python:3.13-slim")
    if docker("image", "inspect", image, check=False).returncode:
        pulled = docker("pull", "--quiet", image, check=False)
        if pulled.returncode:
            return (
                f"the base image {image} cannot be had (PYTHON_IMAGE names another): {pulled.stderr[-200:]}"
            )
    return ""


def docker(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Raises AssertionError with what docker printed."""
    return _run(["docker", *arguments], dict(os.environ), check=check)


class Stack:
    """The containers n1 to n5, published on free ports of 127.0.0.1."""

    def __init__(self, directory: Path) -> None:
        self.project = f"kvstore-test-{token_hex(4)}"
        self._image = f"{self.project}:test"
        self._env_file = directory / "secrets.env"
        ports = free_ports(len(NAMES))
        self.urls = {name: f"http://127.0.0.1:{port}" for name, port in zip(NAMES, ports, strict=True)}
        self._environment = {
            **os.environ,
            "COMPOSE_PROJECT_NAME": self.project,
            "KV_IMAGE": self._image,
            "KV_ENV_FILE": str(self._env_file),
            **{f"KV_PORT_{n.upper()}": str(p) for n, p in zip(NAMES, ports, strict=True)},
        }

    def compose(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """deploy/compose, as the Makefile calls it. Raises AssertionError with what it printed."""
        return _run([str(ROOT / "deploy" / "compose"), *arguments], self._environment, check=check)

    def compose_without_secrets(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """docker compose called directly, with an environment file that has nothing in it."""
        nothing = self._env_file.with_name("nothing.env")
        nothing.touch()
        new = docker("compose", "version", check=False).returncode == 0
        command = [*(("docker", "compose") if new else ("docker-compose",))]
        command += ["--env-file", str(nothing), "-f", str(ROOT / "deploy" / "docker-compose.yml")]
        environment = {k: v for k, v in self._environment.items() if not k.startswith("KVSTORE_")}
        return _run([*command, *arguments], environment, check=False)

    def start(self) -> None:
        self.compose("build", "n1")
        self.compose("up", "-d")
        self.compose("wait-healthy", "120")

    def remove(self) -> None:
        """Containers, volumes, network and image."""
        self.compose("down", "-v", "--remove-orphans", check=False)
        docker("image", "rm", "--force", self._image, check=False)

    @property
    def secrets(self) -> dict[str, str]:
        lines = self._env_file.read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))

    @property
    def secrets_mode(self) -> int:
        return self._env_file.stat().st_mode & 0o777

    def container(self, name: str) -> str:
        """The id of a container, whether it runs or not."""
        label = f"label=com.docker.compose.service={name}"
        listed = docker(
            "ps", "-aq", "--filter", f"label=com.docker.compose.project={self.project}", "--filter", label
        )
        (container,) = listed.stdout.split()
        return container

    def inspect(self, name: str) -> dict[str, Any]:
        (described,) = json.loads(docker("inspect", self.container(name)).stdout)
        assert isinstance(described, dict)
        return described


def _run(command: list[str], environment: dict[str, str], *, check: bool) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if check:
        assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done
