"""The cache format, version 1: what shall be (plan), and what a student wants of it.

Keys are sorted and cut into equal ranges, so shard i always holds the same views: any process may
build any shard, in any order. docs/cache-format.md describes every byte.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, JsonValue, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from ldkit import __version__
from ldkit.cache.columns import (
    VIEW_COLUMNS,
    BoxCodec,
    Codec,
    Group,
    cross_group,
    imitation_group,
    region_group,
    score_groups,
)
from ldkit.cache.document import Digest, Document, Part
from ldkit.files import fingerprint
from ldkit.structures import Grid, ViewKey


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


Width = Annotated[int, Field(ge=1, le=1 << 16)]
"""Numbers along an axis of a row: one that no row can have is refused before anything is made."""


class Axes(Part):
    """What the axes of a row mean."""

    num_bins: Width
    num_classes: Width
    strides: tuple[PositiveInt, ...]
    """Pixels, fine levels first."""
    anchor_scale: PositiveFloat
    """Side of an anchor, in strides."""
    bin_width: PositiveFloat
    """Width of a bin, in strides."""
    channels: Width | None = None
    """Width of the pyramid and of the head; set where `imitation` or `cross` is stored."""

    @property
    def grid(self) -> Grid:
        """Return what a location means."""
        return Grid(self.strides, self.anchor_scale, self.bin_width)


class MainRegion(Part):
    """The main region: the locations that ATSS assigns a box to."""

    topk: PositiveInt
    """Nearest locations of each level that are candidates for a box."""


class VlrRegion(Part):
    """The valuable localization region: locations near a box, most of which learn none."""

    topk: PositiveInt
    """Decides the ATSS threshold of a box, which overlaps are compared with."""
    overlap: Literal["published", "diou"]
    floor: NonNegativeFloat
    """Lowest overlap, as a share of that threshold."""


class ImitationRegion(Part):
    """Where the pyramid's features are kept."""

    region: Literal["main", "inside_gt", "fine_grained"]


class ScoreRegion(Part):
    """The locations whose best class the teacher scores at `floor` or more."""

    floor: NonNegativeFloat


class CrossRegion(Part):
    """The head features whose statistics are kept: those after so many convolutions."""

    after: PositiveInt


class Coverage(Part):
    """Which rows a cache holds. What it does not hold is not set."""

    main: MainRegion
    vlr: VlrRegion | None = None
    imitation: ImitationRegion | None = None
    score: ScoreRegion | None = None
    cross: CrossRegion | None = None


class RowColumns(Part):
    """How the logits of a region's rows are stored; null: not at all."""

    bbox_logits: BoxCodec
    cls_logits: Codec | None


class FeatureColumns(Part):
    """How features are stored."""

    features: Codec


class ScoreColumns(Part):
    """How the logits of scored locations and classes are stored."""

    bbox_logits: BoxCodec
    cls_logits: Codec


class CrossColumns(Part):
    """How means and deviations are stored."""

    statistics: Codec


class Columns(Part):
    """Which columns a cache holds: a section for each one of its coverage."""

    main: RowColumns
    vlr: RowColumns | None = None
    imitation: FeatureColumns | None = None
    score: ScoreColumns | None = None
    cross: CrossColumns | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a student reads of a cache: the rows of these regions, and these columns of them.

    Of a wanted region only `cls_logits` can be left out; what else it has is always read.
    """

    coverage: Coverage
    columns: frozenset[str]


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
    def groups(self) -> tuple[Group, ...]:
        """Return the groups of columns, in the order of the format."""
        return tuple(_groups(self.axes, self.columns))

    @model_validator(mode="after")
    def _check(self) -> "Plan":
        if self.coverage.model_fields_set != self.columns.model_fields_set:
            raise ValueError("coverage and columns must name the same regions.")
        has_features = bool({"imitation", "cross"} & self.coverage.model_fields_set)
        if has_features and self.axes.channels is None:
            raise ValueError("axes.channels must be set where imitation or cross is stored.")
        return self


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


def views_per_shard(
    shard_bytes: float, rows_per_view: Mapping[str, float], axes: Axes, columns: Columns
) -> int:
    """Return how many views fill a shard of about so many bytes; at least one.

    `rows_per_view` has the mean rows of each group, by name.
    """
    view_bytes = float(sum(column.entry_bytes for column in VIEW_COLUMNS))
    for group in _groups(axes, columns):
        view_bytes += group.offsets.entry_bytes + rows_per_view[group.name] * group.row_bytes
    return max(1, round(shard_bytes / view_bytes))


def _groups(axes: Axes, columns: Columns) -> Iterator[Group]:
    bins, classes = axes.num_bins, axes.num_classes
    main, vlr, score = columns.main, columns.vlr, columns.score
    yield region_group("main", bins, classes, main.bbox_logits, main.cls_logits)
    if vlr is not None:
        yield region_group("vlr", bins, classes, vlr.bbox_logits, vlr.cls_logits)
    if columns.imitation is not None:
        assert axes.channels is not None
        yield imitation_group(axes.channels, columns.imitation.features)
    if score is not None:
        yield from score_groups(bins, score.bbox_logits, score.cls_logits)
    if columns.cross is not None:
        assert axes.channels is not None
        yield cross_group(axes.channels, columns.cross.statistics)
