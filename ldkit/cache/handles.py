"""Open files of one process: opened on first use, never too many, closed with their owner."""

import os
import weakref
from pathlib import Path

from ldkit.cache.folder import unreadable

LIMIT = 256
"""Files open at once. Systems allow a process 1,024 and more; large caches have more shards."""


class Handles:
    """File descriptors by path, for reading at random."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._open: dict[Path, int] = {}
        self._finalizer = weakref.finalize(self, _close, self._open)

    def of(self, path: Path) -> int:
        """Return the descriptor of a file; opening one may close the one opened longest ago.

        Raises:
            StorageError: The file cannot be opened.
        """
        handle = self._open.get(path)
        if handle is None:
            if len(self._open) >= self._limit:
                os.close(self._open.pop(next(iter(self._open))))
            handle = self._open[path] = _open(path)
        return handle

    def close(self) -> None:
        """Close every file; they open again on the next use."""
        _close(self._open)


def _open(path: Path) -> int:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise unreadable(path, error) from error
    if hasattr(os, "posix_fadvise"):  # absent on macOS
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_RANDOM)
    return handle


def _close(handles: dict[Path, int]) -> None:
    while handles:
        os.close(handles.popitem()[1])
