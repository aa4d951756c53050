"""Which annotations a detector can learn from, and what to say of the others.

Axes: G boxes · 4 = x, y, width, height in pixels of the image.
"""

from typing import Literal

import numpy as np
from jaxtyping import Bool

from ldkit.data.columns import BoxColumns, ImageColumns
from ldkit.data.document import Problem, found

BadBoxes = Literal["refuse", "drop"]


def usable_boxes(
    boxes: BoxColumns, images: ImageColumns, bad_boxes: BadBoxes, problems: list[Problem]
) -> tuple[BoxColumns, tuple[str, ...]]:
    """Return the boxes to learn from, and notes on what was left out for which reason.

    Crowds are left out, and boxes without area or with a side below one pixel. Boxes of negative
    size, and boxes that have nothing in common with their image, are problems or left out.
    Source: mmdetection's `CocoDataset` (which leaves out all of these silently).
    """
    width, height = boxes.xywh[:, 2], boxes.xywh[:, 3]
    is_negative = (width < 0) | (height < 0)
    is_tiny = ~is_negative & ((width < 1) | (height < 1) | (boxes.area <= 0))
    is_outside = ~is_negative & ~is_tiny & _misses_image(boxes, images)
    if bad_boxes == "refuse":
        problems += _bad_boxes(boxes, images, is_negative, is_outside)
    reasons = (
        (is_tiny & ~boxes.is_crowd, "without area or with a side below one pixel, as published"),
        (is_outside, "outside their image (bad_boxes=drop)"),
        (is_negative, "of negative size (bad_boxes=drop)"),
    )
    notes = tuple(f"Boxes left out: {mask.sum()} {why}." for mask, why in reasons if mask.any())
    return boxes.where(~(is_negative | is_outside | is_tiny | boxes.is_crowd)), notes


def _misses_image(boxes: BoxColumns, images: ImageColumns) -> Bool[np.ndarray, "G"]:
    """Say which boxes have nothing in common with their image; unknown images say nothing."""
    is_known = boxes.image >= 0
    hw = images.hw[boxes.image[is_known]]
    x, y, width, height = boxes.xywh[is_known].T
    misses = np.zeros(len(boxes.ids), bool)
    misses[is_known] = (x >= hw[:, 1]) | (y >= hw[:, 0]) | (x + width <= 0) | (y + height <= 0)
    misses[is_known] &= (hw > 0).all(axis=1)
    return misses


def _bad_boxes(
    boxes: BoxColumns,
    images: ImageColumns,
    is_negative: Bool[np.ndarray, "G"],
    is_outside: Bool[np.ndarray, "G"],
) -> list[Problem]:
    hint = "Set data.bad_boxes=drop to leave such boxes out."

    def name(row: int) -> str:
        image = images.ids[boxes.image[row]] if boxes.image[row] >= 0 else "(unknown)"
        box = ", ".join(f"{number:g}" for number in boxes.xywh[row])
        return f"annotation {boxes.ids[row]} of image {image}: bbox [{box}]"

    def outside(row: int) -> str:
        height, width = images.hw[boxes.image[row]]
        return f"{name(row)} lies outside its image of {width} x {height} (width x height)."

    negative = found(is_negative, lambda row: f"{name(row)} has a negative width or height.", hint)
    return negative + found(is_outside, outside, hint)
