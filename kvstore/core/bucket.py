"""The properties of a bucket, and how request, bucket and node defaults combine.

Precedence: request > bucket > node default. Contradictions are refused where they are
written down, not where they first hurt (B22).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any

from kvstore.core.quorum import Quorum, majority
from kvstore.errors import InvalidRequest

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,255}")

CONFLICTS = ("siblings", "last-write-wins")
BLIND_MODES = ("overwrite", "sibling", "reject")
DURABILITIES = ("sync", "async")
RATE_MIN, RATE_MAX = 0.001, 10**9


@dataclass(frozen=True, slots=True)
class BucketProperties:
    """One bucket's settings; r and w of 0 mean the majority of n.

    `n, r, w, pr, pw`: see Quorum. `conflict`: keep concurrent writes as siblings, or show the last
    by hybrid clock (loses concurrent writes, by definition). `blind`: what a put without a context
    does: overwrite what the coordinator holds, sit beside it, or be refused. `durability`: a vote
    is a synced copy, or (async) one in the engine, lost if all its holders crash within moments.
    `ttl_s`: age at which values expire, 0 for never. `sloppy`: where homes do not answer, stand-ins may
    count towards W, and those that hold hints towards R (Dynamo §4.6); never towards pw and pr.
    `requests_per_s`: how many each node takes for this bucket, 0 for as many as there is room for.
    """

    n: int = 3
    r: int = 0
    w: int = 0
    pr: int = 0
    pw: int = 0
    conflict: str = "siblings"
    blind: str = "overwrite"
    durability: str = "sync"
    ttl_s: float = 0.0
    sloppy: bool = True
    requests_per_s: float = 0.0
    default_quorum: Quorum = field(init=False, repr=False, compare=False)
    """The counts of a request that names none, made once."""

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("conflict", self.conflict, CONFLICTS),
            ("blind", self.blind, BLIND_MODES),
            ("durability", self.durability, DURABILITIES),
        ):
            if value not in choices:
                raise InvalidRequest(f"{name}={value!r:.64} must be one of {', '.join(choices)}")
        if self.ttl_s != 0 and not 0.001 <= self.ttl_s <= 100 * 365 * 86_400:
            raise InvalidRequest(f"ttl_s={self.ttl_s} must be 0 (never) or lie between 1 ms and 100 years")
        if self.requests_per_s != 0 and not RATE_MIN <= self.requests_per_s <= RATE_MAX:
            raise InvalidRequest(
                f"requests_per_s={self.requests_per_s} must be 0 (any) or {RATE_MIN} to {RATE_MAX}"
            )
        if self.conflict == "last-write-wins" and self.blind != "overwrite":
            raise InvalidRequest(
                f"conflict=last-write-wins keeps no siblings and takes no contexts; blind={self.blind} needs"
                " them: set blind=overwrite"
            )
        object.__setattr__(self, "default_quorum", self.quorum())

    @property
    def last_write_wins(self) -> bool:
        return self.conflict == "last-write-wins"

    def quorum(
        self,
        *,
        n: int | None = None,
        r: int | None = None,
        w: int | None = None,
        pr: int | None = None,
        pw: int | None = None,
    ) -> Quorum:
        """The effective counts of a request. Raises InvalidRequest with the two that contradict."""
        if n is not None and n > self.n:
            raise InvalidRequest(
                f"n={n} is more than the bucket's n={self.n}",
                advice="raise n in the bucket's properties; a request can only ask fewer homes",
            )
        n = self.n if n is None else n
        r = r if r is not None else (self.r or majority(n))
        w = w if w is not None else (self.w or majority(n))
        return Quorum(n, r, w, self.pr if pr is None else pr, self.pw if pw is None else pw)

    def as_dict(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self) if f.init}


def check_bucket_name(name: str) -> None:
    """Raises InvalidRequest with the form that names have."""
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"bucket name {name[:64]!r} is not of the form",
            advice="1 to 256 letters, digits, '.', '_', '~' or '-', beginning with a letter or digit",
        )


def properties_from(values: Mapping[str, Any], base: BucketProperties) -> BucketProperties:
    """`base` with some properties replaced, checked for name and type."""
    merged = base.as_dict()
    known = {name: type(value) for name, value in merged.items()}
    for name, value in values.items():
        if name not in known:
            close = get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
            raise InvalidRequest(f"unknown bucket property {name!r:.64}", advice=hint)
        wanted = known[name]
        if wanted is float and type(value) is int:
            value = float(value) if abs(value) < 1 << 53 else math.inf
        if type(value) is not wanted:
            raise InvalidRequest(f"{name}={value!r:.64} must be of type {wanted.__name__}")
        merged[name] = value
    return BucketProperties(**merged)
