"""What goes into one shard: the rows of its views, checked, encoded and put into columns."""

import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor

from ldkit.cache.codecs import Encoded, encode
from ldkit.cache.columns import VIEW_COLUMNS, Column, Group
from ldkit.cache.format import Axes, Plan
from ldkit.errors import UsageError
from ldkit.ops.anchors import level_sizes
from ldkit.structures import Size, View, ViewKey

Arrays = dict[str, NDArray[np.generic]]
U16_COUNT = 2**16


class ViewRows(NamedTuple):
    """What a teacher says of one view: the columns of the plan's groups, by name.

    Every `GROUP.location` is flat on the view's own canvas and rises strictly; `score_class.row`
    is the row of `score` within the view. Columns that the plan does not have are left out.
    """

    key: ViewKey
    view: View
    pixels_crc32: int
    columns: Mapping[str, Tensor]


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
    groups = plan.groups
    for rows in content:
        _check(rows, groups, plan.axes)
    arrays = view_columns(
        [rows.key for rows in content],
        [rows.view for rows in content],
        [rows.pixels_crc32 for rows in content],
    )
    for group in groups:
        counts = [_count(rows, group) for rows in content]
        arrays[group.offsets.name] = np.cumsum([0, *counts])
        for column in group.values:
            encoded = [_stored(rows, column) for rows in content]
            arrays[column.name] = np.concatenate([each.values for each in encoded])
            if column.scale is not None:
                scales = [each.scale for each in encoded if each.scale is not None]
                arrays[column.scale.name] = np.concatenate(scales)
    for group in groups:
        for column in (group.offsets, *group.columns):
            arrays[column.name] = arrays[column.name].astype(column.numpy)
    return arrays


def view_columns(keys: Sequence[ViewKey], views: Sequence[View], pixels: Sequence[int]) -> Arrays:
    """Return the table of views of a shard; `pixels` are the checksums of their pixels."""
    columns = {
        "view.image_id": [key.image_id for key in keys],
        "view.index": [key.view for key in keys],
        "view.source_hw": [view.source_hw for view in views],
        "view.resized_hw": [view.resized_hw for view in views],
        "view.padded_hw": [view.padded_hw for view in views],
        "view.flip": [view.flip for view in views],
        "view.pixels_crc32": list(pixels),
    }
    return {each.name: np.array(columns[each.name], each.numpy) for each in VIEW_COLUMNS}


def _count(rows: ViewRows, group: Group) -> int:
    return len(rows.columns[group.columns[0].name])


def _stored(rows: ViewRows, column: Column) -> Encoded:
    values = rows.columns[column.name]
    if column.dtype == "U16":
        return Encoded(values.cpu().numpy())
    return encode(values, column, name_of(rows.key))


def _check(rows: ViewRows, groups: Sequence[Group], axes: Axes) -> None:
    where = name_of(rows.key)
    locations = locations_of(rows.view.padded_hw, axes.strides, where)
    for group in groups:
        for column in group.values:
            if column.name not in rows.columns:
                raise ValueError(f"{where}: the plan has {column.name}, the rows have none.")
        for column in group.values:
            _check_column(rows, column, _count(rows, group), where)
            if column.name.endswith(".location"):
                _check_locations(rows.columns[column.name], locations, where)
        if group.name == "score_class":
            _check_classes(rows.columns, axes, where)
        if group.name == "cross" and _count(rows, group) != len(axes.strides):
            raise ValueError(f"{where}: cross must have one row for each level.")


def _check_column(rows: ViewRows, column: Column, count: int, where: str) -> None:
    values, shape = rows.columns[column.name], (count, *column.shape)
    if tuple(values.shape) != shape:
        raise ValueError(
            f"{where}: a column has the shape {tuple(values.shape)}, not {shape}: {column.name}."
        )
    if column.dtype != "U16" or column.name.endswith(".location"):
        return
    if values.is_floating_point():
        raise ValueError(f"{where}: {column.name} must be whole numbers.")
    if count and not (values.min() >= 0 and values.max() < U16_COUNT):
        _, name = column.name.split(".")
        raise ValueError(f"{where}: a {name} lies outside 0 … {U16_COUNT - 1}: {column.name}.")


def _check_locations(location: Tensor, locations: int, where: str) -> None:
    if location.is_floating_point():
        raise ValueError(f"{where}: locations must be whole numbers.")
    if not (location.diff() > 0).all():
        raise ValueError(f"{where}: locations must rise strictly.")
    if len(location) and not (location[0] >= 0 and location[-1] < locations):
        raise ValueError(f"{where}: a location lies outside the {locations} of its canvas.")


def _check_classes(columns: Mapping[str, Tensor], axes: Axes, where: str) -> None:
    row, label = columns["score_class.row"], columns["score_class.label"]
    if not (row.diff() >= 0).all():
        raise ValueError(f"{where}: the rows of score_class must rise.")
    scored = len(columns["score.location"])
    if len(row) and not row[-1] < scored:
        raise ValueError(f"{where}: a row of score_class lies outside the {scored} of score.")
    if len(label) and not label.max() < axes.num_classes:
        raise ValueError(f"{where}: a label lies outside the {axes.num_classes} classes.")
