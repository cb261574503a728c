from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

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
