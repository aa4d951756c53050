"""What a cache holds, in figures: sealed or not, without opening a single shard."""

from dataclasses import dataclass
from math import prod
from pathlib import Path

from ldkit.cache.columns import MAIN_OFFSETS, VIEW_COLUMNS
from ldkit.cache.folder import CacheFolder, file_size, incomplete, read_document, read_receipts
from ldkit.cache.format import Manifest, Plan

FP16_BYTES = 2


@dataclass(frozen=True, slots=True)
class CacheInfo:
    """The figures of a cache. Where it is not sealed, they count the complete shards."""

    path: Path
    plan: Plan
    fingerprint: str | None
    """Digest of the manifest; None: not sealed."""
    shards: int
    views: int
    rows: int
    bytes: int
    column_bytes: dict[str, int]
    dense_bytes: int
    """What the same logits take at every location, in float16."""

    @property
    def is_sealed(self) -> bool:
        """Say whether the cache is complete."""
        return self.fingerprint is not None

    @property
    def rows_per_view(self) -> float:
        """Return the mean number of rows of a view."""
        return self.rows / self.views if self.views else 0.0


def info(path: Path) -> CacheInfo:
    """Return the figures of the cache in a folder.

    Raises:
        CacheIncomplete: There is no cache.
        CacheCorrupt: The plan or the manifest is damaged.
        CacheMismatch: It has another format version.
    """
    folder = CacheFolder(path)
    if file_size(folder.plan) is None:
        raise incomplete(folder)
    plan = read_document(folder.plan, Plan)
    sealed = file_size(folder.manifest) is not None
    receipts = read_receipts(folder, plan).values()
    views = sum(receipt.views for receipt in receipts)
    rows = sum(receipt.rows.main for receipt in receipts)
    column_bytes = {column.name: views * column.entry_bytes for column in VIEW_COLUMNS}
    column_bytes[MAIN_OFFSETS.name] = (views + len(receipts)) * MAIN_OFFSETS.entry_bytes
    column_bytes |= {column.name: rows * column.entry_bytes for column in plan.row_columns}
    locations = sum(receipt.locations for receipt in receipts)
    return CacheInfo(
        path=path,
        plan=plan,
        fingerprint=read_document(folder.manifest, Manifest).digest if sealed else None,
        shards=len(receipts),
        views=views,
        rows=rows,
        bytes=sum(receipt.bytes for receipt in receipts),
        column_bytes=column_bytes,
        dense_bytes=locations * logits_per_row(plan) * FP16_BYTES,
    )


def logits_per_row(plan: Plan) -> int:
    """Return how many logits a row of this cache holds."""
    columns = [column for column in plan.row_columns if column.name.endswith("_logits")]
    return sum(prod(column.shape) for column in columns)
