from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from kvstore.core.limits import Limits
from tests.node.world import World


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """Three nodes that formed a cluster."""
    made = World()
    for name in ("n1", "n2", "n3"):
        await made.start(name)
    await made.formed()
    yield made
    await made.stop()
    assert not made.fatal


@pytest.fixture
async def five() -> AsyncIterator[World]:
    """Five nodes in three zones, three homes for each key, and deadlines that tests can wait for."""
    made = World()
    for name in ("n1", "n2", "n3", "n4", "n5"):
        await made.start(name, expect=5, limits=Limits(peer_deadline_s=0.05))
    made.form_at_once()
    yield made
    await made.stop()
    assert not made.fatal
