"""degradation: what nodes refuse for want of room, and what an operator tells them to refuse."""

from __future__ import annotations

from typing import Any

import click

from kvstore.cli.nodes import TIMEOUT_S, ask_node, target, target_options
from kvstore.cli.output import emit, output_option, report, table
from kvstore.core.degradation import LEVELS
from kvstore.errors import KVStoreError


@click.command()
@click.option("--floor", type=click.Choice(LEVELS), help="Refuse up to this at least, from now on.")
@target_options
@output_option
def degradation(floor: str | None, nodes: str | None, timeout_s: float | None, output: str) -> None:
    """What each of the nodes refuses, or with --floor: is to refuse at least, until it is told otherwise.

    Given up first is background work, then scans, reads with r=1 or best effort, quorum reads, and writes
    last. Each node finds its own level; a floor holds on the nodes that are named, as long as they run.

    \b
    Example:
      kvstore degradation
      kvstore degradation --floor scans
      kvstore degradation --floor normal
    """
    where = target(nodes, timeout_s)
    method, body = ("GET", None) if floor is None else ("PUT", {"floor": floor})
    answers: list[dict[str, Any]] = []
    failed: list[KVStoreError] = []
    for url in where.urls:
        try:
            answers.append(
                ask_node(
                    url, method, "/v1/degradation", body, timeout_s=timeout_s or TIMEOUT_S, token=where.token
                )
            )
        except KVStoreError as error:
            failed.append(error)
    if not answers:
        raise failed[-1]
    rows: list[list[object]] = [["node", "refuses up to", "floor", "refused so far"]]
    rows += [[a["node"], a["level"], a["floor"], sum(a["sheds"].values())] for a in answers]
    emit(output, answers, table(rows))
    for each in failed:
        report(each)
