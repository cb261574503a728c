"""Closed-loop HTTP load on several nodes at once: one process per node, a fixed number of connections.

Every connection sends its next request when the last one is answered, so the figures are those of a
saturated cluster: the rate is what it can do, the latency what clients feel while it does that.

`wrk` makes the load where it is installed; it takes a fraction of the processor that Python takes.
Otherwise processes of kvstore.bench do: on few cores they take their share from the nodes, of both sides of
a comparison alike.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

from kvstore.bench import load as bench
from kvstore.bench.http import Answer

_LUA = """
local form, keys
function init(args)
  math.randomseed(tonumber(args[1]))
  form, keys = args[2], tonumber(args[3])
  if args[4] ~= "0" then
    wrk.method, wrk.body = "PUT", (args[5] or "") .. string.rep("x", tonumber(args[4]))
  end
  if args[6] then wrk.headers["Content-Type"] = args[6] end
end
function request() return wrk.format(nil, string.format(form, math.random(0, keys - 1))) end
function done(summary, latency, requests)
  local e = summary.errors
  print(string.format("TOTAL %d %d", summary.duration, summary.requests))
  for kind, count in pairs(e) do if count > 0 then print("ERROR " .. kind .. " " .. count) end end
  for i = 1, #latency do print(string.format("LATENCY %d %d", latency(i))) end
end
"""
FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class Paths:
    """A store with one path per key: `prefix`, a number from 0 on, and the options of `reads` or `writes`.

    Numbers have so many `digits`, zeros in front. `field`: values travel as this field of a form. Also a
    dialect of kvstore.bench, without scans.
    """

    prefix: str
    reads: str = ""
    writes: str = ""
    field: str = ""
    digits: int = 1
    ok: frozenset[int] = frozenset({200, 201, 204, 300})

    def read(self, key: int) -> bytes:
        return f"GET {self.prefix}{key:0{self.digits}}{self.reads} HTTP/1.1".encode()

    def write(self, key: int, value: bytes, context: bytes) -> tuple[bytes, bytes]:
        head = f"PUT {self.prefix}{key:0{self.digits}}{self.writes} HTTP/1.1"
        if not self.field:
            return (head + (f"\r\nKV-Context: {context.decode()}" if context else "")).encode(), value
        return f"{head}\r\nContent-Type: {FORM}".encode(), f"{self.field}=".encode() + value

    def scan(self, key: int, items: int) -> bytes:
        raise NotImplementedError("no order of keys that all stores have")

    def context_of(self, answer: Answer) -> bytes:
        return b""


@dataclass(frozen=True, slots=True)
class Workload:
    """Keys are numbers below `keys`, uniformly. `value_bytes` of 0 means gets.

    `connections`: to all nodes together.
    """

    paths: Paths
    keys: int
    value_bytes: int
    connections: int


@dataclass(slots=True)
class Measured:
    """`latency_us`: how many requests took how many microseconds. wrk adds to it what its own waiting hid,
    so it may hold more than `requests`. `error_kinds`: answers that are no success (wrk tells them as
    `status`), broken connections, timeouts.
    """

    duration_s: float = 0.0
    requests: int = 0
    error_kinds: Counter[str] = field(default_factory=Counter)
    latency_us: Counter[int] = field(default_factory=Counter)

    @property
    def errors(self) -> int:
        return self.error_kinds.total()

    @property
    def per_s(self) -> float:
        return self.requests / self.duration_s if self.duration_s else 0.0

    def percentile_ms(self, percent: float) -> float:
        """The smallest latency that this share of the requests did not exceed."""
        rank, seen = self.latency_us.total() * percent / 100, 0
        for latency_us in sorted(self.latency_us):
            seen += self.latency_us[latency_us]
            if seen >= rank:
                return latency_us / 1000
        return 0.0


def load(ports: list[int], workload: Workload, seconds: int, *, tool: str, seed: int) -> Measured:
    """Load every port on loopback for so long. `tool`: wrk or python. Each node gets other keys."""
    if tool != "wrk":
        return _run_python(ports, workload, seconds, seed)
    results = _run_wrk(ports, workload, seconds, seed)
    total = Measured(duration_s=max(result.duration_s for result in results))
    for result in results:
        total.requests += result.requests
        total.error_kinds += result.error_kinds
        total.latency_us.update(result.latency_us)
    return total


def fill(ports: list[int], workload: Workload) -> None:
    """Put every key once. Raises InvalidRequest if one could not be written."""
    bench.fill(_as_load(ports, workload))


def best_tool() -> str:
    return "wrk" if shutil.which("wrk") else "python"


def _run_wrk(ports: list[int], workload: Workload, seconds: int, seed: int) -> list[Measured]:
    paths = workload.paths
    with tempfile.TemporaryDirectory() as directory:
        script = Path(directory, "load.lua")
        script.write_text(_LUA)
        command = ["wrk", "-t1", f"-d{seconds}s", "-s", str(script)]
        options = paths.writes if workload.value_bytes else paths.reads
        form = f"{paths.prefix}%0{paths.digits}d{options.replace('%', '%%')}"
        shape = [form, str(workload.keys), str(workload.value_bytes)]
        if workload.value_bytes and paths.field:
            shape += [f"{paths.field}=", FORM]
        share, more = divmod(workload.connections, len(ports))
        connections = [share + (i < more) for i in range(len(ports))]
        running = [
            subprocess.Popen(
                [*command, f"-c{count}", f"http://127.0.0.1:{port}", "--", str(seed + port), *shape],
                stdout=subprocess.PIPE,
                text=True,
            )
            for port, count in zip(ports, connections, strict=True)
            if count
        ]
        return [_read_wrk(process.communicate(timeout=seconds + 30)[0]) for process in running]


def _read_wrk(printed: str) -> Measured:
    result = Measured()
    for line in printed.splitlines():
        words = line.split()
        if line.startswith("TOTAL"):
            result.duration_s, result.requests = int(words[1]) / 1e6, int(words[2])
        elif line.startswith("ERROR"):
            result.error_kinds[words[1]] += int(words[2])
        elif line.startswith("LATENCY"):
            result.latency_us[int(words[1])] += int(words[2])
    if not result.duration_s:
        raise SystemExit(f"wrk did not run:\n{printed}")
    return result


def _as_load(ports: list[int], workload: Workload) -> bench.Load:
    return bench.Load(
        tuple(f"http://127.0.0.1:{port}" for port in ports),
        workload="put" if workload.value_bytes else "get",
        keys=workload.keys,
        value_bytes=workload.value_bytes,
        connections=workload.connections,
        processes=min(len(ports), workload.connections),
        warm_up_s=0.0,
        dialect=workload.paths,
    )


def _run_python(ports: list[int], workload: Workload, seconds: int, seed: int) -> Measured:
    recording = bench.run(replace(_as_load(ports, workload), duration_s=seconds, seed=seed))
    latency_us: Counter[int] = Counter()
    for item in recording.all().get_recorded_iterator():
        latency_us[int(item.value_iterated_to)] += int(item.count_added_in_this_iter_step)
    return Measured(recording.duration_s, recording.count, recording.errors, latency_us)
