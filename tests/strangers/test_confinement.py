"""How deploy/ confines a node, by its files; tests/compose asks the engine and the kernel."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

DEPLOY = Path(__file__).parent.parent.parent / "deploy"


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml", reason="no YAML library: it comes with 'quorum-kvstore[security]'")
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "docker-compose.yml").read_text())["services"]
    return found


@pytest.mark.slow
def test_every_service_is_confined(services: dict[str, Any]) -> None:
    assert len(services) == 5
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert service["pids_limit"] <= 256, name
        assert service["mem_limit"], name
        assert not {"privileged", "cap_add", "network_mode", "pid", "devices", "user"} & service.keys(), name
        assert all("noexec" in mount and "nosuid" in mount for mount in service["tmpfs"]), name
        assert [port.split(":")[0] for port in service["ports"]] == ["127.0.0.1"], name
        assert [volume.split(":") for volume in service["volumes"]] == [[name, "/var/lib/kvstore"]]


@pytest.mark.slow
def test_no_secret_has_a_default(services: dict[str, Any]) -> None:
    for service in services.values():
        for variable in ("KVSTORE_CLUSTER_KEY", "KVSTORE_CLIENT_TOKEN"):
            assert service["environment"][variable].startswith(f"${{{variable}:?")


def test_the_image_runs_as_nobody_in_particular() -> None:
    """The last stage, which is what ships: a user without a shell, and no step as root after it."""
    stage = (DEPLOY / "Dockerfile").read_text().rpartition("\nFROM ")[2]
    steps = re.findall(r"^([A-Z]+) (.*)$", stage, re.MULTILINE)
    users = [value for step, value in steps if step == "USER"]
    assert users == ["10001:10001"]
    after = [step for step, _ in steps[[s for s, _ in steps].index("USER") :]]
    assert not {"RUN", "COPY", "ADD"} & set(after)
    assert "--shell /usr/sbin/nologin" in stage
    assert not re.search(r"(KEY|TOKEN|SECRET|PASSWORD)=", stage)
