"""What a client is made of, from its arguments and the environment; the same for both clients."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from kvstore.client.call import Shared
from kvstore.client.endpoints import credential, origins
from kvstore.client.options import checked_timeout_s, priority_header
from kvstore.client.retry import Policy, RetryBudget
from kvstore.client.routing import Router

REQUEST_TIMEOUT_S = 2.0  # for one operation with all its attempts
CONNECT_TIMEOUT_S = 1.0
LAYOUT_TIMEOUT_S = 0.5  # the layout is a hint, not worth a longer wait
KEEP_ALIVE_S = 30.0  # half of a node's idle timeout: what is still open here is open there
CONNECTIONS_MAX = 64  # per node; a node takes 512 from all its clients
RESPONSE_BYTES_MAX = 64 * 1024 * 1024  # a page or batch of the largest values; more is a stranger's

# Said here, because a library that has to leave its own out takes longer than for the whole header.
_EVERY_REQUEST = {"User-Agent": "kvstore", "Accept-Encoding": "identity"}


def shared_of(
    nodes: str | Iterable[str] | None,
    *,
    token: str | None,
    priority: str = "normal",
    connect_timeout_s: float,
    follow_layout: bool,
    policy: Policy,
    environment: Mapping[str, str] | None = None,
) -> Shared:
    """Raises ConfigError, InvalidRequest."""
    found = os.environ if environment is None else environment
    return Shared(
        Router(origins(nodes, found), follow_layout=follow_layout),
        policy=policy,
        budget=RetryBudget(),
        connect_s=checked_timeout_s(connect_timeout_s),
        base_headers=_EVERY_REQUEST | credential(token, found) | priority_header(priority),
    )


def new_operation_id() -> str:
    """32 hex digits. Chance enough that no two operations are ever taken for one."""
    return os.urandom(16).hex()
