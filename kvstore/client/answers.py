"""Answers of nodes -> records, receipts and documents.

Values come out as they were stored, with their content type; decoding them is the caller's matter, and
happens after the last attempt: a codec that fails is no reason to ask another node.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgpack

from kvstore.client.codecs import OCTETS
from kvstore.client.protocol import Reply
from kvstore.client.records import Outcome, Receipt, Sibling
from kvstore.errors import KVStoreError

META = "kv-meta-"
_DOCUMENT_ITEMS_MAX = 65_536
_MONTH_NAMES = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTHS = {name: number for number, name in enumerate(_MONTH_NAMES, 1)}


class Page(NamedTuple):
    """`items`: (key, etag, how many siblings, context, siblings).

    `link`: where the next page is, "" at the end. `complete`: no key can be missing.
    """

    items: list[tuple[bytes, str, int, str, tuple[Sibling[bytes], ...]]]
    link: str
    complete: bool


def receipt(headers: Mapping[str, str]) -> Receipt:
    """Of every write, so it is on the hot path: positional, and small numbers are looked up."""
    get = headers.get
    acks, _, n = get("kv-acks", "").partition("/")
    return Receipt(
        get("kv-context", ""),
        get("etag", "").strip('"'),
        _number(acks),
        _number(n),
        _number(get("kv-required", "")),
        _number(get("kv-hinted", "")),
        _number(get("kv-siblings", "")),
        get("kv-coordinator") or get("kv-node", ""),
        get("kv-request-id", ""),
        _number(get("kv-layout", "")),
        get("kv-served", ""),
    )


def outcome(reply: Reply) -> Outcome:
    """Of a write that was asked for by its operation id. Raises KVStoreError if the answer does not parse."""
    found = document(reply)
    try:
        counts = [int(found[name]) for name in ("acks", "n", "required", "answered")]
        told = str(found["outcome"])
    except (KeyError, TypeError, ValueError) as error:
        raise _unreadable(reply, error) from None
    return Outcome(told, reply.headers.get("kv-context", ""), *counts)


def siblings(reply: Reply) -> tuple[Sibling[bytes], ...]:
    """What a read found. Raises KVStoreError if the answer does not parse."""
    status, headers, body = reply
    if status == 404:
        return ()
    if status == 300:
        try:
            return _siblings(_unpacked(reply)["siblings"])
        except (KeyError, TypeError) as error:
            raise _unreadable(reply, error) from None
    only = Sibling(
        value=body,
        id=headers.get("etag", "").strip('"'),
        content_type=headers.get("content-type", OCTETS),
        meta=_meta(headers),
        modified_ms=_http_date_ms(headers.get("last-modified", "")),
    )
    return (only,)


def page(reply: Reply, bucket: str) -> Page:
    """Raises KVStoreError if the answer does not parse."""
    document = _unpacked(reply)
    try:
        items = [
            (item["key"], item["etag"], item["siblings"], item.get("context", ""), _listed(item))
            for item in document["items"]
        ]
        link, complete = document.get("next") or "", document["complete"]
    except (KeyError, TypeError, AttributeError) as error:
        raise _unreadable(reply, error) from None
    if not isinstance(link, str) or not (link == "" or link.startswith(f"/v1/kv/{bucket}?")):
        raise _unreadable(reply, ValueError(f"the next page is at {link!r}"))
    return Page(items, link, complete is True)


def batch(reply: Reply, count: int) -> list[Reply]:
    """The answer to each item, as it would have been alone. Raises KVStoreError if it does not parse."""
    entries = _unpacked(reply)
    if not isinstance(entries, list) or len(entries) != count:
        raise _unreadable(reply, ValueError(f"{count} answers were expected"))
    try:
        return [_entry(entry) for entry in entries]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _unreadable(reply, error) from None


def document(reply: Reply) -> dict[str, Any]:
    """A JSON object. Raises KVStoreError if it is none."""
    try:
        found = json.loads(reply.body)
    except (ValueError, RecursionError) as error:
        raise _unreadable(reply, error) from None
    if not isinstance(found, dict):
        raise _unreadable(reply, TypeError("not a map"))
    return found


def properties(reply: Reply) -> dict[str, Any]:
    """Of a bucket. Raises KVStoreError if they are not there."""
    found = document(reply).get("properties")
    if not isinstance(found, dict):
        raise _unreadable(reply, TypeError("no properties"))
    return found


def _entry(entry: Any) -> Reply:
    """Back to the form of a single answer, so that both are read by the same code."""
    headers = {name.lower(): text for name, text in entry["headers"].items()}
    status = entry["status"]
    if type(status) is not int or not all(type(text) is str for text in headers.values()):
        raise TypeError("status or header")
    if "problem" in entry:
        return Reply(status, headers, json.dumps(entry["problem"]).encode())
    if status == 300:
        return Reply(status, headers, msgpack.packb({"siblings": entry["siblings"]}))
    value = entry.get("value", b"")
    if type(value) is not bytes:
        raise TypeError("a value is no bytes")
    return Reply(status, headers, value)


def _listed(item: Any) -> tuple[Sibling[bytes], ...]:
    """Of a page: values are there only if they were asked for."""
    return _siblings(entries) if (entries := item["values"]) and "value" in entries[0] else ()


def _siblings(entries: Any) -> tuple[Sibling[bytes], ...]:
    found = []
    for entry in entries:
        value, content_type = entry["value"], entry.get("content_type", OCTETS)
        if type(value) is not bytes or type(content_type) is not str:
            raise TypeError("a sibling has no bytes or no content type")
        found.append(
            Sibling(value, entry["id"], content_type, entry.get("meta") or {}, entry.get("modified_ms"))
        )
    return tuple(found)


def _unpacked(reply: Reply) -> Any:
    try:
        return msgpack.unpackb(reply.body, max_ext_len=0, max_array_len=_DOCUMENT_ITEMS_MAX)
    except (ValueError, TypeError, RecursionError) as error:
        raise _unreadable(reply, error) from None


def _unreadable(reply: Reply, why: Exception) -> KVStoreError:
    node = reply.headers.get("kv-node", "the node")
    return KVStoreError(
        f"{node} answered {reply.status} with a body that does not parse: {why}",
        outcome="unknown",
        advice="are client and nodes of releases that work together?",
        request_id=reply.headers.get("kv-request-id", ""),
    )


def _meta(headers: Mapping[str, str]) -> dict[str, str]:
    return {
        name[len(META) :].lower(): text
        for name, text in headers.items()
        if len(name) > len(META) and name[:8].lower() == META
    }


def _http_date_ms(text: str) -> int | None:
    """IMF-fixdate (RFC 9110 §5.6.7), by position: email.utils takes ten times as long."""
    try:
        day, month, year = int(text[5:7]), _MONTHS[text[8:11]], int(text[12:16])
        hour, minute, second = int(text[17:19]), int(text[20:22]), int(text[23:25])
        return int(datetime(year, month, day, hour, minute, second, tzinfo=UTC).timestamp()) * 1000
    except (ValueError, KeyError, OverflowError):
        return None


_SMALL = {"": 0} | {str(number): number for number in range(100)}


def _number(text: str) -> int:
    """0 for what is no number: a receipt is information, and nothing is decided by it."""
    found = _SMALL.get(text)
    if found is not None:
        return found
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0


Siblings = Sequence[Sibling[bytes]]
