"""status and explain: what the cluster looks like, and where one key lives."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

from kvstore.cli.nodes import Target, ask, target, target_options
from kvstore.cli.output import emit, output_option, shown_key, table


@click.command()
@target_options
@output_option
def status(nodes: str | None, timeout_s: float | None, output: str) -> None:
    """The members of the cluster as one of them sees it.

    \b
    Example:
      kvstore status
      kvstore status -o json | jq '.members[].state'
    """
    document = ask(target(nodes, timeout_s), "GET", "/v1/cluster")
    columns = ["name", "zone", "host", "state", "partitions", "http", "rpc"]
    rows = [[member.get(column, "") for column in columns] for member in document["members"]]
    up = sum(member.get("state") in ("up", "slow") for member in document["members"])
    seen = f"layout {document['layout_version']} · seen by {document['answered_by']}"
    emit(output, document, [*table([columns, *rows]), f"{up} of {len(rows)} nodes up · {seen}"])


@click.command()
@click.argument("bucket")
@click.argument("key")
@target_options
@output_option
def explain(bucket: str, key: str, nodes: str | None, timeout_s: float | None, output: str) -> None:
    """Where a key lives, what each home holds, who keeps hints, and why its tombstone has to wait.

    \b
    Example:
      kvstore explain greetings hello
    """
    document = explanation(target(nodes, timeout_s), bucket, key.encode("utf-8", "surrogateescape"))
    emit(output, document, explained(document))


def explanation(where: Target, bucket: str, key: bytes) -> dict[str, Any]:
    """What /v1/explain says. Raises InvalidRequest, and what `ask` raises."""
    from kvstore.client.names import check_bucket, encode_segment, key_bytes

    path = f"/v1/explain/{check_bucket(bucket)}/{encode_segment(key_bytes(key))}"
    document: dict[str, Any] = ask(where, "GET", path)
    return document


def explained(document: dict[str, Any]) -> list[str]:
    """A line about the key, one for each home, one for each version there, one for each who keeps hints."""
    rows: list[list[object]] = [["home", "zone", "holds"]]
    for home in document["homes"]:
        slow = home.get("latency_breaker") in ("open", "half-open")
        rows.append([home["name"], home["zone"], _holding(home) + (", slow: asked last" if slow else "")])
        rows += [["", "", f"  {_version(sibling)}"] for sibling in home.get("siblings", ())]
    for kept in document.get("hints", ()):
        rows.append([kept["name"], kept["zone"], f"a hint for {', '.join(kept['targets'])}"])
        rows += [["", "", f"  {_version(sibling)}"] for sibling in kept.get("siblings", ())]
    key = document.get("key")
    shown = shown_key(key.encode()) if isinstance(key, str) else f"base64:{document.get('key_base64')}"
    agreement = "all homes hold the same" if document["equal"] else "the homes differ"
    if all(home["answer"] == "nothing" for home in document["homes"]):
        agreement = "no home holds anything"
    lines = [f"{document['bucket']}/{shown}: partition {document['partition']}, {agreement}", *table(rows)]
    return lines + _tombstone(document.get("tombstone"))


def _tombstone(tombstone: dict[str, Any] | None) -> list[str]:
    """Why it is still there, a line for each reason."""
    if tombstone is None:
        return []
    by, every_s = tombstone["collected_by"], tombstone["every_s"]
    if not tombstone["waits_for"]:
        return [f"its tombstone is collected by {by}, which looks for such every {every_s:g} s"]
    reasons = [f"  {waits['name']} {waits['reason']}" for waits in tombstone["waits_for"]]
    return [f"its tombstone is collected by {by}, and has to wait:", *reasons]


def _holding(home: dict[str, Any]) -> str:
    if home["answer"] == "nothing":
        return "nothing"
    if home["answer"] != "state":
        return f"no answer: {home['answer']} {home.get('detail', '')}".rstrip()
    values = [sibling for sibling in home["siblings"] if not sibling["tombstone"]]
    return f"{len(values)} value{'' if len(values) == 1 else 's'}, digest {home['digest'][:8]}"


def _version(sibling: dict[str, Any]) -> str:
    written = datetime.fromtimestamp(sibling["modified_ms"] / 1000, UTC).isoformat(" ", "milliseconds")
    what = "deleted" if sibling["tombstone"] else f"{sibling['value_bytes']} bytes {sibling['content_type']}"
    return f"{what}, written {written.removesuffix('+00:00')}Z as {sibling['dot']}"
