"""What the node describes is what it does: requests made of /openapi.json against three real nodes."""

from __future__ import annotations

import asyncio
import re
import shutil
from pathlib import Path

import pytest

from kvstore.testing import LocalCluster

TOKEN = "a-token-for-this-test-only"
EXAMPLES = 100  # per operation, beside those that cover each parameter
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "ignored_auth",
)

SETS_A_FLOOR = "/v1/degradation"
"""By itself and last: told to refuse writes, a node is right to answer 503 from then on."""

SETTINGS = """
[parameters]  # a request that has 1 ms is answered by 503 or 504, and rightly so
timeout = "5s"
"KV-Timeout-Ms" = "5000"
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_schemathesis_finds_no_server_error_and_no_mismatch(tmp_path: Path) -> None:
    program = shutil.which("schemathesis")
    if program is None:
        pytest.skip(
            "schemathesis is not installed: pip install 'quorum-kvstore[security]', as `make strangers` does"
        )
    settings = tmp_path / "schemathesis.toml"
    settings.write_text(SETTINGS)
    tested = passed = 0
    async with LocalCluster(nodes=3, client_token=TOKEN) as cluster:
        for which in ("--exclude-path", "--include-path"):
            process = await asyncio.create_subprocess_exec(
                program, "--config-file", str(settings), "run", f"{cluster.endpoints[0]}/openapi.json",
                "-H", f"Authorization: Bearer {TOKEN}", "--checks", ",".join(CHECKS), "--seed", "20251125",
                "--max-examples", str(EXAMPLES), "--phases", "examples,coverage,fuzzing", "--no-color",
                which, SETS_A_FLOOR,
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=tmp_path,
            )  # fmt: skip
            said = (await process.communicate())[0].decode()
            print(f"\n{said[said.find('= SUMMARY =') :]}")
            assert process.returncode == 0, said
            operations = re.search(r"Tested: (\d+)", said)
            made = re.search(r"(\d+) generated, (\d+) passed", said)
            assert operations is not None
            assert made is not None
            tested += int(operations[1])
            passed += int(made[2])
    assert tested >= 22
    assert passed > 2000
