"""Processes that die, stop and come back under load. Each function returns the figures of one run."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

from tests.processes.rig import Outcome, Rig, failed_percent, rig, slowest_ms

ERRORS_S_MAX, ERRORS_PERCENT_MAX = 2.0, 1.0
BACK_S_MAX = 5.0
CONVERGED_S_MAX = 30.0
HEALED_S_MAX = 150.0
"""For what no hint tells of: a coordinator that died before it had told the other homes, or the hint, is made
good by anti-entropy, which comes round within about a minute."""


def _errors(run: Rig, since: list[float]) -> None:
    """Failures as the client sees them, its own retries included: few, and only just after a fault."""
    within = [op for at_s in since for op in run.started_between(at_s, at_s + ERRORS_S_MAX)]
    near = {op.index for op in within}
    later = [op for op in run.recorder.history.operations if op.index not in near]
    run.outcome.bound(
        f"failed within {ERRORS_S_MAX:.0f} s of a fault", failed_percent(within), ERRORS_PERCENT_MAX, "%"
    )
    worst = max((run.started_between(at_s, at_s + ERRORS_S_MAX) for at_s in since), key=failed_percent)
    run.outcome.figures["the same, after the worst single fault"] = f"{failed_percent(worst):.1f} %"
    run.outcome.bound("failed later", failed_percent(later), 0.0, "%")
    run.outcome.figures["slowest operation"] = f"{slowest_ms(run.recorder.history.operations):.0f} ms"


async def kill_loop(directory: Path, *, kills: int = 200, between_s: float = 1.0) -> Outcome:
    """One node after the other, chosen at random, killed with -9 and started again."""
    chance = random.Random(kills)
    async with rig("kill -9 loop", directory) as run:
        run.recorder.start()
        await asyncio.sleep(1.0)
        since: list[float] = []
        back: list[float] = []
        for _ in range(kills):
            node = chance.randrange(len(run.urls))
            since.append(await run.kill(node))
            await asyncio.sleep(chance.uniform(0.0, between_s))
            back.append(await run.restart(node))
            await asyncio.sleep(chance.uniform(0.2, between_s))
        outcome = await run.finish(converged_s_max=HEALED_S_MAX)
        outcome.bound("back to serving, worst", max(back), BACK_S_MAX, "s")
        outcome.figures["back to serving, median"] = f"{sorted(back)[len(back) // 2]:.2f} s"
        _errors(run, since)
        return outcome


async def pauses(directory: Path, *, pauses_s: tuple[float, ...] = (1, 2, 5, 10, 20)) -> Outcome:
    """SIGSTOP: its sockets stay open and the kernel goes on to take what is sent to it."""
    async with rig("SIGSTOP", directory) as run:
        run.recorder.start()
        await asyncio.sleep(1.0)
        since = []
        for number, pause_s in enumerate(pauses_s):
            began_s = run.now_s
            await run.pause(number % len(run.urls), pause_s)
            since += [began_s, run.now_s]
            await asyncio.sleep(1.0)
        outcome = await run.finish(converged_s_max=HEALED_S_MAX)
        outcome.figures["paused for"] = ", ".join(f"{pause_s:g}" for pause_s in pauses_s) + " s"
        _errors(run, since)
        return outcome


async def kill_all(directory: Path, *, rounds: int = 10) -> Outcome:
    """All at one moment, and all started again."""
    async with rig("kill all at once", directory) as run:
        run.recorder.start()
        back = []
        for _ in range(rounds):
            await asyncio.sleep(1.5)
            await asyncio.gather(*(run.kill(node) for node in range(len(run.urls))))
            began_s = time.monotonic()
            await asyncio.gather(*(run.restart(node) for node in range(len(run.urls))))
            back.append(time.monotonic() - began_s)
        await asyncio.sleep(1.5)
        outcome = await run.finish(converged_s_max=HEALED_S_MAX)
        outcome.bound("all back to serving, worst", max(back), CONVERGED_S_MAX, "s")
        return outcome


async def _hints_pending(run: Rig, nodes: list[int]) -> int:
    found = [await run.document(node, "/v1/hints") for node in nodes]
    return sum(each.get("count", 0) for each in found)


async def hints_across_restart(directory: Path, *, down_s: float = 5.0) -> Outcome:
    """A home is down; every node that stands in for it is killed and started again before it is back."""
    async with rig("hints across restart", directory) as run:
        run.recorder.start()
        await asyncio.sleep(1.0)
        await run.kill(0)
        others = list(range(1, len(run.urls)))
        await asyncio.sleep(down_s)
        await run.recorder.stop()
        kept = await _hints_pending(run, others)
        for node in others:
            await run.kill(node)
            await run.restart(node)
        found_again = await _hints_pending(run, others)
        run.confirm(kept > 0, "hints were kept")
        await run.restart(0)
        outcome = await run.finish(converged_s_max=CONVERGED_S_MAX)
        outcome.figures["hints kept, and after kill -9 of all keepers"] = f"{kept}, {found_again}"
        if found_again < kept:
            outcome.violations.append(f"{kept - found_again} hints did not survive")
        return outcome


async def down_for_a_minute(directory: Path, *, down_s: float = 60.0) -> Outcome:
    """One node away under load, which ends when the node is back; from then on the time counts."""
    async with rig("a node down", directory, keys=1000) as run:
        run.recorder.start()
        await asyncio.sleep(1.0)
        killed_s = await run.kill(1)
        await asyncio.sleep(down_s)
        kept = await _hints_pending(run, [0, 2, 3, 4])
        run.confirm(kept > 0, "hints were kept")
        back_s = await run.restart(1)
        outcome = await run.finish(converged_s_max=CONVERGED_S_MAX)
        outcome.figures["down for"] = f"{down_s:.0f} s"
        outcome.figures["hints kept"] = str(kept)
        outcome.bound("back to serving", back_s, BACK_S_MAX, "s")
        _errors(run, [killed_s])
        return outcome
