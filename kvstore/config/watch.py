"""Whether files have changed since they were last looked at: for what is reloaded without a restart."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

_Mark = tuple[int, int, int] | None


class FileWatch:
    """Looks at inode, size and time of modification; a file that is away has changed once."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = tuple(paths)
        self._marks = self._look()

    def changed(self) -> bool:
        """Since the last call, or since it was made."""
        marks, before = self._look(), self._marks
        self._marks = marks
        return marks != before

    def _look(self) -> tuple[_Mark, ...]:
        return tuple(map(_mark, self._paths))


def _mark(path: Path) -> _Mark:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
