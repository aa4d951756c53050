"""What a cache holds, in figures: sealed or not. Of its shards only keys and offsets are read."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ldkit.cache.columns import VIEW_COLUMNS
from ldkit.cache.folder import CacheFolder, file_size, incomplete, read_document, read_receipts
from ldkit.cache.format import Plan
from ldkit.cache.generations import generation_folders
from ldkit.cache.receipts import Manifest
from ldkit.cache.spread import Spread, row_counts

FP16_BYTES = 2


class GroupInfo(NamedTuple):
    """The figures of one group of columns; `bytes` are those of its rows and offsets."""

    name: str
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class CacheInfo:
    """The figures of a cache. Where it is not sealed, they count the complete shards."""

    path: Path
    plan: Plan
    fingerprint: str | None
    """Digest of the manifest; None: not sealed."""
    shards: int
    views: int
    groups: tuple[GroupInfo, ...]
    """What is held of each group, main first."""
    bytes: int
    column_bytes: dict[str, int]
    dense_bytes: int
    """What the same logits and features take at every location, in float16."""
    spread: Spread | None
    """The rows of each view in each group; None: a shard is not here, or damaged."""

    @property
    def is_sealed(self) -> bool:
        """Say whether the cache is complete."""
        return self.fingerprint is not None

    @property
    def rows(self) -> int:
        """Return the number of main rows."""
        return self.groups[0].rows

    @property
    def rows_per_view(self) -> float:
        """Return the mean number of main rows of a view."""
        return self.rows / self.views if self.views else 0.0


def all_info(path: Path) -> tuple[CacheInfo, ...]:
    """Return the figures of a cache's root and of each of its generations, sealed or not.

    Raises:
        CacheError: What `info` raises.
    """
    begun = (each for each in generation_folders(path) if file_size(each.plan) is not None)
    return (info(path), *(info(folder.path) for folder in begun))


def info(path: Path) -> CacheInfo:
    """Return the figures of the cache in a folder, without its generations.

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
    manifest = read_document(folder.manifest, Manifest) if sealed else None
    # Of a mirror no shard need be here: its manifest counts them all.
    receipts = manifest.receipts if manifest else tuple(read_receipts(folder, plan).values())
    views = sum(receipt.views for receipt in receipts)
    column_bytes = {column.name: views * column.entry_bytes for column in VIEW_COLUMNS}
    groups = []
    for group in plan.groups:
        rows = sum(receipt.rows.by_group.get(group.name, 0) for receipt in receipts)
        own = {group.offsets.name: (views + len(receipts)) * group.offsets.entry_bytes}
        own |= {column.name: rows * column.entry_bytes for column in group.columns}
        groups.append(GroupInfo(group.name, rows, sum(own.values())))
        column_bytes |= own
    locations = sum(receipt.locations for receipt in receipts)
    return CacheInfo(
        path=path,
        plan=plan,
        fingerprint=None if manifest is None else manifest.digest,
        shards=len(receipts),
        views=views,
        groups=tuple(groups),
        bytes=sum(receipt.bytes for receipt in receipts),
        column_bytes=column_bytes,
        dense_bytes=locations * logits_per_row(plan) * FP16_BYTES,
        spread=row_counts(folder, plan, receipts),
    )


def logits_per_row(plan: Plan) -> int:
    """Return how many numbers a dense cache of the same logits and features has at a location."""
    axes, columns = plan.axes, plan.columns
    regions = [region for region in (columns.main, columns.vlr) if region is not None]
    numbers = 4 * axes.num_bins
    if columns.score is not None or any(region.cls_logits is not None for region in regions):
        numbers += axes.num_classes
    if columns.imitation is not None and axes.channels is not None:
        numbers += axes.channels
    return numbers
