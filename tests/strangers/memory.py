"""How much memory this process has, for tests that nothing grows."""

from __future__ import annotations

import gc
import os
from pathlib import Path

MIB = 1 << 20


def resident_bytes(pid: int | None = None) -> int:
    """Of this process after a collection, or of another one."""
    if pid is None:
        gc.collect()
    pages = int(Path(f"/proc/{pid or 'self'}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
