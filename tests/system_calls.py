"""What reaches the disk, and in which order."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

HOST = platform.node().replace(".", "-")


@contextmanager
def system_calls(folder: Path) -> Iterator[list[str]]:
    """Record what is synced, renamed, linked and made below a folder, in order."""
    calls: list[str] = []
    sync, replace, make, tie = os.fsync, os.replace, os.mkdir, os.link

    def name(path: object) -> str:
        text = os.path.relpath(str(path), folder)
        return text.replace(f".{HOST}.{os.getpid()}.tmp", "~")

    def synced(handle: int) -> None:
        sync(handle)
        calls.append(f"sync {name(Path(f'/proc/self/fd/{handle}').readlink())}")

    def renamed(source: object, target: object, **how: int) -> None:
        replace(source, target, **how)  # type: ignore[call-overload]
        calls.append(f"rename {name(source)} {name(target)}")

    def linked(source: str | Path, target: str | Path) -> None:
        tie(source, target)
        calls.append(f"link {name(source)} {name(target)}")

    def made(path: object, mode: int = 0o777) -> None:
        make(path, mode)  # type: ignore[arg-type]
        calls.append(f"make {name(path)}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", synced)
        patch.setattr(os, "replace", renamed)
        patch.setattr(os, "rename", renamed)
        patch.setattr(os, "link", linked)
        patch.setattr(os, "mkdir", made)
        yield calls
