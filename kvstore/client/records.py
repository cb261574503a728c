"""What answers are read into: a record of one key, its siblings, and the receipt of what happened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Generic, NamedTuple, TypeVar

from kvstore.errors import SiblingsError

T = TypeVar("T")

_NO_META: Mapping[str, str] = MappingProxyType({})


class Receipt(NamedTuple):
    """What happened to one request.

    `context`: opaque; send it with a put to supersede what this answer showed (after a put: that put).
    `etag` names the siblings as they are now, "" where there are none; pass it as `if_match`.
    `acks` of `n` homes answered, `required` had to; for `hinted` of them a stand-in did. `siblings`:
    how many values a read shows now. `coordinator` and `request_id` are for the node's log. `served`, of
    a read with a fallback: quorum; stale (the replicas there were); remembered (no node was, this client
    saw it last).
    """

    context: str = ""
    etag: str = ""
    acks: int = 0
    n: int = 0
    required: int = 0
    hinted: int = 0
    siblings: int = 0
    coordinator: str = ""
    request_id: str = ""
    layout_version: int = 0
    served: str = ""


class Outcome(NamedTuple):
    """What became of a write. `outcome`: ok (as good as an acknowledgement) or unknown.

    `context` supersedes that write, "" if no node that answered holds it; with `unknown` it is held, by too
    few yet. `answered` of `n` homes said what they hold; `acks` hold the write durably, `required` have to.
    """

    outcome: str
    context: str = ""
    acks: int = 0
    n: int = 0
    required: int = 0
    answered: int = 0


class Sibling(NamedTuple, Generic[T]):
    """One of several concurrent values. `id` names it among them; `modified_ms` is Unix time, for
    display and for resolvers that must choose: no clock decides about siblings."""

    value: T
    id: str = ""
    content_type: str = "application/octet-stream"
    meta: Mapping[str, str] = _NO_META
    modified_ms: int | None = None

    @property
    def modified(self) -> datetime | None:
        return _moment(self.modified_ms)


@dataclass(frozen=True, slots=True)
class Record(Generic[T]):
    """What a read found: nothing, one value, or several that were written without knowing each other.

    `siblings` has no entry, one, or several. `resolved` is what the bucket's resolver made of
    several; nothing was written back. `context` supersedes all of them, also when nothing was found:
    then it covers the delete.
    """

    siblings: tuple[Sibling[T], ...]
    receipt: Receipt
    resolved: tuple[T] | None = None
    key: str | bytes = b""

    @property
    def found(self) -> bool:
        return bool(self.siblings)

    @property
    def conflicted(self) -> bool:
        return len(self.siblings) > 1

    @property
    def value(self) -> T | None:
        """The value, None if there is none. Raises SiblingsError if there are several and no resolver."""
        if self.resolved is not None:
            return self.resolved[0]
        if not self.siblings:
            return None
        if len(self.siblings) > 1:
            raise SiblingsError(
                f"{self.key!r} has {len(self.siblings)} concurrent values",
                siblings=tuple(sibling.value for sibling in self.siblings),
                context=self.context,
                advice="give the bucket a resolver, or put the one that is right with this context",
                request_id=self.receipt.request_id,
            )
        return self.siblings[0].value

    @property
    def context(self) -> str:
        return self.receipt.context

    @property
    def etag(self) -> str:
        return self.receipt.etag

    @property
    def meta(self) -> Mapping[str, str]:
        """Of the newest value."""
        newest = self._newest
        return newest.meta if newest else {}

    @property
    def content_type(self) -> str:
        """Of the newest value, "" if there is none."""
        newest = self._newest
        return newest.content_type if newest else ""

    @property
    def modified(self) -> datetime | None:
        """Of the newest value, to the second where one value was read alone."""
        newest = self._newest
        return newest.modified if newest else None

    @property
    def _newest(self) -> Sibling[T] | None:
        return max(self.siblings, key=lambda s: (s.modified_ms or 0, s.id), default=None)


@dataclass(frozen=True, slots=True)
class ScanItem(Generic[T]):
    """One key of a scan. `record` has no siblings if values were not asked for."""

    key: bytes
    record: Record[T]
    siblings: int = 1

    @property
    def value(self) -> T | None:
        """As Record.value."""
        return self.record.value


def _moment(unix_ms: int | None) -> datetime | None:
    return None if unix_ms is None else datetime.fromtimestamp(unix_ms / 1000, UTC)
