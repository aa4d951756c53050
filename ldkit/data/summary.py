"""What a data set holds, in numbers: what `ldkit data check` shows."""

from dataclasses import dataclass

import numpy as np

from ldkit.data.coco import CocoIndex

SMALL_BELOW_PX2 = 32**2
LARGE_FROM_PX2 = 96**2
"""Box areas that part small, medium and large objects. Source: COCO's evaluation."""


@dataclass(frozen=True, slots=True)
class DataSummary:
    """Counts of a data set. Sizes go by the area of the box, in pixels of the image as stored."""

    images: int
    empty: int
    boxes: int
    crowds: int
    small: int
    medium: int
    large: int
    boxes_of_class: tuple[tuple[str, int], ...]
    notes: tuple[str, ...]


def summarise(index: CocoIndex) -> DataSummary:
    """Return the counts of an index; classes stand in the order of their labels."""
    records = list(index.records.values())
    boxes = np.concatenate([record.boxes for record in records])
    labels = np.concatenate([record.labels for record in records])
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    small, large = int((areas < SMALL_BELOW_PX2).sum()), int((areas >= LARGE_FROM_PX2).sum())
    counts = np.bincount(labels, minlength=len(index.categories)).tolist()
    return DataSummary(
        images=len(records),
        empty=sum(len(record.labels) == 0 for record in records),
        boxes=len(boxes),
        crowds=index.crowds,
        small=small,
        medium=len(boxes) - small - large,
        large=large,
        boxes_of_class=tuple(zip(index.class_names, counts, strict=True)),
        notes=index.notes,
    )
