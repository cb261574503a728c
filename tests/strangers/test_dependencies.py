"""Known vulnerabilities of what is installed beside us, asked of the package index.

OSV_URL names another service of the OSV schema to ask (its /v1/query), for machines that reach no other.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

EXPLAINED = {
    "PYSEC-2023-228": "pip takes options from a Mercurial URL: nothing here is installed from one",
}
"""Id of an advisory -> why it does not concern a node or a client."""


CONTROL = "urllib3==1.26.4"
"""Has known vulnerabilities: a database that finds none in it says nothing about the others."""


def audited(program: str, requirements: list[str]) -> dict[str, list[str]]:
    """Package -> ids of the advisories that concern it. Skips where no database can be reached."""
    options = ["--format", "json", "--progress-spinner", "off", "--no-deps", "--disable-pip"]
    if mirror := os.environ.get("OSV_URL"):
        options += ["--vulnerability-service", "osv", "--osv-url", mirror]
    run = subprocess.run(
        [program, *options, "-r", "/dev/stdin"],
        input="\n".join(requirements),
        capture_output=True,
        text=True,
        check=False,
    )
    if not run.stdout.startswith("{"):
        pytest.skip(
            f"pip-audit reached no database of advisories; OSV_URL may name one: {run.stderr.strip()[-200:]}"
        )
    packages = json.loads(run.stdout)["dependencies"]
    return {
        f"{package['name']}=={package['version']}": [found["id"] for found in package["vulns"]]
        for package in packages
        if "version" in package
    }


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_pip_audit_knows_nothing_that_is_not_explained() -> None:
    program = shutil.which("pip-audit")
    if program is None:
        pytest.skip("no pip-audit: pip install 'quorum-kvstore[security]', as `make strangers` does")
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "list", "--format", "json"], capture_output=True, text=True, check=True
    )
    packages = [p for p in json.loads(listed.stdout) if "editable_project_location" not in p]
    if not audited(program, [CONTROL]).get(CONTROL):
        pytest.skip(f"pip-audit reached no database of advisories: it knows nothing of {CONTROL}")
    advisories = audited(program, [f"{p['name']}=={p['version']}" for p in packages])
    found = {name: ids for name, ids in advisories.items() if set(ids) - set(EXPLAINED)}
    print(f"\npip-audit: {len(advisories)} packages, {len(found)} with findings that are not explained")
    assert len(advisories) > 10
    assert not found
