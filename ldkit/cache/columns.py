"""The columns of a shard: a table of views and a table of rows for each group of columns."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Literal

import numpy as np

Codec = Literal["fp32", "fp16"]
BoxCodec = Literal["fp32", "fp16", "u8"]
"""How box logits are stored: u8 knows them up to a constant for each edge."""
_STORED_AS: dict[BoxCodec, str] = {"fp32": "F32", "fp16": "F16", "u8": "U8"}
_NUMPY: dict[str, np.dtype[np.generic]] = {
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "BOOL": np.dtype("?"),
}
SCALE = ".scale"
"""Ends the name of the column that says how wide the steps of an U8 column are."""

TOWERS = 2
"""The towers of a head whose statistics are kept: classes, boxes."""


@dataclass(frozen=True, slots=True)
class Column:
    """One tensor of a shard: its safetensors dtype, and the shape of one entry (view or row).

    `key` is the recipe key below `cache` that says how it is stored; "": its dtype is fixed.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    key: str = ""
    entry_bytes: int = field(init=False, compare=False, repr=False)
    """Bytes of one entry."""

    def __post_init__(self) -> None:
        """Count the bytes once: readers ask at every lookup."""
        object.__setattr__(self, "entry_bytes", self.numpy.itemsize * prod(self.shape))

    @property
    def numpy(self) -> np.dtype[np.generic]:
        """Return the dtype of the stored numbers, little-endian."""
        return _NUMPY[self.dtype]

    @property
    def scale(self) -> "Column | None":
        """Return the column beside an U8 one, with the width of the steps of each edge."""
        if self.dtype != "U8" or self.name.endswith(SCALE):
            return None
        return Column(self.name + SCALE, "U8", self.shape[:-1], self.key)


@dataclass(frozen=True, slots=True)
class Group:
    """Columns with one entry for each row of one kind; the rows of a view lie side by side."""

    name: str
    columns: tuple[Column, ...]

    @property
    def offsets(self) -> Column:
        """Return the column that has one entry more than there are views.

        The rows of view v are offsets[v] … offsets[v + 1].
        """
        return Column(f"{self.name}.offsets", "I64")

    @property
    def values(self) -> tuple[Column, ...]:
        """Return the columns that a teacher fills: all but those that encoding adds."""
        return tuple(column for column in self.columns if not column.name.endswith(SCALE))

    @property
    def row_bytes(self) -> int:
        """Return the bytes of one row."""
        return sum(column.entry_bytes for column in self.columns)


VIEW_COLUMNS = (
    Column("view.image_id", "I64"),
    Column("view.index", "I32"),
    Column("view.source_hw", "I32", (2,)),
    Column("view.resized_hw", "I32", (2,)),
    Column("view.padded_hw", "I32", (2,)),
    Column("view.flip", "BOOL"),
    Column("view.pixels_crc32", "I64"),
)


def region_group(
    name: str, num_bins: int, num_classes: int, bbox_logits: BoxCodec, cls_logits: Codec | None
) -> Group:
    """Return the group of a region whose rows belong to boxes; `cls_logits` None: not stored."""
    columns = [
        Column(f"{name}.location", "U16"),
        Column(f"{name}.gt_index", "U16"),
        *_distributions(f"{name}.bbox_logits", bbox_logits, num_bins),
    ]
    if cls_logits is not None:
        columns.append(_stored(f"{name}.cls_logits", cls_logits, (num_classes,)))
    return Group(name, tuple(columns))


def imitation_group(channels: int, features: Codec) -> Group:
    """Return the group of the pyramid's features."""
    columns = (
        Column("imitation.location", "U16"),
        _stored("imitation.features", features, (channels,)),
    )
    return Group("imitation", columns)


def score_groups(num_bins: int, bbox_logits: BoxCodec, cls_logits: Codec) -> tuple[Group, Group]:
    """Return the group of scored locations, and that of the classes they score, sparse."""
    rows = (
        Column("score.location", "U16"),
        *_distributions("score.bbox_logits", bbox_logits, num_bins),
    )
    classes = (
        Column("score_class.row", "U16"),
        Column("score_class.label", "U16"),
        _stored("score_class.logit", cls_logits, (), key="score.cls_logits"),
    )
    return Group("score", rows), Group("score_class", classes)


def cross_group(channels: int, statistics: Codec) -> Group:
    """Return the group of the head's statistics: one row for each level of a view."""
    shape, key = (TOWERS, channels), "cross.statistics"
    columns = (
        _stored("cross.mean", statistics, shape, key=key),
        _stored("cross.std", statistics, shape, key=key),
    )
    return Group("cross", columns)


def _distributions(name: str, codec: BoxCodec, num_bins: int) -> Iterator[Column]:
    column = _stored(name, codec, (4, num_bins))
    yield column
    if column.scale is not None:
        yield column.scale


def _stored(name: str, codec: BoxCodec, shape: tuple[int, ...], *, key: str = "") -> Column:
    return Column(name, _STORED_AS[codec], shape, key or name)
