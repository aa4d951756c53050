"""Caches at URLs, read through a bounded folder of shards on this machine.

    STORE/9f2c40d1a86e5b73/     the mirror of one cache: an ordinary cache folder
      origin.json               where its shards come from
      plan.json, manifest.json, shards/000000.json
      shards/000000.safetensors fetched before it is opened first, evicted when room is needed

Whoever opens a shard of a mirror gets it, in any process: the folder says by itself where it comes
from. An open shard holds a shared lock, and only a shard without one is evicted, so that several
processes can use one store. A folder that is no mirror is its own store: nothing is added to it.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from ldkit.cache.folder import CacheFolder, open_file, read_document
from ldkit.cache.generations import fingerprint
from ldkit.cache.receipts import Receipt
from ldkit.cache.remote import Remote, is_url
from ldkit.cache.remote_cache import read_remote
from ldkit.errors import CacheCorrupt, StorageError, UsageError
from ldkit.files import abandoned, write_bytes, write_changed

LIMIT_VARIABLE = "LDKIT_STORE_GB"
DEFAULT_LIMIT_GB = 20.0
NAME_DIGITS = 16
"""Digits of a cache's fingerprint that name its mirror."""


class _Shard(NamedTuple):
    """A shard in the store, by its last use."""

    used: float
    size: int
    path: Path


@dataclass(frozen=True, slots=True)
class Store:
    """The mirrors of a user, and how many bytes their shards may take together."""

    root: Path
    limit_bytes: float

    @classmethod
    def of_user(cls, environment: Mapping[str, str] = os.environ) -> "Store":
        """Return the store below the user's cache folder, as large as LDKIT_STORE_GB says.

        Raises:
            UsageError: That is no positive number.
        """
        stated = environment.get(LIMIT_VARIABLE, str(DEFAULT_LIMIT_GB))
        with suppress(ValueError):
            if float(stated) > 0:
                home = environment.get("XDG_CACHE_HOME") or "~/.cache"
                return cls(Path(home).expanduser() / "ldkit" / "caches", float(stated) * 1e9)
        raise UsageError(
            f"is {stated!r}, but must be a positive number of GB.",
            where=LIMIT_VARIABLE,
            hint=f"Unset it for {DEFAULT_LIMIT_GB:g} GB.",
        )

    def mirror(self, remote: Remote) -> Path:
        """Return the local folder of a cache at a URL; its documents are there, no shard need be.

        Raises:
            CacheIncomplete: There is no sealed cache.
            CacheCorrupt: Its documents are not what was written.
            StorageError: It cannot be reached, or the store cannot be written.
        """
        parts = read_remote(remote)
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)  # a URL may hold a password
        except OSError as error:
            raise StorageError(
                f"could not be made: {error.strerror or error}.",
                where=str(self.root),
                hint="It is where shards of URLs are kept. Name a folder that you can write to "
                "(XDG_CACHE_HOME).",
            ) from error
        path = self.root / fingerprint(parts)[:NAME_DIGITS]
        for part in (*parts[1:], parts[0]):  # the root's manifest is the last file
            origin = {"url": remote.where(part.folder.path.as_posix()).removesuffix("/.")}
            folder = CacheFolder(path / part.folder.path)
            write_changed(folder.path / "origin.json", json.dumps(origin).encode())
            write_changed(folder.plan, part.plan.to_bytes())
            for receipt in part.manifest.receipts:
                write_changed(folder.receipt(receipt.shard), receipt.to_bytes())
            write_changed(folder.manifest, part.manifest.to_bytes())
            for stale in (*abandoned(folder.path), *abandoned(folder.shards)):
                stale.unlink(missing_ok=True)
        return path

    def write(self, path: Path, content: bytes) -> None:
        """Write a shard; who else writes one waits, so that together they keep to the limit."""
        with _alone(self.root / "store"):
            self.make_room(len(content))
            write_bytes(path, content)

    def make_room(self, count: int) -> None:
        """Evict shards, the least recently used first, until so many bytes more fit.

        A shard that is open in any process stays; where all are, the store outgrows its limit.
        """
        found = sorted(_shards(self.root))
        excess = sum(shard.size for shard in found) + count - self.limit_bytes
        for shard in found:
            if excess <= 0:
                return
            if _evict(shard.path):
                excess -= shard.size


