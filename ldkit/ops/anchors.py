"""Locations and their anchors: the geometry of the feature grids, in one place.

Level l of a canvas of h by w pixels has ceil(h / s) rows and ceil(w / s) columns, s its stride.
The centre of row y and column x is the pixel (x · s, y · s), the cell's upper left corner, and
its anchor is a square around it. Locations are numbered level by level, then row by row.
"""

from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ldkit.structures import Anchors, Grid, Size


class Cells(NamedTuple):
    """Locations as level, row and column."""

    level: Int[Tensor, "P"]
    row: Int[Tensor, "P"]
    col: Int[Tensor, "P"]


def level_sizes(canvas_hw: Size, strides: tuple[int, ...]) -> tuple[Size, ...]:
    """Return (rows, columns) of each level of a canvas in pixels."""
    height, width = canvas_hw
    return tuple((-(-height // stride), -(-width // stride)) for stride in strides)


@lru_cache(maxsize=64)
def anchors(canvas_hw: Size, grid: Grid, device: torch.device) -> Anchors:
    """Return the locations of a canvas in pixels, one square anchor for each.

    Computed once for each size and kept; do not change the tensors in place.

    Source: GFL as published: anchors of side 8 · stride, `center_offset` 0.
    """
    # A tensor born in inference mode could never take part in training later.
    with torch.inference_mode(mode=False):
        sizes = level_sizes(canvas_hw, grid.strides)
        centres, strides = [], []
        for (rows, cols), stride in zip(sizes, grid.strides, strict=True):
            y, x = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
            centres.append(torch.stack([x, y], dim=-1).flatten(0, 1) * float(stride))
            strides.append(torch.full((rows * cols,), float(stride)))
        centre_A2, stride_A = torch.cat(centres), torch.cat(strides)
        half_A1 = stride_A[:, None] * (grid.anchor_scale / 2)
        box_A4 = torch.cat([centre_A2 - half_A1, centre_A2 + half_A1], dim=-1)
        unit_A = stride_A * grid.bin_width
        return Anchors(
            centre_A2.to(device), box_A4.to(device), unit_A.to(device), sizes, grid.strides
        )


def valid_locations(
    canvas_hw: Size, padded_hw: Int[Tensor, "B 2"], grid: Grid
) -> Bool[Tensor, "B A"]:
    """Return which locations lie on each image's own canvas; the rest pads the batch.

    On each level these are the first ceil(h / s) rows and ceil(w / s) columns of an image padded
    to h by w pixels: just the cells whose centre is less than h and w.
    """
    centre_A2 = anchors(canvas_hw, grid, padded_hw.device).centre
    return (centre_A2 < padded_hw.flip(-1)[:, None, :]).all(dim=-1)


def unflatten(location: Int[Tensor, "P"], canvas_hw: Size, strides: tuple[int, ...]) -> Cells:
    """Return level, row and column of locations given as flat numbers on a canvas."""
    cols, starts = _columns_and_starts(canvas_hw, strides)
    level = torch.bucketize(location, location.new_tensor(starts[1:]), right=True)
    within = location - location.new_tensor(starts)[level]
    cols_P = location.new_tensor(cols)[level]
    return Cells(level, within // cols_P, within % cols_P)


def relocate(
    location: Int[Tensor, "P"], from_hw: Size, to_hw: Size, strides: tuple[int, ...]
) -> Int[Tensor, "P"]:
    """Return the flat numbers that locations of one canvas have on a larger canvas.

    Raises:
        ValueError: The second canvas is smaller along one axis.
    """
    if to_hw[0] < from_hw[0] or to_hw[1] < from_hw[1]:
        raise ValueError(f"a canvas of {from_hw} pixels does not fit into one of {to_hw}.")
    if to_hw == from_hw:
        return location
    level, row, col = unflatten(location, from_hw, strides)
    cols, starts = _columns_and_starts(to_hw, strides)
    return location.new_tensor(starts)[level] + row * location.new_tensor(cols)[level] + col


def _columns_and_starts(canvas_hw: Size, strides: tuple[int, ...]) -> tuple[list[int], list[int]]:
    sizes = level_sizes(canvas_hw, strides)
    starts = list(accumulate((rows * cols for rows, cols in sizes), initial=0))
    return [cols for _, cols in sizes], starts[:-1]
