"""scan: the keys of a bucket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kvstore.cli.data import key_of, opened, value_document
from kvstore.cli.nodes import target_options
from kvstore.cli.output import bytes_fields, emit_json, output_option, shown_key

if TYPE_CHECKING:
    from kvstore.client.records import ScanItem


@click.command()
@click.argument("bucket")
@click.option("--prefix", default="", help="Only keys that begin so.")
@click.option("--limit", type=click.IntRange(min=1), help="Only so many keys.")
@click.option("--values", is_flag=True, help="Values too.")
@click.option("--partial", is_flag=True, help="What can be had, though some homes do not answer.")
@target_options
@output_option
def scan(
    bucket: str,
    prefix: str,
    limit: int | None,
    values: bool,
    partial: bool,
    nodes: str | None,
    timeout_s: float | None,
    output: str,
) -> None:
    """List keys, one on a line; with -o json one document on a line.

    Exit code 5 if some of the keys could not be asked for: then the list is not complete.

    \b
    Example:
      kvstore scan greetings --prefix he
      kvstore scan greetings --values -o json | jq .key
    """
    page_size = min(limit or 1000, 1000)
    with opened(bucket, nodes, timeout_s) as handle:
        found = handle.scan(prefix=key_of(prefix), values=values, page_size=page_size, partial=partial)
        for count, item in enumerate(found, 1):
            _list(item, output, values=values)
            if count == limit:
                break


def _list(item: ScanItem[bytes], output: str, *, values: bool) -> None:
    if output == "json":
        line: dict[str, Any] = {
            **bytes_fields("key", item.key),
            "siblings": item.siblings,
            "etag": item.record.etag,
        }
        if values:
            line |= {
                "values": [value_document(s) for s in item.record.siblings],
                "context": item.record.context,
            }
        emit_json(line)
        return
    key = shown_key(item.key)
    if not values:
        click.echo(key)
    for sibling in item.record.siblings:
        click.echo(f"{key}\t{shown_key(sibling.value)}")
