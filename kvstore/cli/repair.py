"""repair and tasks: make replicas equal now, and see what runs."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from kvstore.cli.nodes import TIMEOUT_S, Target, ask, ask_node, ask_one, target, target_options
from kvstore.cli.output import Exit, emit, output_option, say, table

POLL_S = 0.2


@click.command()
@click.argument("bucket", required=False)
@click.argument("key", required=False)
@click.option("--partition", type=click.IntRange(min=0), help="Repair one partition.")
@click.option("--all", "everything", is_flag=True, help="Repair every partition, on all nodes.")
@click.option("--wait", is_flag=True, help="Return when it has ended.")
@target_options
@output_option
def repair(
    bucket: str | None,
    key: str | None,
    partition: int | None,
    everything: bool,
    wait: bool,
    nodes: str | None,
    timeout_s: float | None,
    output: str,
) -> None:
    """Compare replicas now, and heal what differs: of one key, one partition, or all.

    Nodes do the same by themselves about once a minute. Asking one node is enough. With --wait the exit
    code is 5 if a home was out of reach or could not be compared.

    \b
    Example:
      kvstore repair greetings hello --wait
      kvstore repair --partition 17
      kvstore repair --all --wait
    """
    path = _path(bucket, key, partition, everything=everything)
    where = target(nodes, timeout_s)
    url, task = ask_one(where, "POST", path)
    if wait:
        task = _ended(where, url, task)
    emit(output, task, [_line(task)])
    if wait and (task["state"] == "failed" or task.get("failed") or task.get("missing")):
        click.get_current_context().exit(Exit.UNAVAILABLE)


@click.command()
@target_options
@output_option
def tasks(nodes: str | None, timeout_s: float | None, output: str) -> None:
    """The tasks of a node, the newest first.

    \b
    Example:
      kvstore tasks
      kvstore tasks --nodes http://127.0.0.1:8003 -o json
    """
    document = ask(target(nodes, timeout_s), "GET", "/v1/tasks")
    columns = ["id", "state", "done", "total", "took_s", "healed", "error"]
    rows = [[task.get(column, "") for column in columns] for task in document["tasks"]]
    emit(output, document, table([columns, *rows]) if rows else ["no task since this node started"])


def _path(bucket: str | None, key: str | None, partition: int | None, *, everything: bool) -> str:
    """Raises UsageError unless exactly one thing is to be repaired."""
    from kvstore.client.names import check_bucket, encode_segment, key_bytes

    if (bucket is not None) + (partition is not None) + everything != 1 or (bucket and key is None):
        raise click.UsageError("say what to repair: BUCKET KEY, --partition, or --all")
    if bucket is not None and key is not None:
        raw = key_bytes(key.encode("utf-8", "surrogateescape"))
        return f"/v1/repair?bucket={check_bucket(bucket)}&key={encode_segment(raw)}"
    return "/v1/repair?all" if everything else f"/v1/repair?partition={partition}"


def _ended(where: Target, url: str, task: dict[str, Any]) -> dict[str, Any]:
    """Asks the node that runs it until it has ended, with a bar where somebody watches."""
    timeout_s = where.timeout_s or TIMEOUT_S
    hidden = not sys.stderr.isatty()
    with click.progressbar(length=task["total"], label="partitions", file=sys.stderr, hidden=hidden) as bar:
        while task["state"] == "running":
            time.sleep(POLL_S)
            document = ask_node(url, "GET", "/v1/tasks", None, timeout_s=timeout_s, token=where.token)
            found = next((each for each in document["tasks"] if each["id"] == task["id"]), None)
            if found is None:
                say(f"{url} knows no {task['id']} any more: it was started again")
                return task | {"state": "failed", "error": "the node was started again"}
            bar.update(found["done"] - task["done"])
            task = found
    return task


def _line(task: dict[str, Any]) -> str:
    if task["state"] == "running":
        return f"{task['id']} runs: {task['done']} of {task['total']} done; kvstore tasks tells how it ends"
    if task["state"] == "failed":
        return f"{task['id']} failed: {task.get('error', 'unknown reason')}"
    words = [f"{task['id']} done in {task['took_s']:.1f} s", f"{task.get('healed', 0)} states healed"]
    if task.get("missing"):
        words.append(f"out of reach: {', '.join(task['missing'])}")
    if task.get("failed"):
        words.append(f"not compared: {len(task['failed'])} partitions")
    return " · ".join(words)
