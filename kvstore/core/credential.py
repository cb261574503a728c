"""Who may do what. Of a client's token only a hash is kept. Pure.

Tokens are 32 random bytes, so a plain SHA-256 says nothing of them that could be searched for; slow
hashes are for what people think up. A token is found by its hash: the time that takes depends on hashes
of what was sent, which nobody can steer towards a known one, and not on any secret's own bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from hashlib import sha256


class Role(IntEnum):
    """Each includes those before it."""

    READ = 1
    WRITE = 2
    ADMIN = 3


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody with a name. `buckets`: names, or beginnings of names followed by *; () for all of them.

    `expires_at_ms`: Unix time, 0 for never.
    """

    name: str
    role: Role
    buckets: tuple[str, ...] = ()
    expires_at_ms: int = 0
    _exact: frozenset[str] = field(init=False, repr=False, compare=False)
    _prefixes: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        prefixes = tuple(name[:-1] for name in self.buckets if name.endswith("*"))
        object.__setattr__(self, "_exact", frozenset(n for n in self.buckets if not n.endswith("*")))
        object.__setattr__(self, "_prefixes", prefixes)

    def may(self, needed: Role, bucket: str) -> bool:
        """`bucket`: "" for what is of no bucket. Who administrates some buckets does not the node."""
        if self.role < needed:
            return False
        if not self.buckets:
            return True
        if bucket:
            return bucket in self._exact or bucket.startswith(self._prefixes)
        return needed is not Role.ADMIN


ANYBODY = Principal("", Role.ADMIN)
"""Everybody, where no credential is asked for."""


def hash_of(token: bytes) -> bytes:
    """What is kept of a token: 32 bytes."""
    return sha256(token).digest()


class Credentials:
    """The tokens that a node knows, by their hashes."""

    def __init__(self, principals: Mapping[bytes, Principal]) -> None:
        self._principals = dict(principals)

    def principal(self, token: bytes) -> Principal | None:
        return self._principals.get(hash_of(token))

    def __len__(self) -> int:
        return len(self._principals)


def only(token: str, name: str) -> dict[bytes, Principal]:
    """One token that may do everything."""
    return {hash_of(token.encode()): Principal(name, Role.ADMIN)}
