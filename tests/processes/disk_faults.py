"""Disks that fail under real nodes: full, failed syncs and reads made by strace, bits that turned over."""

from __future__ import annotations

import asyncio
import random
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import aiohttp

from kvstore.server import EXIT_DISK_FAILED
from tests.processes.recorder import BUCKET
from tests.processes.rig import Outcome, Rig, acknowledged_by, rig
from tests.processes.scenarios import BACK_S_MAX, HEALED_S_MAX

DISK_MIB = 192  # 64 of them are the reserve below which a node takes no writes
REFUSED_MS_MAX = 50.0
ENDED_S_MAX = 1.0
_UNDER_WAY_S = 0.25
"""An answer that left the node before its sync failed has reached the client by then."""
_INJECTED = "(INJECTED)"


# --- a full disk ----------------------------------------------------------------------------------------


def no_loop_mount() -> str:
    """Why a small ext4 cannot be mounted here; "" if it can."""
    for program in ("mkfs.ext4", "mount", "umount"):
        if not shutil.which(program):
            return f"needs {program}"
    with tempfile.TemporaryDirectory(prefix="kvstore-mount-") as directory:
        try:
            with small_disk(Path(directory) / "disk", Path(directory) / "image"):
                return ""
        except subprocess.CalledProcessError as error:
            return f"cannot mount a loop device: {error.stderr.strip() or error}"


@contextmanager
def small_disk(at: Path, image: Path) -> Iterator[None]:
    """An ext4 of DISK_MIB, mounted at `at` for the time of the block. Raises CalledProcessError."""

    def call(*command: str | Path) -> None:
        subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True, timeout=60)

    at.mkdir(parents=True)
    try:
        with image.open("wb") as file:
            file.truncate(DISK_MIB * 1024 * 1024)
        call("mkfs.ext4", "-q", "-m", "0", image)
        call("mount", "-o", "loop", image, at)
        try:
            yield
        finally:
            with suppress(FileNotFoundError):
                (at / "ballast").unlink()
            try:
                call("umount", at)
            except subprocess.CalledProcessError:
                call("umount", "-l", at)  # whatever still holds it: the mount does not outlive the run
    finally:
        image.unlink(missing_ok=True)


def fill(disk: Path) -> None:
    """To the last block."""
    with (disk / "ballast").open("wb", buffering=0) as ballast, suppress(OSError):
        while ballast.write(bytes(1024 * 1024)):
            pass
    with (disk / "ballast").open("ab", buffering=0) as ballast, suppress(OSError):
        while ballast.write(bytes(1024)):
            pass


async def _probe(run: Rig, node: int, count: int) -> list[tuple[int, float]]:
    """(status, milliseconds) of puts that are sent to this node, of keys that only they write."""
    found = []
    for number in range(count):
        began_s = time.monotonic()
        url = f"{run.urls[node]}/v1/kv/{BUCKET}-probe/k{number}?timeout=2s"
        try:
            async with run.http.put(url, data=b"x" * 100) as answer:
                await answer.read()
                status = answer.status
        except (aiohttp.ClientError, TimeoutError):
            status = 0
        found.append((status, (time.monotonic() - began_s) * 1000))
        await asyncio.sleep(0.01)
    return found


