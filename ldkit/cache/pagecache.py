"""What the system keeps of files in memory, so that a cold read can be told from a warm one."""

import ctypes
import mmap
import os
from pathlib import Path

import numpy as np

BLOCK = 1 << 20


def evict(path: Path) -> None:
    """Ask the system to forget a file's pages; those that are mapped or not yet written stay.

    Where it cannot be asked (macOS) nothing happens: `resident_share` tells.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)


def refill(path: Path) -> None:
    """Bring a file into the system's memory in order, as the proof of a shard does.

    What came there by reads at random lies in small pages, which take up to twice as long to copy.
    """
    evict(path)
    with path.open("rb", buffering=0) as file:
        while file.read(BLOCK):
            pass


def resident_share(path: Path) -> float | None:
    """Return which share of a file's pages lies in memory; None: the system does not say."""
    mincore = getattr(ctypes.CDLL(None, use_errno=True), "mincore", None)
    size = path.stat().st_size
    if mincore is None or not size:
        return None
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        content = np.frombuffer(mapped, np.uint8)
        pages = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
        address = ctypes.c_void_p(content.ctypes.data)
        failed = mincore(address, ctypes.c_size_t(size), pages)
        del content  # a mapping that is looked at does not close
    return None if failed else float((np.frombuffer(bytes(pages), np.uint8) & 1).mean())
