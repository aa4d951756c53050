"""The columns of a shard: a table of views and a table of rows, one tensor for each column."""

from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np

Codec = Literal["fp32", "fp16"]
_STORED_AS: dict[Codec, str] = {"fp32": "F32", "fp16": "F16"}
_NUMPY = {"I64": "<i8", "I32": "<i4", "U16": "<u2", "F16": "<f2", "F32": "<f4", "BOOL": "|b1"}


@dataclass(frozen=True, slots=True)
class Column:
    """One tensor of a shard: its safetensors dtype, and the shape of one entry (view or row)."""

    name: str
    dtype: str
    shape: tuple[int, ...] = ()

    @property
    def numpy(self) -> np.dtype[np.generic]:
        """Return the dtype of the stored numbers, little-endian."""
        return np.dtype(_NUMPY[self.dtype])

    @property
    def entry_bytes(self) -> int:
        """Return the bytes of one entry."""
        return self.numpy.itemsize * prod(self.shape)


VIEW_COLUMNS = (
    Column("view.image_id", "I64"),
    Column("view.index", "I32"),
    Column("view.source_hw", "I32", (2,)),
    Column("view.resized_hw", "I32", (2,)),
    Column("view.padded_hw", "I32", (2,)),
    Column("view.flip", "BOOL"),
    Column("view.pixels_crc32", "I64"),
)
MAIN_OFFSETS = Column("main.offsets", "I64")
"""One entry more than there are views: the rows of view v are offsets[v] … offsets[v + 1]."""


def main_columns(
    num_bins: int, num_classes: int, bbox_logits: Codec, cls_logits: Codec | None
) -> tuple[Column, ...]:
    """Return the columns with one entry for each main row; `cls_logits` None: not stored."""
    columns = (
        Column("main.location", "U16"),
        Column("main.gt_index", "U16"),
        Column("main.bbox_logits", _STORED_AS[bbox_logits], (4, num_bins)),
    )
    if cls_logits is None:
        return columns
    return (*columns, Column("main.cls_logits", _STORED_AS[cls_logits], (num_classes,)))
