"""Who sends a request, by its bearer token; and a log of what was done to the cluster.

A connection that sends the same header again is who it was: then nothing is hashed. That comparison is
with what this very connection sent before, so its time tells nobody anything.
"""

from __future__ import annotations

from collections.abc import Callable

from multidict import CIMultiDictProxy, istr

from kvstore.core.credential import ANYBODY, Credentials, Principal
from kvstore.errors import Unauthorized
from kvstore.httpapi.connection import Connection
from kvstore.httpapi.routes import Call

AUTHORIZATION = istr("Authorization")


class Authentication:
    """`credentials`: None where everybody is let in. They may be replaced at any time."""

    def __init__(self, credentials: Credentials | None, now_ms: Callable[[], int]) -> None:
        self.credentials, self._now_ms = credentials, now_ms

    def principal(self, connection: Connection, headers: CIMultiDictProxy[str]) -> Principal:
        """Raises Unauthorized."""
        credentials = self.credentials
        if credentials is None:
            return ANYBODY
        given = headers.get(AUTHORIZATION, "")
        if given != connection.authorization or connection.known_by is not credentials:
            connection.principal = _look_up(credentials, given)
            connection.authorization, connection.known_by = given, credentials
        principal = connection.principal
        if principal is None:
            raise _unknown(given)
        if principal.expires_at_ms and self._now_ms() >= principal.expires_at_ms:
            raise Unauthorized(
                f"the token of {principal.name} has expired", advice="ask for a new one: `kvstore token new`"
            )
        return principal


def _look_up(credentials: Credentials, given: str) -> Principal | None:
    """As bytes: what others than ASCII send must not be an error of its own."""
    scheme, _, token = given.partition(" ")
    if scheme.lower() != "bearer":
        return None
    return credentials.principal(token.strip().encode("utf-8", "surrogateescape"))


def _unknown(given: str) -> Unauthorized:
    return Unauthorized(
        "the credential is none that this node knows" if given else "this node asks for a credential",
        advice="send Authorization: Bearer with a client token of the node's configuration",
    )


class Audit:
    """One event for each call that needs the role admin, whatever came of it.

    Who, from where, what and with which answer; no bodies and no tokens.
    """

    def __init__(self, log: Callable[..., None]) -> None:
        self._log = log

    def __call__(self, call: Call, connection: Connection, path: str, status: int) -> None:
        self._log(
            "audit",
            principal=call.principal.name or "anybody",
            address=connection.address,
            method=call.method,
            path=path[:1024],
            options={name: value.decode("utf-8", "replace")[:256] for name, value in call.options.items()},
            status=status,
            request_id=call.request_id,
        )
