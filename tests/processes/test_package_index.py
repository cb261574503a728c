"""The example that loads a package index: what it reads, what it would find, and a short run of it."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
from click.testing import CliRunner

from examples.package_index import Load, Stanza, main, stanzas_of
from kvstore import AsyncBucket, ConnectError

INDEX = b"""\
Package: tzdata
Version: 2024a-0+deb12u1
Description: time zones
 Package: not a field, a line that goes on

Package: bash
Version: 5.2.15-2+b7
Architecture: amd64

Package: bash
Version: 5.2.15-2+b7
Architecture: arm64
"""


class StubBucket:
    """A bucket that loses, changes or refuses what it is told to."""

    def __init__(self, *, loses: str = "", changes: str = "", refuses: str = "") -> None:
        self.values: dict[str, bytes] = {}
        self._loses, self._changes, self._refuses = loses, changes, refuses

    async def put(self, key: str, value: bytes) -> None:
        if key == self._refuses:
            raise ConnectError("no node could be reached")
        self.values[key] = value + b" " if key == self._changes else value

    async def get(self, key: str, *, r: int) -> bytes | None:
        assert r == 2
        return None if key == self._loses else self.values.get(key)


def load_of(bucket: StubBucket, text: bytes = INDEX) -> Load:
    return Load(text, stanzas_of(text), cast(AsyncBucket[bytes], bucket), 2)


def test_stanzas_keep_every_byte_and_no_key_comes_twice() -> None:
    found = stanzas_of(INDEX)
    assert [stanza.key for stanza in found] == [
        "tzdata=2024a-0+deb12u1",
        "bash=5.2.15-2+b7",
        "bash=5.2.15-2+b7#2",
    ]
    assert b"\n\n".join(INDEX[s.start : s.end] for s in found) == INDEX
    assert stanzas_of(b"") == stanzas_of(b"\n\n\n") == []


def test_a_stanza_without_a_name_is_refused_with_its_place() -> None:
    with pytest.raises(ValueError, match="byte 23 has no field Version"):
        stanzas_of(b"Package: a\nVersion: 1\n\nPackage: b\n")


async def test_a_sound_store_shows_no_difference() -> None:
    halves: list[Stanza] = []
    load = load_of(StubBucket())

    async def half_way() -> None:
        halves.append(Stanza("", 0, 0))

    written, read = await load.write(half_way), await load.compare()
    assert (written.operations, written.failures, read.operations, read.differences) == (3, 0, 3, 0)
    assert len(halves) == 1


@pytest.mark.parametrize(
    ("bucket", "failures", "differences"),
    [
        (StubBucket(loses="bash=5.2.15-2+b7"), 0, 1),
        (StubBucket(changes="bash=5.2.15-2+b7#2"), 0, 1),
        (StubBucket(refuses="tzdata=2024a-0+deb12u1"), 1, 1),
    ],
    ids=["lost", "changed", "refused"],
)
async def test_an_unsound_store_is_found_out(bucket: StubBucket, failures: int, differences: int) -> None:
    load = load_of(bucket)
    written, read = await load.write(None), await load.compare()
    assert (written.failures, read.differences) == (failures, differences)
    assert len(read.complaints) == 1


@pytest.mark.processes
@pytest.mark.timeout(120)
def test_a_short_run_with_real_nodes(tmp_path: Path) -> None:
    """Five processes, one killed half way: the whole script, on fewer stanzas."""
    index = tmp_path / "index"
    index.write_bytes(
        b"\n".join(b"Package: p%d\nVersion: 1:%d~rc1\nBody: %s\n" % (n, n, b"x" * n) for n in range(400))
    )
    done = CliRunner().invoke(main, ["--stanzas", str(index)])
    assert done.exit_code == 0, done.output
    assert "killed n3 with SIGKILL" in done.stderr
    assert "started n3 again" in done.stderr
    assert "400 stanzas" in done.stdout
    assert "0 differences, 0 failed operations" in done.stdout


def test_an_empty_index_says_what_to_do(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    done = CliRunner().invoke(main, ["--stanzas", str(empty)])
    assert done.exit_code == 1
    assert "apt-get update" in done.output