def local(place: str) -> Path:
    """Return the folder of a cache: the path itself, or the mirror of a URL.

    Raises:
        LdkitError: What `Store.mirror` raises.
    """
    return Store.of_user().mirror(Remote(place)) if is_url(place) else Path(place)


def origin_of(folder: Path) -> str | None:
    """Return the URL that a folder mirrors; None: it is no mirror.

    Only a folder of the user's store is believed: a cache from elsewhere shall not send its reader
    to a URL.

    Raises:
        CacheCorrupt: The folder says that it is one, but not of what.
    """
    if not _lies_in(folder, Store.of_user().root):
        return None
    file = folder / "origin.json"
    try:
        return str(json.loads(file.read_bytes())["url"])
    except OSError:  # what hinders us hinders the opening of a shard, which tells
        return None
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise CacheCorrupt(
            "does not say where this copy comes from.",
            where=str(file),
            hint="Delete the folder, and name the cache by its URL again.",
        ) from error


def hold(path: Path) -> int:
    """Return a new descriptor of a shard; one of a mirror is fetched first and cannot be evicted.

    Raises:
        OSError: It cannot be opened.
        LdkitError: It cannot be fetched.
    """
    if origin_of(path.parents[1]) is None:
        return open_file(path)
    while True:
        fetch(path)
        with suppress(FileNotFoundError):  # evicted since
            handle = open_file(path)
            with suppress(OSError):  # a file system without locks: it may be evicted
                fcntl.flock(handle, fcntl.LOCK_SH)
            return handle


def most_open(path: Path) -> int | None:
    """Return how many shards like this one may be open at once; None: any number.

    Those of a mirror may fill half of the store. The other half is for those fetched ahead.
    """
    folder = CacheFolder(path.parents[1])
    if origin_of(folder.path) is None:
        return None
    size = read_document(folder.receipt(int(path.stem)), Receipt).bytes
    return max(1, int(Store.of_user().limit_bytes / 2 / size))


def fetch(path: Path) -> None:
    """Fetch a shard of a mirror, unless it is there; either way it was used just now.

    Raises:
        CacheCorrupt: The shard at the URL is not what it was.
        StorageError: It cannot be reached, or the disk is full.
    """
    if _touch(path):
        return
    folder = CacheFolder(path.parents[1])
    origin = origin_of(folder.path)
    receipt = read_document(folder.receipt(int(path.stem)), Receipt)
    with _alone(path):
        if origin is None or _touch(path):
            return
        content = Remote(origin).proved(f"shards/{path.name}", receipt)
        for stale in abandoned(path.parent):
            stale.unlink(missing_ok=True)
        try:
            Store.of_user().write(path, content)
        except StorageError as error:
            error.hint = (
                f"It is a copy of {origin}. Free space, let the store be smaller "
                f"({LIMIT_VARIABLE}), or move it to another disk (XDG_CACHE_HOME)."
            )
            raise


@lru_cache(maxsize=256)  # asked whenever a shard is opened, and resolving takes longer than that
def _lies_in(folder: Path, root: Path) -> bool:
    return root.resolve() in folder.resolve().parents


def lock_of(path: Path) -> Path:
    """Return the file whose lock keeps others from writing the same; it stays beside it."""
    return path.with_name(f".{path.name}.lock")


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep other processes and threads from writing the same."""
    handle = os.open(lock_of(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with suppress(OSError):  # a file system without locks: both fetch the same bytes
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _touch(path: Path) -> bool:
    """Note that a shard is used now; return whether it is there."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _shards(root: Path) -> Iterator[_Shard]:
    """Yield the shards of mirrors: another cache that stands in the store has no origin."""
    for origin in root.rglob("origin.json"):
        for path in CacheFolder(origin.parent).shards.glob("*.safetensors"):
            with suppress(FileNotFoundError):  # evicted by another process
                found = path.stat()
                yield _Shard(found.st_mtime, found.st_size, path)


def _evict(path: Path) -> bool:
    """Remove a shard that no process holds; return whether it is gone."""
    try:
        handle = open_file(path)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except OSError:  # it is held, or the file system knows no locks
        return False
    finally:
        os.close(handle)
    return True