async def disk_full(directory: Path, *, full_s: float = 20.0, p99_ms_max: float = REFUSED_MS_MAX) -> Outcome:
    """One node's disk fills up to the last block under load; then there is room again, twice.

    The first time the node just goes on; the second time it is killed while the disk is full.
    """
    disk = directory / "n1"
    with small_disk(disk, directory / "n1.img"):
        async with rig("disk full", directory) as run:
            run.recorder.start()
            await asyncio.sleep(1.0)
            await asyncio.to_thread(fill, disk)
            run.confirm(shutil.disk_usage(disk).free < 65536, "n1 has no block left")
            since_s = run.now_s
            probes = await _probe(run, 0, 100)
            await asyncio.sleep(max(0.0, since_s + full_s - run.now_s))
            during = run.started_between(since_s, run.now_s)
            (disk / "ballast").unlink()
            took = await _until_takes(run, 0)
            await asyncio.sleep(1.0)
            # Once more, and now it is killed on its full disk.
            await asyncio.to_thread(fill, disk)
            run.confirm(shutil.disk_usage(disk).free < 65536, "n1 has no block left, again")
            await asyncio.sleep(1.0)
            await run.kill(0)
            said = await _start_fails(run, 0)
            (disk / "ballast").unlink()
            back_s = await run.restart(0)
            took_again = await _until_takes(run, 0)
            outcome = await run.finish(converged_s_max=HEALED_S_MAX)
            ms = sorted(ms for _, ms in probes)
            statuses = sorted({status for status, _ in probes})
            outcome.figures["answers to puts sent to the full node"] = ", ".join(
                f"{sum(s == status for s, _ in probes)} x {status}" for status in statuses
            )
            if not set(statuses) <= {204, 507}:
                outcome.violations.append(f"a full node answered {statuses}")
            outcome.figures["such a put, median and worst"] = f"{ms[len(ms) // 2]:.1f} ms, {ms[-1]:.1f} ms"
            outcome.bound("such a put, p99", ms[len(ms) * 99 // 100 - 1], p99_ms_max, "ms")
            reads = [op for op in during if op.kind.value == "get" and op.node == "n1" and not op.error]
            outcome.figures["reads answered by the full node"] = str(len(reads))
            if not reads:
                outcome.invalid.append("the full node coordinated no read")
            outcome.bound("writes again, without a restart, after", took, BACK_S_MAX, "s")
            outcome.figures["a start on the full disk says"] = said
            outcome.bound("serves again, started with room, after", back_s, BACK_S_MAX, "s")
            outcome.bound("writes again after that, after", took_again, BACK_S_MAX, "s")
            return outcome


async def _until_takes(run: Rig, node: int) -> float:
    """Seconds until the node has on its own disk what is put to it."""
    began_s, number = time.monotonic(), 0
    while time.monotonic() - began_s < 30.0:
        number += 1
        key = f"t{time.monotonic_ns()}"
        url = f"{run.urls[node]}/v1/kv/{BUCKET}-probe/{key}"
        with suppress(aiohttp.ClientError, TimeoutError):
            async with run.http.put(url, data=b"x") as answer:
                await answer.read()
                taken = answer.status == 204
            found = await run.document(node, f"/v1/explain/{BUCKET}-probe/{key}") if taken else {}
            held = [h["answer"] for h in found.get("homes", ()) if h["name"] == f"n{node + 1}"]
            if held == ["state"]:
                return time.monotonic() - began_s
        await asyncio.sleep(0.02)
    return float("inf")


async def _start_fails(run: Rig, node: int) -> str:
    """What a node says that does not start, in its last line; or that it did start, which is no fault."""
    port = run.cluster.ports[node]
    run.cluster.restart(port)
    try:
        await asyncio.wait_for(asyncio.to_thread(_ended_or_ready, run, port), 20.0)
    except TimeoutError:
        run.outcome.violations.append(f"n{node + 1} neither started nor ended")
    if run.cluster.ended(port) is None:
        await run.kill(node)
        return "serves"
    return _last_line(run.cluster.log(port))


def _ended_or_ready(run: Rig, port: int) -> None:
    with suppress(SystemExit):
        run.cluster.wait_ready(port)


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


# --- strace ---------------------------------------------------------------------------------------------


def no_strace() -> str:
    """Why strace cannot inject here; "" if it can."""
    if not shutil.which("strace"):
        return "needs strace"
    probe = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "inject=fdatasync:error=EIO", "true"]
    done = subprocess.run(probe, capture_output=True, text=True, timeout=20)
    return f"strace may not trace here: {done.stderr.strip()}" if done.returncode else ""


class Injection:
    """What strace did so far, by its own account."""

    def __init__(self, log: Path) -> None:
        self._log = log

    @property
    def lines(self) -> list[str]:
        return [line for line in self._log.read_text(errors="replace").splitlines() if _INJECTED in line]

    def first_s(self, loop_minus_wall_s: float) -> float:
        """When the first one hit, on the loop's clock."""
        return float(self.lines[0].split()[1]) + loop_minus_wall_s


@asynccontextmanager
async def injected(run: Rig, node: int, calls: str, when: str, *paths: Path) -> AsyncIterator[Injection]:
    """In the block, these system calls of a node's process fail with EIO when strace counts to `when`."""
    log = run.directory / f"strace-{node}-{calls.replace(',', '-')}.log"
    command = [
        "strace",
        "-f",
        "-qq",
        "-ttt",
        "-o",
        str(log),
        "-p",
        str(run.cluster.pid(run.cluster.ports[node])),
    ]
    for path in paths:
        command += ["-P", str(path)]
    command += ["-e", f"trace={calls}", "-e", f"inject={calls}:error=EIO:when={when}"]
    tracer = _begin(command)
    pid = run.cluster.pid(run.cluster.ports[node])
    try:
        status = Path(f"/proc/{pid}/status")
        await run.until(
            lambda: f"TracerPid:\t{tracer.pid}\n" in status.read_text() and log.exists(),
            5.0,
            "strace attached",
        )
        yield Injection(log)
    finally:
        tracer.send_signal(signal.SIGINT)  # it lets go of the process first
        try:
            await asyncio.to_thread(tracer.wait, 10)
        except subprocess.TimeoutExpired:
            tracer.kill()
            tracer.wait()


def _begin(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


async def failed_sync(directory: Path, *, rounds: int = 10, ended_s_max: float = ENDED_S_MAX) -> Outcome:
    """One fdatasync or fsync of one node fails, once: the next one would claim what is not on the disk."""
    async with rig("failed fsync", directory) as run:
        run.recorder.start()
        loop_minus_wall_s = run.now_s - time.time()
        ended_s, acknowledged = [], 0
        for number in range(rounds):
            node = number % len(run.urls)
            port = run.cluster.ports[node]
            await asyncio.sleep(1.0)
            async with injected(run, node, "fdatasync,fsync", str(3 + number)) as injection:
                await run.until(lambda i=injection: i.lines, 30.0, "a sync that fails")
                await run.until(lambda p=port: run.cluster.ended(p) is not None, 10.0, f"n{node + 1} ended")
                now_s = run.now_s
                run.confirm(bool(injection.lines), f"n{node + 1}: a sync failed")
                if not injection.lines:
                    continue
                hit_s = injection.first_s(loop_minus_wall_s)
            ended_s.append(now_s - hit_s)
            if run.cluster.ended(port) != EXIT_DISK_FAILED:
                run.outcome.violations.append(f"n{node + 1} ended with {run.cluster.ended(port)}")
            await asyncio.sleep(_UNDER_WAY_S)
            by_it = acknowledged_by(run.recorder.history.operations, f"n{node + 1}")
            after = [op for op in by_it if op.started_s > hit_s or op.ended_s > hit_s + _UNDER_WAY_S]
            acknowledged += len([op for op in after if op.started_s < now_s + _UNDER_WAY_S])
            await run.restart(node)
        outcome = await run.finish(converged_s_max=HEALED_S_MAX)
        outcome.bound("from the failed sync to the end, worst", max(ended_s, default=0), ended_s_max, "s")
        outcome.figures["acknowledgements after a failed sync"] = str(acknowledged)
        if acknowledged:
            outcome.violations.append(f"{acknowledged} writes acknowledged after a failed sync")
        return outcome


async def failed_write(directory: Path, *, rounds: int = 5) -> Outcome:
    """A write to the log of a node's engine fails: that node ends, and the others go on."""
    async with rig("EIO on write", directory) as run:
        run.recorder.start()
        for number in range(rounds):
            node = number % len(run.urls)
            port = run.cluster.ports[node]
            await asyncio.sleep(1.0)
            logs = sorted(run.data_dir(node).rglob("*.log"))
            async with injected(run, node, "write,pwrite64", str(2 + number), *logs) as injection:
                await run.until(lambda i=injection: i.lines, 30.0, "a write that fails")
                await run.until(lambda p=port: run.cluster.ended(p) is not None, 10.0, f"n{node + 1} ended")
                run.confirm(bool(injection.lines), f"n{node + 1}: a write failed")
            await run.restart(node)
        return await run.finish(converged_s_max=HEALED_S_MAX)


async def failed_reads(directory: Path, *, rounds: int = 5, during_s: float = 4.0) -> Outcome:
    """Reads of a node's tables fail: what cannot be read is not shown, and never shown as something else.

    The node is killed and started first, so that its records lie in tables and none is in its cache.
    """
    async with rig("EIO on read", directory, keys=300) as run:
        run.recorder.start()
        hits = ended = 0
        for number in range(rounds):
            node = number % len(run.urls)
            port = run.cluster.ports[node]
            await asyncio.sleep(2.0)
            await run.kill(node)
            await run.restart(node)
            tables = sorted(run.data_dir(node).rglob("*.sst"))
            async with injected(run, node, "pread64", "1+2", *tables) as injection:
                await asyncio.sleep(during_s)
                hits += len(injection.lines)
                run.confirm(bool(injection.lines), f"n{node + 1}: reads failed")
            if run.cluster.ended(port) is not None:
                ended += 1
                await run.restart(node)
        outcome = await run.finish(converged_s_max=HEALED_S_MAX)
        outcome.figures["reads of tables that failed"] = str(hits)
        outcome.figures["nodes that ended for it"] = str(ended)
        return outcome


# --- bits that turned over ------------------------------------------------------------------------------


def flip_bits(file: Path, flips: int, chance: random.Random) -> None:
    """In place, anywhere."""
    held = bytearray(file.read_bytes())
    for _ in range(flips):
        at = chance.randrange(len(held))
        held[at] ^= 1 << chance.randrange(8)
    file.write_bytes(held)


async def bit_flips(directory: Path, *, rounds: int = 10) -> Outcome:
    """Files of a node that is down rot: logs in the first half of the rounds, tables in the second.

    Tables come last, and each node's once (at most ten rounds): the engine never gets past a damaged block of
    a table. Its records are healed one by one when they are read, but a scan of a partition ends there, and a
    compaction that meets it ends the node.

    A node that will not start says why in one line, and gets what this line asks for: an empty directory, to
    be filled by the other homes.
    """
    chance = random.Random(rounds)
    async with rig("bit flips", directory) as run:
        run.recorder.start()
        ids = {m["name"]: m["id"] for m in (await run.document(0, "/v1/cluster"))["members"]}
        refused: list[str] = []
        healed_s = []
        for number in range(rounds):
            node = number % len(run.urls)
            await asyncio.sleep(1.0)
            await run.kill(node)
            tables = number >= rounds // 2
            if tables:
                await run.restart(node)  # what was in the log is in a table then
                await run.stop(node)
            kind = "*.sst" if tables else "*.log"
            files = [file for file in sorted(run.data_dir(node).rglob(kind)) if file.stat().st_size]
            if files:
                file = max(files, key=lambda f: f.stat().st_size)
                await asyncio.to_thread(flip_bits, file, 1 + number % 3, chance)
            run.confirm(bool(files), f"n{node + 1} has {kind} to damage")
            said = await _start(run, node)
            if said:
                refused.append(said)
                shutil.rmtree(run.data_dir(node))
                await run.restart(node, KVSTORE_RECOVER_AS=ids[f"n{node + 1}"])
            began_s = time.monotonic()
            done = await run.document(node, "/v1/repair?all=true&wait=true&timeout=60s", "POST")
            run.confirm(bool(done), f"n{node + 1} ran a repair")
            healed_s.append(time.monotonic() - began_s)
        await run.recorder.stop()
        unscannable = sum(
            "cannot be scanned" in run.cluster.log(port).read_text() for port in run.cluster.ports
        )
        unreadable = await _unreadable(run)
        await run.recorder.read_all()  # a read finds what a scan cannot get past, and heals it
        outcome = await run.finish(converged_s_max=HEALED_S_MAX)
        outcome.figures["nodes with partitions that cannot be scanned"] = str(unscannable)
        outcome.figures["unreadable copies, after repair and before all is read"] = str(unreadable)
        outcome.figures["starts refused, in one line"] = f"{len(refused)} of {rounds}"
        for count, line in enumerate(sorted({_anonymous(line) for line in refused})[:4], 1):
            outcome.figures[f"such a line {count}"] = line
        outcome.figures["repair --all, worst (60 s: gave up waiting)"] = f"{max(healed_s):.1f} s"
        return outcome


async def _unreadable(run: Rig) -> int:
    """Copies of keys whose home cannot read them."""
    return sum(
        home["answer"] == "corrupt"
        for found in (await run.explained()).values()
        for home in found.get("homes", ())
    )


def _anonymous(line: str) -> str:
    """Without numbers and paths, so that lines which say the same are the same."""
    return re.sub(r"\d+", "N", re.sub(r"/\S+", "...", line))[:150]


async def _start(run: Rig, node: int) -> str:
    """Empty if the node serves; else the one line in which it says why it does not."""
    port = run.cluster.ports[node]
    lines_before = len(run.cluster.log(port).read_text(errors="replace").splitlines())
    run.cluster.restart(port)
    await asyncio.to_thread(_ended_or_ready, run, port)
    if run.cluster.ended(port) is None:
        return ""
    said = run.cluster.log(port).read_text(errors="replace").splitlines()[lines_before:]
    if len(said) != 1:
        run.outcome.violations.append(
            f"n{node + 1} did not say in one line why it does not start: {said[-5:]}"
        )
    return said[-1] if said else "nothing"
