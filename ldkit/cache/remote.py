"""A cache at a URL: whole files, read and written through fsspec, patiently.

A file is small enough to be held in memory, as the builder holds a shard. What comes is proved
before it is used, so a cut or changed file is never taken for the right one. The file system is
asked for anew at each call: fsspec keeps one for each process, and none survives a fork.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from fsspec.core import url_to_fs

from ldkit.cache.folder import DOCUMENT_LIMIT
from ldkit.cache.receipts import Receipt
from ldkit.errors import CacheCorrupt, StorageError, UsageError

PAUSES_SECONDS = (0.5, 2.0, 8.0)
"""How long to wait before each further attempt at what failed."""

LASTING = (FileNotFoundError, IsADirectoryError, PermissionError, NotImplementedError)
"""What another attempt does not change."""

PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "http": "aiohttp",
    "https": "aiohttp",
    "az": "adlfs",
    "abfs": "adlfs",
    "sftp": "paramiko",
    "ssh": "paramiko",
    "smb": "smbprotocol",
}
"""Protocol → the package that speaks it, for those that fsspec does not bring along."""

WITH_FOLDERS = ("file", "local", "sftp", "ssh", "smb", "hdfs")
"""Protocols where a folder must be made before a file stands in it."""

Result = TypeVar("Result")


def is_url(place: str) -> bool:
    """Say whether a place is a URL, and no path."""
    return "://" in place


@dataclass(frozen=True, slots=True)
class Remote:
    """The files below a URL. Names are relative to it.

    Every method raises:
        UsageError: The protocol is unknown, or its package is not installed.
        StorageError: The place cannot be reached or does not let us.
    """

    url: str

    def __str__(self) -> str:
        return self.url

    def where(self, name: str) -> str:
        """Return the URL of a file."""
        return f"{self.url.rstrip('/')}/{name}"

    def find(self, name: str, limit: int = DOCUMENT_LIMIT) -> bytes | None:
        """Return the content of a file; None where there is none.

        Of one that has more than `limit` bytes, only the first `limit` + 1 are returned.
        """

        def read(system: Any, path: str) -> bytes | None:
            try:
                content: bytes = system.cat_file(path, start=0, end=limit + 1)
            except FileNotFoundError:
                return None
            except Exception:  # each kind of server says in its own way that an empty file, as
                if system.size(path) == 0:  # a stopped push may leave, has no such part
                    return b""
                raise
            return content[: limit + 1]  # a server may send all

        return self._patiently("read", name, read)

    def find_many(self, names: Sequence[str]) -> dict[str, bytes]:
        """Return the content of those files that can be read, by name."""

        def read(system: Any, path: str) -> dict[str, bytes]:
            root = path.removesuffix("/")
            paths = {f"{root}/{name}": name for name in names}
            found = system.cat(list(paths), on_error="omit") if paths else {}
            return {paths[path]: content for path, content in found.items()}

        return self._patiently("read", "", read)

    def proved(self, name: str, receipt: Receipt) -> bytes:
        """Return the content of a shard, which is what its receipt says.

        Raises:
            CacheCorrupt: It is missing, or other bytes come at each attempt.
        """
        problem = ""
        for _ in range(len(PAUSES_SECONDS)):
            content = self.find(name, receipt.bytes)
            if content is None:
                raise self.corrupt(name, "is missing.")
            if len(content) > receipt.bytes:
                problem = f"has more than the {receipt.bytes} bytes that its receipt says."
                continue
            problem = difference(content, receipt)
            if not problem:
                return content
        error = self.corrupt(name, problem)
        error.hint = (
            "Push the cache again (`ldkit cache push`) once this file is deleted there: "
            "a shard of the right size is not sent anew before."
        )
        raise error

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the bytes of each file of a folder, by name; of folders in it no true number.

        Nothing is listed where there is no folder, or a server that lists none.
        """

        def look(system: Any, path: str) -> dict[str, int]:
            system.invalidate_cache()
            try:
                entries = system.ls(path, detail=True)
            except FileNotFoundError:
                return {}
            names = [str(entry["name"]).rstrip("/").rsplit("/", 1)[-1] for entry in entries]
            sizes = [int(entry["size"] or 0) for entry in entries]
            return dict(zip(names, sizes, strict=True))

        return self._patiently("listed", folder, look)

    def write(self, name: str, content: bytes) -> None:
        """Write a file."""

        def write(system: Any, path: str) -> None:
            if self.url.partition("://")[0] in WITH_FOLDERS:
                system.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
            system.pipe_file(path, content)

        self._patiently("written", name, write)

    def remove(self, name: str) -> None:
        """Remove a file that is there."""
        self._patiently("removed", name, lambda system, path: system.rm_file(path))

    def corrupt(self, name: str, message: str) -> CacheCorrupt:
        """Return the error for a file that is not what was pushed."""
        return CacheCorrupt(
            message,
            where=self.where(name),
            hint="Push the cache again (`ldkit cache push`): what differs is sent anew.",
        )

    def _patiently(self, done: str, name: str, act: Callable[[Any, str], Result]) -> Result:
        """Return what the action returns; failures that may pass are tried again.

        Each file system raises errors of its own kind, so every one is taken for a failure.
        """
        system, root = connect(self.url)
        path = f"{root.rstrip('/')}/{name}" if name else root
        for pause in (*PAUSES_SECONDS, None):
            try:
                return act(system, path)
            except Exception as error:
                if pause is None or isinstance(error, LASTING):
                    raise _failure(self.where(name), done, error) from error
            time.sleep(pause)
        raise AssertionError("the last attempt returns or raises")


def difference(content: bytes, receipt: Receipt) -> str:
    """Return in what a shard differs from its receipt; empty where it is the same."""
    if len(content) != receipt.bytes:
        return size_difference(len(content), receipt)
    found = hashlib.sha256(content).hexdigest()
    if found == receipt.sha256:
        return ""
    return (
        f"is not what its receipt says.\n  expected sha256 {receipt.sha256}\n"
        f"  found           {found}"
    )


def size_difference(found: int, receipt: Receipt) -> str:
    """Return in what a shard of another size differs from its receipt."""
    return f"has {found} bytes; its receipt says {receipt.bytes}."


def connect(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and the path in it.

    Raises:
        UsageError: The protocol is unknown, or its package is not installed.
    """
    protocol = url.partition("://")[0]
    try:
        system, root = url_to_fs(url)
    except ImportError as error:
        package = PACKAGES.get(protocol)
        hint = f"Run `pip install {package}`, then the same command again." if package else ""
        raise UsageError(
            f"needs a package that is not installed: {error}.", where=url, hint=hint
        ) from error
    except ValueError as error:
        raise UsageError(
            f"cannot be used: {error}.",
            where=url,
            hint="Name a URL that fsspec knows, such as s3://BUCKET/NAME, gs://BUCKET/NAME, "
            "https://HOST/NAME or memory://NAME.",
        ) from error
    return system, root


def _failure(where: str, done: str, error: Exception) -> StorageError:
    said = str(error) or "no reason given"
    return StorageError(
        f"could not be {done}: {type(error).__name__}: {said}.",
        where=where,
        hint="Check the network, the address and your credentials, then run the same command "
        "again: it goes on where it stopped.",
    )
