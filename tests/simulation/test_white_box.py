"""What the simulator's own eyes see, and what must not blind them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from kvstore.core.encoding import encode_state
from kvstore.core.ring import full_key, partition_of
from kvstore.core.sibling import EMPTY_STATE, Version, write
from kvstore.core.vector_clock import EMPTY_CONTEXT
from kvstore.node.ports import Kind
from kvstore.simulation.plan import Machine, Plan
from kvstore.simulation.white_box import WhiteBox
from kvstore.storage.memory import MemoryDisk, MemoryStorage

STATE = encode_state(write(EMPTY_STATE, EMPTY_CONTEXT, Version(b"v"), (1, 1)))


async def test_a_restored_copy_with_a_rotten_record_is_watched_like_any_other() -> None:
    machine = cast(Any, SimpleNamespace(disk=MemoryDisk(), clock=SimpleNamespace(elapsed_s=lambda: 0.0)))
    watch = WhiteBox()
    watch.began({"n1": machine}, Plan(1, 10.0, (Machine("n1"),), n=1, r=1, w=1))
    keys = [full_key("b", name) for name in (b"whole", b"rotten")]
    storage = MemoryStorage(MemoryDisk())
    for key in keys:
        storage.apply([(Kind.DATA, partition_of(key), key, STATE)])
    await storage.sync()
    storage.disk.flip_bit(Kind.DATA, partition_of(keys[1]), keys[1], 100)

    machine.disk = storage.disk
    watch.restarted("n1")
    assert machine.disk.observer is not None
    assert set(watch.invariants._disks["n1"].durable) == {keys[0]}
