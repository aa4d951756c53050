"""Moving locations from each view's own canvas to the batch's, all rows of a group in one pass."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ldkit.ops.anchors import level_sizes
from ldkit.structures import Size

_BEYOND = 2**16
"""No location of a cache is as large, so image · this + location rises over all rows."""


class Moves(NamedTuple):
    """How locations move, for each view and level: flat tables, views first.

    `first` is the first location of a level on the view's own canvas and `cols` its columns;
    `shift` and `wider` are by how much those of the batch's canvas are larger.
    """

    first: NDArray[np.int64]
    cols: NDArray[np.int64]
    shift: NDArray[np.int64]
    wider: NDArray[np.int64]
    levels: int


class _Levels(NamedTuple):
    first: tuple[int, ...]
    cols: tuple[int, ...]


def moves(own_hw: Sequence[Size], canvas_hw: Size, strides: tuple[int, ...]) -> Moves | None:
    """Return how locations of these canvases move to a larger one; None: all stay.

    Raises:
        ValueError: The batch's canvas is smaller than a view's along one axis.
    """
    if all(hw == canvas_hw for hw in own_hw):
        return None
    for hw in own_hw:
        if hw[0] > canvas_hw[0] or hw[1] > canvas_hw[1]:
            raise ValueError(f"a canvas of {hw} pixels does not fit into one of {canvas_hw}.")
    own_B2L = np.array([_levels(hw, strides) for hw in own_hw])
    larger_B2L = np.array(_levels(canvas_hw, strides)) - own_B2L
    first, cols = own_B2L.swapaxes(0, 1).reshape(2, -1)
    shift, wider = larger_B2L.swapaxes(0, 1).reshape(2, -1)
    return Moves(first, cols, shift, wider, len(strides))


def moved(
    location: NDArray[np.int64], counts: NDArray[np.int64], by: Moves | None
) -> NDArray[np.int64]:
    """Return where locations lie on the batch's canvas; `counts` are the rows of each view.

    Locations of a view rise, so that the rows of each level lie side by side.
    """
    if by is None:
        return location
    ahead_B = np.arange(len(counts)) * _BEYOND
    starts = np.searchsorted(
        location + np.repeat(ahead_B, counts), by.first + np.repeat(ahead_B, by.levels)
    )
    rows = np.diff(starts, append=len(location))
    row = (location - np.repeat(by.first, rows)) // np.repeat(by.cols, rows)
    return location + np.repeat(by.shift, rows) + row * np.repeat(by.wider, rows)


@lru_cache(maxsize=4096)
def _levels(canvas_hw: Size, strides: tuple[int, ...]) -> _Levels:
    sizes = level_sizes(canvas_hw, strides)
    counts = (rows * cols for rows, cols in sizes)
    first = tuple(accumulate(counts, initial=0))[:-1]
    return _Levels(first, tuple(cols for _, cols in sizes))
