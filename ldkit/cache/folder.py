"""The folder of a cache: what stands where, and which shards are still missing."""

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from ldkit.cache.document import REBUILD, Kind, from_bytes
from ldkit.cache.format import Plan
from ldkit.cache.receipts import Receipt
from ldkit.errors import CacheCorrupt, CacheError, CacheIncomplete, StorageError

DOCUMENT_LIMIT = 1 << 28
"""Longest document in bytes: the manifest of half a million shards."""


@dataclass(frozen=True, slots=True)
class CacheFolder:
    """The files of one cache."""

    path: Path

    @property
    def plan(self) -> Path:
        """Return the file that says what shall be."""
        return self.path / "plan.json"

    @property
    def manifest(self) -> Path:
        """Return the file whose presence means that the cache is sealed."""
        return self.path / "manifest.json"

    @property
    def shards(self) -> Path:
        """Return the folder of shards and receipts."""
        return self.path / "shards"

    def shard(self, number: int) -> Path:
        """Return the file of a shard."""
        return self.shards / f"{number:06d}.safetensors"

    def receipt(self, number: int) -> Path:
        """Return the file that proves a shard complete."""
        return self.shards / f"{number:06d}.json"

    @property
    def generations(self) -> Path:
        """Return the folder of what extends this cache, generation by generation."""
        return self.path / "generations"

    def generation(self, number: int) -> "CacheFolder":
        """Return the files of a generation, counted from 1."""
        return CacheFolder(self.generations / f"{number:03d}")

    @property
    def command(self) -> str:
        """Return the command that builds what is missing here, without its recipe."""
        is_generation = self.path.parent.name == "generations"
        return "ldkit cache-logits --extend" if is_generation else "ldkit cache-logits"


def read_document(path: Path, kind: type[Kind]) -> Kind:
    """Return the document in a file.

    Raises:
        CacheCorrupt: The file is missing, or its content is not what was written.
        CacheMismatch: It has another format version.
        StorageError: It cannot be read.
    """
    return from_bytes(kind, read_file(path, DOCUMENT_LIMIT), str(path))


def read_file(path: Path, limit: int | None = None) -> bytes:
    """Return the content of a file of a cache; the errors are those of `read_document`.

    A file of more than `limit` bytes is refused.
    """
    try:
        with os.fdopen(open_file(path), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            content = file.read(size) if limit is None or size <= limit else None
    except FileNotFoundError as error:
        raise CacheCorrupt("is missing.", where=str(path), hint=REBUILD) from error
    except OSError as error:
        raise unreadable(path, error) from error
    if content is None:
        message = f"has {size} bytes; no document has more than {limit}."
        raise CacheCorrupt(message, where=str(path), hint=REBUILD)
    return content


def open_file(path: Path) -> int:
    """Return a new descriptor of a file, for reading; a pipe or a device is not waited for.

    Raises:
        OSError: It cannot be opened, or is no regular file.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is no regular file")
    return handle


def file_size(path: Path) -> int | None:
    """Return the bytes of a file of a cache; None where there is none.

    Raises:
        StorageError: The system does not let us look.
    """
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> StorageError:
    """Return the error for a file that the system does not let us read."""
    return StorageError(
        f"could not be read: {error.strerror or error}.",
        where=str(path),
        hint="Check the disk and the permissions of the folder.",
    )


def read_receipts(folder: CacheFolder, plan: Plan) -> dict[int, Receipt]:
    """Return the receipts of all complete shards of this plan, by number.

    A receipt that is damaged or of another plan counts as absent, and so does one whose shard is
    missing or of another size.
    """
    # By what is there: a plan may state any number of shards.
    stems = [path.stem for path in folder.shards.glob("*.json") if path.stem.isdecimal()]
    there = sorted({number for number in map(int, stems) if number < plan.shards})
    digest = plan.digest
    found = {number: _receipt(folder, digest, number) for number in there}
    return {number: receipt for number, receipt in found.items() if receipt is not None}


def _receipt(folder: CacheFolder, plan_digest: str, number: int) -> Receipt | None:
    try:
        receipt = read_document(folder.receipt(number), Receipt)
    except CacheError:
        return None
    size = file_size(folder.shard(number))
    belongs = (receipt.plan, receipt.shard, receipt.bytes) == (plan_digest, number, size)
    return receipt if belongs else None


def is_complete(folder: CacheFolder, plan: Plan, number: int) -> bool:
    """Say whether a shard of this plan has its receipt, and the size that it states."""
    return _receipt(folder, plan.digest, number) is not None


def missing_shards(folder: CacheFolder, plan: Plan) -> list[int]:
    """Return the shards that are still to be built: planned minus receipts."""
    complete = read_receipts(folder, plan)
    return [number for number in range(plan.shards) if number not in complete]


def incomplete(folder: CacheFolder) -> CacheIncomplete:
    """Return the error for a cache without a manifest: how much is there, what to run."""
    if file_size(folder.plan) is None:
        there = folder.path.is_dir()
        return CacheIncomplete(
            "holds no plan.json: no cache was begun here." if there else "is no folder.",
            where=str(folder.path),
            hint="Build one with `ldkit cache-logits`, or name the folder of another cache.",
        )
    plan = read_document(folder.plan, Plan)
    missing = plan.shards - len(read_receipts(folder, plan))
    return CacheIncomplete(
        f"is not sealed: {plan.shards - missing} of {plan.shards} shards are complete.",
        where=str(folder.path),
        hint=f"Run `{folder.command}` with the same recipe and teacher: it "
        f"{f'builds the missing {missing} and ' if missing else ''}seals the cache.",
    )
