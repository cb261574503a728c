"""hints: what nodes keep for others that are away."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click

from kvstore.cli.nodes import TIMEOUT_S, ask_node, target, target_options
from kvstore.cli.output import emit, output_option, report, table
from kvstore.errors import KVStoreError


@click.command()
@target_options
@output_option
def hints(nodes: str | None, timeout_s: float | None, output: str) -> None:
    """What each of the nodes keeps for others: how much, since when, and when it tries again.

    A node tells of its own hints only: name all of them with --nodes or KVSTORE_NODES. One that does not
    answer is told of, and is no error as long as another one does.

    \b
    Example:
      kvstore hints
      kvstore hints -o json | jq '.[].targets'
    """
    where = target(nodes, timeout_s)
    answers: list[dict[str, Any]] = []
    failed: list[KVStoreError] = []
    for url in where.urls:
        try:
            answers.append(
                ask_node(url, "GET", "/v1/hints", None, timeout_s=timeout_s or TIMEOUT_S, token=where.token)
            )
        except KVStoreError as error:
            failed.append(error)
    if not answers:
        raise failed[-1]
    emit(output, answers, lines(answers))
    for each in failed:
        report(each)


def lines(answers: Iterable[dict[str, Any]]) -> list[str]:
    """A row for each pair of nodes, and one line about all."""
    rows: list[list[object]] = [["kept by", "for", "hints", "bytes", "oldest", "next attempt"]]
    count = dropped = delivered = 0
    for answer in answers:
        count += answer["count"]
        delivered += answer["delivered"]
        dropped += answer["dropped"]
        rows += [
            [answer["node"], each["name"], each["count"], each["bytes"], _age(each), _next(each)]
            for each in answer["targets"]
        ]
    total = f"{count} pending · {delivered} delivered · {dropped} dropped"
    return [*(table(rows) if len(rows) > 1 else []), total]


def _age(of: dict[str, Any]) -> str:
    return "-" if of["oldest_age_s"] is None else f"{of['oldest_age_s']:.0f} s"


def _next(of: dict[str, Any]) -> str:
    if not of["in_reach"]:
        return "when it is back"
    return f"in {of['next_attempt_s']:.0f} s" if of["next_attempt_s"] else "now"
