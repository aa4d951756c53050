"""Open shards of one process: opened on first use, never too many, closed with their owner."""

import os
import resource
import weakref
from collections.abc import Callable
from pathlib import Path

from ldkit.cache.folder import unreadable
from ldkit.cache.store import hold, most_open

MOST = 4096
"""Files open at once, where the system allows a process twice as many."""


class Handles:
    """File descriptors by path, for reading at random; `limit` None: half of what is allowed."""

    def __init__(self, limit: int | None = None) -> None:
        self._limit = _allowed() if limit is None else limit
        self._open: dict[str, int] = {}
        self._finalizer = weakref.finalize(self, _close, self._open)

    def of(self, file: str, admit: Callable[[int], None]) -> int:
        """Return the descriptor of a shard; opening one may close those opened longest ago.

        `admit` checks a new one: the file may be another than the one that was proved.

        Raises:
            CacheCorrupt: It is another, and not what was written.
            StorageError: The file cannot be opened, or fetched where it is one of a mirror.
        """
        handle = self._open.get(file)
        if handle is None:
            path = Path(file)
            limit = min(self._limit, most_open(path) or self._limit)
            while len(self._open) >= limit:
                os.close(self._open.pop(next(iter(self._open))))
            handle = _open(path)
            try:
                admit(handle)
            except BaseException:
                os.close(handle)
                raise
            self._open[file] = handle
        return handle

    def close(self) -> None:
        """Close every file; they open again on the next use."""
        _close(self._open)


def _allowed() -> int:
    """Return half of the files that a process may have open: usually 512 of 1,024."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if soft == resource.RLIM_INFINITY else max(1, min(MOST, soft // 2))


def _open(path: Path) -> int:
    try:
        handle = hold(path)
    except OSError as error:
        raise unreadable(path, error) from error
    if hasattr(os, "posix_fadvise"):  # absent on macOS
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_RANDOM)
    return handle


def _close(handles: dict[str, int]) -> None:
    while handles:
        os.close(handles.popitem()[1])
