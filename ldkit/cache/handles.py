"""Open shards of one process: opened on first use, never too many, closed with their owner."""

import os
import weakref
from pathlib import Path

from ldkit.cache.folder import unreadable
from ldkit.cache.store import hold, most_open

LIMIT = 256
"""Files open at once. Systems allow a process 1,024 and more; large caches have more shards."""


class Handles:
    """File descriptors by path, for reading at random."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._open: dict[Path, int] = {}
        self._finalizer = weakref.finalize(self, _close, self._open)

    def of(self, path: Path) -> int:
        """Return the descriptor of a shard; opening one may close those opened longest ago.

        Raises:
            StorageError: The file cannot be opened, or fetched where it is one of a mirror.
        """
        handle = self._open.get(path)
        if handle is None:
            limit = min(self._limit, most_open(path) or self._limit)
            while len(self._open) >= limit:
                os.close(self._open.pop(next(iter(self._open))))
            handle = self._open[path] = _open(path)
        return handle

    def close(self) -> None:
        """Close every file; they open again on the next use."""
        _close(self._open)


def _open(path: Path) -> int:
    try:
        handle = hold(path)
    except OSError as error:
        raise unreadable(path, error) from error
    if hasattr(os, "posix_fadvise"):  # absent on macOS
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_RANDOM)
    return handle


def _close(handles: dict[Path, int]) -> None:
    while handles:
        os.close(handles.popitem()[1])
