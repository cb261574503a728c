"""bucket list, show, set: what a bucket promises."""

from __future__ import annotations

from math import isfinite
from typing import Any

import click

from kvstore.cli.nodes import ask, target, target_options
from kvstore.cli.output import emit, output_option, table, this_writes
from kvstore.errors import InvalidRequest


@click.group()
def bucket() -> None:
    """The properties of buckets: how many copies, how many answers, what happens to conflicts.

    \b
    Example:
      kvstore bucket set carts n=3 w=2 conflict=siblings
      kvstore bucket show carts
    """


@bucket.command("list")
@target_options
@output_option
def list_(nodes: str | None, timeout_s: float | None, output: str) -> None:
    """The buckets that somebody gave properties. Others exist by being written to, with the defaults.

    \b
    Example:
      kvstore bucket list
    """
    document = ask(target(nodes, timeout_s), "GET", "/v1/buckets")
    found = document["buckets"]
    rows = [[entry["bucket"], *map(shown_value, entry["properties"].values())] for entry in found]
    emit(output, document, table([["bucket", *found[0]["properties"]], *rows]) if found else [])


@bucket.command()
@click.argument("name")
@target_options
@output_option
def show(name: str, nodes: str | None, timeout_s: float | None, output: str) -> None:
    """What holds for a bucket; r and w of 0 mean the majority of n.

    \b
    Example:
      kvstore bucket show carts
    """
    document = ask(target(nodes, timeout_s), "GET", path_of(name))
    emit(output, document, _lines(document))


@bucket.command("set")
@click.argument("name")
@click.argument("assignments", metavar="PROPERTY=VALUE...", nargs=-1, required=True)
@target_options
@output_option
def set_(
    name: str, assignments: tuple[str, ...], nodes: str | None, timeout_s: float | None, output: str
) -> None:
    """Change some properties of a bucket, for every node; the others stay as they are.

    n, r, w, pr, pw (counts) · conflict (siblings, last-write-wins) · blind (overwrite, sibling, reject)
    · durability (sync, async) · ttl_s (seconds, 0 for never) · sloppy (true, false)
    · requests_per_s (on each node, 0 for any)

    \b
    Example:
      kvstore bucket set sessions conflict=last-write-wins ttl_s=3600
      kvstore bucket set accounts w=3 pw=2 blind=reject
    """
    values = parsed(assignments)
    this_writes()
    document = ask(target(nodes, timeout_s), "PUT", path_of(name), values)
    emit(output, document, _lines(document))


def path_of(name: str) -> str:
    """Raises InvalidRequest for what cannot be a bucket's name."""
    from kvstore.client.names import check_bucket

    return f"/v1/buckets/{check_bucket(name)}"


def parsed(assignments: tuple[str, ...]) -> dict[str, int | float | str]:
    """Numbers, true and false are what reads as one; names and contradictions are the node's to judge.

    Raises InvalidRequest.
    """
    values: dict[str, int | float | str] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not name or not equals:
            raise InvalidRequest(f"{assignment!r} is not of the form PROPERTY=VALUE", advice="such as w=2")
        if name in values:
            raise InvalidRequest(f"{name} is given twice", advice="give it once")
        values[name] = _number_or_text(text)
    return values


def _number_or_text(text: str) -> int | float | str:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        if isfinite(number):
            return number
    return text


def shown_value(value: object) -> object:
    """As it is typed."""
    return str(value).lower() if isinstance(value, bool) else value


def _lines(document: dict[str, Any]) -> list[str]:
    rows = [[name, shown_value(value)] for name, value in document["properties"].items()]
    origin = "set for this bucket" if document["explicit"] else "the cluster's defaults"
    return [f"{document['bucket']}: {origin}", *table(rows)]
