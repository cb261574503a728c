"""Who a node is to its peers."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from kvstore.core.membership import NodeId
from kvstore.core.ring import PARTITIONS
from kvstore.errors import ConfigError

CLUSTER_KEY_BYTES_MIN = 16
INSTANCE_BYTES = 16
NODE_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Identity:
    """What the handshake says and proves.

    `cluster_id()` is "" until the cluster is formed; until then the key alone decides. `incarnation` is
    the node's start counter. `instance` names this process: it tells a connection to oneself (one's own
    address among the seeds) from a twin (two processes on copies of one data directory).
    """

    node_id: NodeId
    cluster_key: bytes = field(repr=False)
    incarnation: int
    cluster_id: Callable[[], str]
    partitions: int = PARTITIONS
    instance: bytes = field(default_factory=lambda: os.urandom(INSTANCE_BYTES), repr=False)

    def __post_init__(self) -> None:
        if len(self.cluster_key) < CLUSTER_KEY_BYTES_MIN:
            raise ConfigError(
                f"the cluster key has {len(self.cluster_key)} bytes, at least {CLUSTER_KEY_BYTES_MIN} are"
                " needed: make one from random bytes and give it to every node of the cluster"
            )
        if not NODE_ID.fullmatch(self.node_id):
            raise ConfigError(f"node id {self.node_id!r} is not 32 hex digits")
