"""A load that rises step by step, of all tiers alike: which of them is served how far, and a picture."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kvstore.core.degradation import LEVELS
from tests.processes.pressure_load import Kind, batch, marked, page, siblings
from tests.processes.pressure_overload import RECOVERED_S_MAX, peak
from tests.processes.pressure_rig import Node

STEPS = (0.6, 1.5, 2.0, 3.0, 5.5, 0.6)
"""Of what the node can do, all tiers together; each tier asks for a fifth of it."""
GIVEN_UP = 0.5


def kinds() -> dict[str, tuple[Kind, int]]:
    """Tier -> (its requests, clients that find their peak), the first to be given up first."""
    return {
        "background": (marked(siblings(), header="KV-Priority: background\r\n"), 16),
        "scans": (page(100), 8),
        "relaxed reads": (marked(siblings(), options="?r=1"), 16),
        "quorum reads": (siblings(), 16),
        "writes": (batch(10), 16),
    }


async def _levels(node: Node, found: list[tuple[float, int]]) -> None:
    while True:
        level = (await node.document("/v1/degradation"))["level"]
        found.append((time.perf_counter(), LEVELS.index(level)))
        await asyncio.sleep(0.1)


async def tiers(
    folder: Path, settings: Mapping[str, str], seconds: float, picture: Path | None = None
) -> dict[str, float]:
    """`seconds`: of each step."""
    async with Node(folder, settings) as node:
        peaks = {}
        for name, (kind, clients) in kinds().items():
            peaks[name], _ = await peak(node, lambda kind=kind: kind, clients, 1.0)  # type: ignore[misc]
        levels: list[tuple[float, int]] = []
        watching = asyncio.ensure_future(_levels(node, levels))
        began_s = time.perf_counter()
        shares: list[dict[str, float]] = []
        seen: dict[str, list[tuple[float, bool]]] = {name: [] for name in peaks}
        starts: list[float] = []
        for step in STEPS:
            starts.append(time.perf_counter() - began_s)
            asked = {name: kind for name, (kind, _) in kinds().items()}
            rates = [(kind, peaks[name] * step / len(asked)) for name, kind in asked.items()]
            await node.load.open(rates, seconds)
            shares.append({name: kind.outcomes.share for name, kind in asked.items()})
            for name, kind in asked.items():
                seen[name] += kind.outcomes.seen
        while levels[-1][1] and time.perf_counter() - began_s - starts[-1] < RECOVERED_S_MAX:
            asked = {name: kind for name, (kind, _) in kinds().items()}
            await node.load.open([(kind, peaks[name] * STEPS[-1] / 5) for name, kind in asked.items()], 0.5)
            for name, kind in asked.items():
                seen[name] += kind.outcomes.seen
        watching.cancel()
    if picture is not None:
        _draw(picture, began_s, starts, seen, levels)
    figures = {}
    for name in peaks:
        given_up = [step for step, share in zip(STEPS[:-1], shares, strict=False) if share[name] < GIVEN_UP]
        figures[f"{name}: given up from load"] = given_up[0] if given_up else float("inf")
    order = list(figures.values())
    figures["given up in this order"] = float(order == sorted(order) and order[0] < order[-1])
    figures["highest level"] = max(level for _, level in levels)
    figures["level 0 again after the last step began, s"] = next(
        (at_s - began_s - starts[-1] for at_s, level in levels if at_s - began_s > starts[-1] and not level),
        float("inf"),
    )
    figures["writes served at load 3"] = shares[STEPS.index(3.0)]["writes"]
    return figures


def _draw(
    picture: Path,
    began_s: float,
    starts: list[float],
    seen: dict[str, list[tuple[float, bool]]],
    levels: list[tuple[float, int]],
) -> None:
    """Served shares in half seconds above, the level of degradation below. Needs matplotlib."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 5.0), layout="constrained")
    axes: Any = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    for name, ended in seen.items():
        bins: dict[int, list[bool]] = {}
        for at_s, served in ended:
            bins.setdefault(int((at_s - began_s) * 2), []).append(served)
        at = sorted(bins)
        axes[0].plot([b / 2 for b in at], [sum(bins[b]) / len(bins[b]) for b in at], label=name, linewidth=1)
    axes[1].step([at_s - began_s for at_s, _ in levels], [level for _, level in levels], where="post")
    axes[1].set_yticks(range(len(LEVELS)), LEVELS, fontsize=7)
    for start_s, step in zip(starts, STEPS, strict=True):
        for each in axes:
            each.axvline(start_s, color="#999999", linestyle=":", linewidth=1)
        axes[0].text(start_s, 1.02, f"load {step:g}", fontsize=7)
    axes[0].set_ylabel("served, share of what ended")
    axes[0].legend(fontsize=7)
    axes[1].set_ylabel("refused up to")
    axes[1].set_xlabel("seconds")
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=100)
