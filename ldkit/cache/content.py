"""What goes into one shard: the rows of its views, checked, encoded and put into columns."""

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8
from numpy.typing import NDArray
from torch import Tensor

from ldkit.cache.codecs import encode
from ldkit.cache.columns import MAIN_OFFSETS, VIEW_COLUMNS, Codec
from ldkit.cache.format import Plan
from ldkit.errors import UsageError
from ldkit.ops.anchors import level_sizes
from ldkit.structures import Size, View, ViewKey

Arrays = dict[str, NDArray[np.generic]]
U16_COUNT = 2**16


class ViewRows(NamedTuple):
    """What a teacher says of one view: raw logits at its main region.

    `location` is flat on the view's own canvas and rises strictly.
    """

    key: ViewKey
    view: View
    pixels_crc32: int
    location: Int[Tensor, "P"]
    gt_index: Int[Tensor, "P"]
    bbox_logits: Float[Tensor, "P 4 K"]
    cls_logits: Float[Tensor, "P C"] | None


def pixels_crc32(pixels: UInt8[Tensor, "3 H W"], padded_hw: Size) -> int:
    """Return the CRC-32 of a view's pixels on its own canvas: RGB planes, row by row.

    `pixels` may be padded further, as in a batch.
    """
    height, width = padded_hw
    return zlib.crc32(pixels[:, :height, :width].contiguous().cpu().numpy().data)


def locations_of(canvas_hw: Size, strides: tuple[int, ...], where: str) -> int:
    """Return the number of locations of a canvas.

    Raises:
        UsageError: There are more than 16 bits can number.
    """
    count = sum(rows * cols for rows, cols in level_sizes(canvas_hw, strides))
    if count > U16_COUNT:
        raise UsageError(
            f"a canvas of {canvas_hw[0]} x {canvas_hw[1]} pixels has {count} locations; a cache "
            f"numbers them with 16 bits, so {U16_COUNT} is the most.",
            where=where,
            hint="Lower views.short_side_px or views.long_side_max_px, or drop the finest level.",
        )
    return count


def name_of(key: ViewKey) -> str:
    """Return how errors name a view."""
    return f"image {key.image_id}, view {key.view}"


def columns_of(content: Sequence[ViewRows], plan: Plan) -> Arrays:
    """Return the tensors of a shard by name.

    Raises:
        CacheError: A logit is not finite or does not fit its column.
        UsageError: A canvas has too many locations.
        ValueError: Rows are out of order, or not of the plan's shapes.
    """
    for rows in content:
        _check(rows, plan)
    arrays: Arrays = {
        "view.image_id": np.array([rows.key.image_id for rows in content]),
        "view.index": np.array([rows.key.view for rows in content]),
        "view.source_hw": np.array([rows.view.source_hw for rows in content]),
        "view.resized_hw": np.array([rows.view.resized_hw for rows in content]),
        "view.padded_hw": np.array([rows.view.padded_hw for rows in content]),
        "view.flip": np.array([rows.view.flip for rows in content]),
        "view.pixels_crc32": np.array([rows.pixels_crc32 for rows in content]),
        "main.offsets": np.cumsum([0, *(len(rows.location) for rows in content)]),
        "main.location": np.concatenate([rows.location.cpu().numpy() for rows in content]),
        "main.gt_index": np.concatenate([rows.gt_index.cpu().numpy() for rows in content]),
        "main.bbox_logits": _logits(content, "main.bbox_logits", plan.columns.main.bbox_logits),
    }
    if plan.columns.main.cls_logits is not None:
        codec = plan.columns.main.cls_logits
        arrays["main.cls_logits"] = _logits(content, "main.cls_logits", codec)
    columns = (*VIEW_COLUMNS, MAIN_OFFSETS, *plan.row_columns)
    return {column.name: arrays[column.name].astype(column.numpy) for column in columns}


def _logits(content: Sequence[ViewRows], column: str, codec: Codec) -> NDArray[np.generic]:
    encoded = []
    for rows in content:
        logits = rows.bbox_logits if column == "main.bbox_logits" else rows.cls_logits
        assert logits is not None
        encoded.append(encode(logits, codec, column, name_of(rows.key)))
    return np.concatenate(encoded)


def _check(rows: ViewRows, plan: Plan) -> None:
    where, axes, count = name_of(rows.key), plan.axes, len(rows.location)
    locations = locations_of(rows.view.padded_hw, axes.strides, where)
    shapes = [(rows.gt_index, (count,)), (rows.bbox_logits, (count, 4, axes.num_bins))]
    if plan.columns.main.cls_logits is not None:
        if rows.cls_logits is None:
            raise ValueError(f"{where}: the plan has class logits, the rows have none.")
        shapes.append((rows.cls_logits, (count, axes.num_classes)))
    for tensor, shape in shapes:
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{where}: a column has the shape {tuple(tensor.shape)}, not {shape}.")
    if not (rows.location.diff() > 0).all():
        raise ValueError(f"{where}: locations must rise strictly.")
    if count and not (rows.location[0] >= 0 and rows.location[-1] < locations):
        raise ValueError(f"{where}: a location lies outside the {locations} of its canvas.")
    if count and not (rows.gt_index.min() >= 0 and rows.gt_index.max() < U16_COUNT):
        raise ValueError(f"{where}: a gt_index lies outside 0 … {U16_COUNT - 1}.")
