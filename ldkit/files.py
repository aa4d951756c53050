"""Write files so that a reader sees the old content or the new, never a mixture.

Every write of ldkit goes through `replacing`: a temporary file in the same folder, fsync,
rename, fsync of the folder. A full disk or a kill leaves what was there before.
"""

import hashlib
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ldkit.errors import StorageError

SHOWN_DIGITS = 12

FOREIGN_SECONDS = 24 * 3600
"""A temporary file of another machine is left alone for so long."""


@contextmanager
def replacing(path: Path, *, keep: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes the place of `path`, durably.

    With `keep`, what is at `path` by then stays: of several writers the first one counts.

    Raises:
        StorageError: The disk is full, the folder cannot be written, or `path` is a folder.
            The temporary file is removed and `path` is as it was.
    """
    temporary = path.with_name(f".{path.name}.{_host()}.{os.getpid()}.tmp")
    try:
        if path.is_dir():
            raise StorageError(
                "is a folder, but a file is to be written there.",
                where=str(path),
                hint="Name another file, or remove the folder.",
            )
        _make_folder(path.parent)
        temporary.unlink(missing_ok=True)  # of a killed process of this number: it may be a link
        yield temporary
        _sync(temporary)
        _put(temporary, path, keep=keep)
        _sync(path.parent)
    except OSError as error:
        raise StorageError(
            f"could not be written: {why_not_written(path, error)}.",
            where=str(path),
            hint="Nothing half-written was left. Free space or choose another folder, then "
            "run the same command again: it goes on where it stopped.",
        ) from error
    finally:
        with suppress(OSError):  # gone already, or the folder itself is the trouble
            temporary.unlink()


def why_not_written(path: Path, error: OSError) -> str:
    """Return why writing `path` failed: the system's words, or the file that is in the way."""
    if isinstance(error, FileExistsError | NotADirectoryError):
        for folder in (path, *path.parents):
            if folder.is_file():
                return f"{folder} is a file, not a folder"
    return error.strerror or str(error)


def abandoned(folder: Path) -> Iterator[Path]:
    """Yield the temporary files in a folder whose writers are no more.

    Of a writer on another machine that cannot be known; its file is left for a day.
    """
    for path in folder.glob(".*.tmp"):
        *_, host, writer, _ = path.name.split(".")
        if host != _host() or not writer.isdecimal():
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > FOREIGN_SECONDS:
                    yield path
        elif not _is_running(int(writer)):
            yield path


def _host() -> str:
    """Return the name of this machine, without dots."""
    return platform.node().replace(".", "-").replace("/", "-")


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # another user's; no number of a process
        return True
    return True


def _make_folder(path: Path) -> None:
    """Make a folder and its parents, each known to its parent durably."""
    if path.is_dir():
        return
    _make_folder(path.parent)
    path.mkdir(exist_ok=True)
    _sync(path.parent)


def _put(temporary: Path, path: Path, *, keep: bool) -> None:
    if not keep:
        temporary.replace(path)
        return
    try:
        os.link(temporary, path)
    except FileExistsError:
        return
    except OSError:  # a file system without links
        temporary.replace(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: Path, content: bytes, *, keep: bool = False) -> None:
    """Write `content`, atomically; with `keep` only where no other file is by then."""
    with replacing(path, keep=keep) as temporary:
        temporary.write_bytes(content)


def write_changed(path: Path, content: bytes) -> None:
    """Write a small file, unless it has this content: then its folder may be read-only."""
    with suppress(FileNotFoundError):
        if path.read_bytes() == content:
            return
    write_bytes(path, content)


def canonical_json(value: object) -> str:
    """Return JSON with sorted keys and no spaces: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def fingerprint(value: object) -> str:
    """Return the sha256 (hex) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode("utf-8")).hexdigest()


def short(digest: str) -> str:
    """Return the digits of a fingerprint that are shown to people."""
    return digest[:SHOWN_DIGITS]
