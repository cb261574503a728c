"""A data directory, claimed by one process: who uses it, and how far it was synced.

    process.lock   flock of the process that uses the directory; its pid as text
    synced.mark    sequence number: 8 bytes big-endian ‖ crc32 of these: 4 bytes

The mark is why a damaged log is noticed. The engine replays its log up to the first record that does
not parse and drops the rest, which is right for a tail that a crash tore, and wrong for a flipped bit in
front of records that were synced; by itself it cannot tell the two apart. The mark is written after each
sync and not synced itself, so it says too little after a power cut, and never too much.
"""

from __future__ import annotations

import fcntl
import os
import re
from pathlib import Path
from struct import Struct
from struct import error as struct_error
from zlib import crc32

from kvstore.errors import ConfigError, StorageFull

START_EMPTY = (
    "move it away and start with an empty one and recover_as=<id of this node>: the other homes fill it"
)

_MIB = 1024 * 1024
_MARK = Struct(">QI")
_ENGINE_DATA = re.compile(r"\d+\.(sst|log)")


class DataDirectory:
    """Created where it does not exist. Raises ConfigError, with the remedy, if it cannot be used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock_fd = os.open(path / "process.lock", os.O_RDWR | os.O_CREAT, 0o644)
        except (FileExistsError, NotADirectoryError):
            raise ConfigError(
                f"data directory {path}: a file is in its place; name a directory or move the file away"
            ) from None
        except OSError as error:
            raise ConfigError(
                f"data directory {path} cannot be used: {error.strerror}; "
                "give this user the right to read and write there, or name another directory"
            ) from None
        try:
            self._claim()
            self._refuse_remnants()
            self._mark_fd = os.open(path / "synced.mark", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            os.close(self._lock_fd)
            raise ConfigError(f"data directory {path} cannot be used: {error.strerror}") from None
        except ConfigError:
            os.close(self._lock_fd)
            raise

    def _claim(self) -> None:
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._lock_fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise ConfigError(
                f"data directory {self.path} is in use by process {holder}; "
                "stop that process, or give each node a directory of its own"
            ) from None
        os.ftruncate(self._lock_fd, 0)
        os.pwrite(self._lock_fd, f"{os.getpid()}\n".encode(), 0)

    def _refuse_remnants(self) -> None:
        """Where CURRENT is missing, the engine would begin anew and delete the tables it finds."""
        if (self.path / "CURRENT").exists():
            return
        remnants = sorted(p.name for p in self.path.iterdir() if _ENGINE_DATA.fullmatch(p.name))
        if remnants:
            raise ConfigError(
                f"data directory {self.path} is damaged ({remnants[0]} but no CURRENT): {START_EMPTY}"
            )

    @property
    def synced_through(self) -> int:
        """The sequence number that certainly was on disk; 0 if the mark says nothing."""
        try:
            sequence, checksum = _MARK.unpack(os.pread(self._mark_fd, _MARK.size, 0))
        except struct_error:
            return 0
        return int(sequence) if crc32(sequence.to_bytes(8, "big")) == checksum else 0

    def mark_synced(self, sequence: int) -> None:
        """Measured: 1 µs. Raises OSError."""
        os.pwrite(self._mark_fd, _MARK.pack(sequence, crc32(sequence.to_bytes(8, "big"))), 0)

    def headroom_bytes(self, reserve_bytes: int, step_bytes: int) -> int:
        """What may be written until the next look, `step_bytes` at most. Raises StorageFull if nothing."""
        status = os.statvfs(self.path)
        free = status.f_bavail * status.f_frsize
        if free <= reserve_bytes:
            raise StorageFull(
                f"{free // _MIB} MiB are free for {self.path}, {reserve_bytes // _MIB} MiB are kept free: "
                "make room on that disk"
            )
        return min(free - reserve_bytes, step_bytes)

    def free_name(self, name: str) -> Path:
        """name-1, name-2, …: the first that is not there."""
        number = 1
        while (self.path / f"{name}-{number}").exists():
            number += 1
        return self.path / f"{name}-{number}"

    def release(self) -> None:
        """Idempotent."""
        if self._lock_fd >= 0:
            os.close(self._mark_fd)
            os.close(self._lock_fd)
            self._lock_fd = self._mark_fd = -1
