"""The class row that published GFLv2 heads have beyond their classes, and never use.

Their class loss is configured without a sigmoid, for which the framework adds a background row:
81 rows for COCO's 80 classes, always trained towards 0. ldkit's heads have one row for each class.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor

from ldkit.errors import CheckpointError
from ldkit.models.mmdet_shapes import Architecture

_CLASS_ROWS = ("bbox_head.gfl_cls.weight", "bbox_head.gfl_cls.bias")


class Trimmed(NamedTuple):
    """Weights whose class rows are the classes, and a note of what was left out, or ""."""

    weights: dict[str, Tensor]
    architecture: Architecture
    note: str


def without_spare_class(
    weights: Mapping[str, Tensor], architecture: Architecture, named: tuple[str, ...], where: str
) -> Trimmed:
    """Return a state without the spare class row; `named` are the classes that its file names.

    A GFLv2 head has the spare row unless the file names as many classes as it has rows. A head of
    GFL has none.

    Raises:
        CheckpointError: The spare row is the only one.
    """
    rows = architecture.num_classes
    if architecture.head == "gfl" or len(named) == rows:
        return Trimmed(dict(weights), architecture, "")
    if rows < 2:
        raise CheckpointError(
            "has a GFLv2 head of one class row, which is the one that is never used.",
            where=where,
            hint="Published heads have one row for each class and one more.",
        )
    trimmed = {
        name: tensor[:-1].clone() if name in _CLASS_ROWS and len(tensor) == rows else tensor
        for name, tensor in weights.items()
    }
    note = (
        f"Left out: the last of {rows} class rows, which GFLv2 heads have beyond their "
        f"{rows - 1} classes and never use."
    )
    return Trimmed(trimmed, replace(architecture, num_classes=rows - 1), note)
