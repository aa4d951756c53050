"""The cache format, version 1: what shall be (plan), what is (receipts, manifest).

Keys are sorted and cut into equal ranges, so shard i always holds the same views: any process may
build any shard, in any order. docs/cache-format.md describes every byte.
"""

import hashlib
from collections.abc import Sequence
from itertools import chain
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, JsonValue, NonNegativeInt, PositiveFloat, PositiveInt

from ldkit import __version__
from ldkit.cache.columns import MAIN_OFFSETS, VIEW_COLUMNS, Codec, Column, main_columns
from ldkit.cache.document import Document, Part
from ldkit.files import fingerprint
from ldkit.structures import Grid, ViewKey

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Source(Part):
    """One thing a cache depends on: the fingerprint decides, the facts are shown."""

    fingerprint: Digest
    facts: dict[str, JsonValue]

    @classmethod
    def of(cls, content: dict[str, Any]) -> "Source":
        """Return the source whose whole content is small enough to be its own facts."""
        return cls(fingerprint=fingerprint(content), facts=content)


class Sources(Part):
    """What a cache was made from."""

    weights: Source
    """The teacher's weights."""
    model: Source
    """The teacher's architecture; facts: its detector section."""
    data: Source
    """Annotations and image list."""
    views: Source
    """The view policy and its seed; facts: all of it."""
    render: Source
    """How pixels are made: version of the renderer and its libraries."""


class Axes(Part):
    """What the axes of a row mean."""

    num_bins: PositiveInt
    num_classes: PositiveInt
    strides: tuple[PositiveInt, ...]
    """Pixels, fine levels first."""
    anchor_scale: PositiveFloat
    """Side of an anchor, in strides."""
    bin_width: PositiveFloat
    """Width of a bin, in strides."""

    @property
    def grid(self) -> Grid:
        """Return what a location means."""
        return Grid(self.strides, self.anchor_scale, self.bin_width)


class MainRegion(Part):
    """The main region: the locations that ATSS assigns a box to."""

    topk: PositiveInt
    """Nearest locations of each level that are candidates for a box."""


class Coverage(Part):
    """Which rows a cache holds."""

    main: MainRegion


class MainColumns(Part):
    """How the logits of main rows are stored; null: not at all."""

    bbox_logits: Codec
    cls_logits: Codec | None


class Columns(Part):
    """Which columns a cache holds."""

    main: MainColumns


class Build(Part):
    """How the cache is built."""

    batch_size: PositiveInt
    """Views that the teacher sees at once, all of equal canvas."""
    pad_multiple_px: PositiveInt
    views_per_shard: PositiveInt


class Keys(Part):
    """Which views a cache holds."""

    count: PositiveInt
    digest: Digest
    """sha256 of the sorted keys as pairs of little-endian 64-bit integers."""


class Plan(Document):
    """What a cache shall be. Written first, never changed."""

    version: Literal[1]
    ldkit: str
    sources: Sources
    axes: Axes
    coverage: Coverage
    columns: Columns
    build: Build
    keys: Keys

    @classmethod
    def of(
        cls,
        sources: Sources,
        axes: Axes,
        coverage: Coverage,
        columns: Columns,
        build: Build,
        keys: Sequence[ViewKey],
    ) -> "Plan":
        """Return the plan for these sorted keys, as this version of ldkit would write it."""
        return cls(
            version=1,
            ldkit=__version__,
            sources=sources,
            axes=axes,
            coverage=coverage,
            columns=columns,
            build=build,
            keys=Keys(count=len(keys), digest=keys_digest(keys)),
        )

    @property
    def shards(self) -> int:
        """Return the number of shards."""
        return -(-self.keys.count // self.build.views_per_shard)

    def views_of(self, shard: int) -> range:
        """Return the positions of a shard's keys in the sorted list of all keys."""
        if not 0 <= shard < self.shards:
            raise ValueError(f"shard {shard} of {self.shards}.")
        first = shard * self.build.views_per_shard
        return range(first, min(first + self.build.views_per_shard, self.keys.count))

    def keys_of(self, shard: int, keys: Sequence[ViewKey]) -> Sequence[ViewKey]:
        """Return the keys of a shard, `keys` being all keys in order."""
        if len(keys) != self.keys.count:
            raise ValueError(f"{len(keys)} keys for a plan of {self.keys.count}.")
        positions = self.views_of(shard)
        return keys[positions.start : positions.stop]

    @property
    def row_columns(self) -> tuple[Column, ...]:
        """Return the columns with one entry for each main row."""
        return _row_columns(self.axes, self.columns)


class RowCounts(Part):
    """Rows of each region."""

    main: NonNegativeInt


class Receipt(Document):
    """The proof that a shard is complete. Written after the shard."""

    plan: Digest
    """Digest of the plan that the shard belongs to."""
    shard: NonNegativeInt
    bytes: PositiveInt
    sha256: Digest
    views: PositiveInt
    rows: RowCounts
    locations: PositiveInt
    """Locations of all its canvases: the rows of a dense cache."""
    first_key: ViewKey
    last_key: ViewKey


class Manifest(Document):
    """What a cache is. Written once, after the last receipt; its digest names the cache."""

    version: Literal[1]
    plan: Digest
    receipts: tuple[Receipt, ...]
    bytes: PositiveInt
    views: PositiveInt
    rows: RowCounts


def keys_digest(keys: Sequence[ViewKey]) -> str:
    """Return the sha256 of sorted keys.

    Raises:
        ValueError: The keys do not rise strictly.
    """
    pairs = np.fromiter(chain.from_iterable(keys), "<i8", 2 * len(keys)).reshape(-1, 2)
    step = np.diff(pairs, axis=0)
    if not ((step[:, 0] > 0) | ((step[:, 0] == 0) & (step[:, 1] > 0))).all():
        raise ValueError("the keys of a cache must rise strictly by image_id, then view.")
    return hashlib.sha256(pairs.tobytes()).hexdigest()


def views_per_shard(shard_bytes: float, rows_per_view: float, axes: Axes, columns: Columns) -> int:
    """Return how many views fill a shard of about so many bytes; at least one."""
    view_bytes = sum(column.entry_bytes for column in (*VIEW_COLUMNS, MAIN_OFFSETS))
    row_bytes = sum(column.entry_bytes for column in _row_columns(axes, columns))
    return max(1, round(shard_bytes / (view_bytes + rows_per_view * row_bytes)))


def _row_columns(axes: Axes, columns: Columns) -> tuple[Column, ...]:
    main = columns.main
    return main_columns(axes.num_bins, axes.num_classes, main.bbox_logits, main.cls_logits)
