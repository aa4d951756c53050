"""The rows of a COCO file as columns, with every mistake in them noted.

Axes: N rows of a section · G boxes · 4 = x, y, width, height, in pixels of the image.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

from ldkit.data.document import JsonObject, Problem, found

_LARGEST = 2**53


class CategoryColumns(NamedTuple):
    """The categories in file order: the position is the label."""

    ids: Int64[np.ndarray, "N"]
    names: list[str]


class ImageColumns(NamedTuple):
    """The images, sorted by id. `names` are below the image folder; `hw` is in pixels."""

    ids: Int64[np.ndarray, "N"]
    names: list[str]
    hw: Int64[np.ndarray, "N 2"]


class BoxColumns(NamedTuple):
    """The annotations, in file order. `image` is a row of `ImageColumns`."""

    ids: Int64[np.ndarray, "G"]
    image: Int64[np.ndarray, "G"]
    labels: Int64[np.ndarray, "G"]
    xywh: Float64[np.ndarray, "G 4"]
    area: Float64[np.ndarray, "G"]
    is_crowd: Bool[np.ndarray, "G"]

    def where(self, keep: Bool[np.ndarray, "G"]) -> "BoxColumns":
        """Return the marked rows."""
        return BoxColumns(*(column[keep] for column in self))


def category_columns(rows: list[JsonObject], problems: list[Problem]) -> CategoryColumns:
    """Return the categories, and note unusable and repeated ids and names."""

    def name(row: int) -> str:
        return f"category {rows[row].get('id')!r} ({rows[row].get('name')!r})"

    names = [row.get("name") for row in rows]
    is_bad = np.array([not isinstance(text, str) or not text for text in names], bool)
    problems += found(is_bad, lambda row: f"{name(row)}: the name is not a text.")
    return CategoryColumns(_unique_ids(rows, name, problems), [str(text) for text in names])


def image_columns(rows: list[JsonObject], folder: Path, problems: list[Problem]) -> ImageColumns:
    """Return the images sorted by id, and note bad ids, sizes and names, and missing files."""

    def name(row: int) -> str:
        return f"image {rows[row].get('id')!r} ({rows[row].get('file_name')!r})"

    ids = _unique_ids(rows, name, problems)
    heights, has_height = whole_numbers([row.get("height") for row in rows])
    widths, has_width = whole_numbers([row.get("width") for row in rows])
    is_sized = has_height & has_width & (heights > 0) & (widths > 0)
    problems += found(
        ~is_sized,
        lambda row: (
            f"{name(row)}: width {rows[row].get('width')!r} and height "
            f"{rows[row].get('height')!r} are not positive whole numbers."
        ),
    )
    names = _file_names(rows, folder, name, problems)
    order = np.argsort(ids, kind="stable")
    hw = np.stack([heights, widths], axis=1)[order]
    return ImageColumns(ids[order], [names[row] for row in order], hw)


def _file_names(
    rows: list[JsonObject], folder: Path, name: Callable[[int], str], problems: list[Problem]
) -> list[str]:
    """Return the path of each image below `folder`, and note what is not a file there."""
    texts = [row.get("file_name") for row in rows]
    is_text = np.array([isinstance(text, str) and text != "" for text in texts], bool)
    problems += found(~is_text, lambda row: f"{name(row)}: file_name is not a text.")
    paths = [PurePosixPath(str(text)) for text in texts]
    is_outside = np.array([path.is_absolute() or ".." in path.parts for path in paths], bool)
    problems += found(
        is_outside & is_text,
        lambda row: f"{name(row)}: file_name leads out of the image folder {folder}.",
    )
    if not folder.is_dir():
        problems.append(Problem(1, (f"the image folder {folder} does not exist.",), ""))
        return [str(path) for path in paths]
    is_absent = absent_files(folder, paths)
    problems += found(
        is_absent & is_text & ~is_outside,
        lambda row: f"{name(row)}: the file is missing in {folder}.",
        "Is this the image folder that belongs to the annotation file?",
    )
    return [str(path) for path in paths]


def absent_files(folder: Path, paths: Sequence[PurePosixPath]) -> Bool[np.ndarray, "N"]:
    """Say which files are missing. Lists each folder once: asking per file takes minutes."""
    listed: dict[PurePosixPath, set[str]] = {}
    for parent in {path.parent for path in paths if ".." not in path.parts}:
        try:
            with os.scandir(folder / parent) as entries:
                listed[parent] = {entry.name for entry in entries if not entry.is_dir()}
        except (OSError, ValueError):
            listed[parent] = set()
    return np.array([path.name not in listed.get(path.parent, ()) for path in paths], bool)


def box_columns(
    rows: list[JsonObject],
    images: ImageColumns,
    categories: CategoryColumns,
    problems: list[Problem],
) -> BoxColumns:
    """Return the annotations, and note bad ids, unknown images and categories, broken boxes."""

    def name(row: int) -> str:
        return f"annotation {rows[row].get('id')!r} of image {rows[row].get('image_id')!r}"

    ids = _unique_ids(rows, name, problems)
    image = _positions([row.get("image_id") for row in rows], images.ids)
    problems += found(image < 0, lambda row: f"{name(row)}: there is no such image.")
    labels = _positions([row.get("category_id") for row in rows], categories.ids)
    problems += found(
        labels < 0,
        lambda row: f"{name(row)}: there is no category {rows[row].get('category_id')!r}.",
    )
    crowd, is_flag = whole_numbers([row.get("iscrowd", 0) for row in rows])
    problems += found(
        ~is_flag | (crowd < 0) | (crowd > 1),
        lambda row: f"{name(row)}: iscrowd is {rows[row]['iscrowd']!r}, not 0 or 1.",
    )
    xywh, area = _boxes_and_areas(rows, name, problems)
    return BoxColumns(ids, image, labels, xywh, area, crowd == 1)


def _boxes_and_areas(
    rows: list[JsonObject], name: Callable[[int], str], problems: list[Problem]
) -> tuple[Float64[np.ndarray, "G 4"], Float64[np.ndarray, "G"]]:
    """Return boxes and areas; where a file states no area, the area of the box."""
    values = [row.get("bbox") for row in rows]
    is_box = np.array([_is_box(value) for value in values], bool)
    problems += found(
        ~is_box,
        lambda row: f"{name(row)}: bbox {values[row]!r:.60} is not four finite numbers.",
    )
    none = [0.0, 0.0, 0.0, 0.0]
    boxes = [value if good else none for value, good in zip(values, is_box, strict=True)]
    xywh = np.array(boxes, np.float64).reshape(-1, 4)
    sides = (xywh[:, 2] * xywh[:, 3]).tolist()
    areas = [row.get("area", side) for row, side in zip(rows, sides, strict=True)]
    is_area = np.array([_is_number(value) for value in areas], bool)
    problems += found(
        ~is_area, lambda row: f"{name(row)}: area {areas[row]!r:.60} is not a finite number."
    )
    finite = [value if good else 0.0 for value, good in zip(areas, is_area, strict=True)]
    return xywh, np.array(finite, np.float64)


def whole_numbers(
    values: Sequence[object],
) -> tuple[Int64[np.ndarray, "N"], Bool[np.ndarray, "N"]]:
    """Return the values as int64, and which of them are whole numbers (the others are far off)."""
    is_whole = [isinstance(value, int) and -_LARGEST < value < _LARGEST for value in values]
    numbers = [value if good else -_LARGEST for value, good in zip(values, is_whole, strict=True)]
    return np.array(numbers, np.int64), np.array(is_whole, bool)


def _is_number(value: object) -> bool:
    """Say whether this is a finite number that a float holds exactly enough."""
    return isinstance(value, (int, float)) and -_LARGEST < value < _LARGEST


def _is_box(value: object) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))


def _unique_ids(
    rows: list[JsonObject], name: Callable[[int], str], problems: list[Problem]
) -> Int64[np.ndarray, "N"]:
    ids, is_whole = whole_numbers([row.get("id") for row in rows])
    problems += found(~is_whole, lambda row: f"{name(row)}: the id is not a whole number.")
    is_repeated = is_whole.copy()
    is_repeated[np.unique(ids, return_index=True)[1]] = False
    problems += found(is_repeated, lambda row: f"{name(row)}: the id occurs more than once.")
    return ids


def _positions(values: Sequence[object], known: Int64[np.ndarray, "N"]) -> Int64[np.ndarray, "G"]:
    """Return where each value stands in `known`, -1 where it does not."""
    numbers, is_whole = whole_numbers(values)
    order = np.argsort(known, kind="stable")
    place = np.searchsorted(known, numbers, sorter=order)
    position = order[np.minimum(place, len(order) - 1)] if len(order) else np.full_like(place, -1)
    is_known = is_whole & (len(order) > 0)
    is_known[is_known] &= known[position[is_known]] == numbers[is_known]
    return np.where(is_known, position, -1).astype(np.int64)
