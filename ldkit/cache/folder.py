"""The folder of a cache: what stands where, and which shards are still missing."""

from dataclasses import dataclass
from pathlib import Path

from ldkit.cache.document import REBUILD, Kind, from_bytes
from ldkit.cache.format import Plan
from ldkit.cache.receipts import Receipt
from ldkit.errors import CacheCorrupt, CacheError, CacheIncomplete, StorageError


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


def read_document(path: Path, kind: type[Kind]) -> Kind:
    """Return the document in a file.

    Raises:
        CacheCorrupt: The file is missing, or its content is not what was written.
        CacheMismatch: It has another format version.
        StorageError: It cannot be read.
    """
    return from_bytes(kind, read_file(path), str(path))


def read_file(path: Path) -> bytes:
    """Return the content of a file of a cache; the errors are those of `read_document`."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise CacheCorrupt("is missing.", where=str(path), hint=REBUILD) from error
    except OSError as error:
        raise unreadable(path, error) from error


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
    found = {number: _receipt(folder, plan, number) for number in range(plan.shards)}
    return {number: receipt for number, receipt in found.items() if receipt is not None}


def _receipt(folder: CacheFolder, plan: Plan, number: int) -> Receipt | None:
    try:
        receipt = read_document(folder.receipt(number), Receipt)
    except CacheError:
        return None
    size = file_size(folder.shard(number))
    belongs = (receipt.plan, receipt.shard, receipt.bytes) == (plan.digest, number, size)
    return receipt if belongs else None


def is_complete(folder: CacheFolder, plan: Plan, number: int) -> bool:
    """Say whether a shard of this plan has its receipt, and the size that it states."""
    return _receipt(folder, plan, number) is not None


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
    missing = len(missing_shards(folder, plan))
    return CacheIncomplete(
        f"is not sealed: {plan.shards - missing} of {plan.shards} shards are complete.",
        where=str(folder.path),
        hint="Run `ldkit cache-logits` with the same recipe and teacher: it "
        f"{f'builds the missing {missing} and ' if missing else ''}seals the cache.",
    )
