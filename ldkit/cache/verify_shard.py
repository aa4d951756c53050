"""Is a shard what its plan and its receipt say, number by number?

The file is read block by block and believed in nothing: a column is read only where it lies in
the file, and at most `BLOCK_BYTES` of its numbers or `BLOCK_VIEWS` of its views at once.
"""

from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ldkit.cache.columns import VIEW_COLUMNS, Column, Group
from ldkit.cache.content import U16_COUNT, name_of
from ldkit.cache.format import Plan
from ldkit.cache.header import HeaderError
from ldkit.cache.receipts import Receipt
from ldkit.ops.anchors import level_sizes
from ldkit.structures import ViewKey

BLOCK_BYTES = 1 << 23
BLOCK_VIEWS = 256
CRC32_COUNT = 1 << 32

Array = NDArray[Any]


class Table:
    """The columns of a shard's file, by the places that its header states."""

    def __init__(self, file: BinaryIO, starts: dict[str, int]) -> None:
        self._file = file
        self._starts = starts

    def read(self, column: Column, first: int, count: int) -> Array:
        """Return so many entries of a column from the first one on.

        Raises:
            HeaderError: The file was cut since its header was read.
        """
        self._file.seek(self._starts[column.name] + first * column.entry_bytes)
        content = self._file.read(count * column.entry_bytes)
        if len(content) < count * column.entry_bytes:
            raise HeaderError("was truncated while it was being read.")
        return np.frombuffer(content, column.numpy).reshape(count, *column.shape)


class Views(NamedTuple):
    """What the checks of rows need of the views."""

    keys: Array
    """(V, 2): image_id, view."""
    locations: Array
    """Locations of each view's own canvas."""

    def name(self, position: int) -> str:
        """Return how errors name the view at a position."""
        image_id, view = self.keys[position].tolist()
        return name_of(ViewKey(image_id, view))


def read_views(table: Table, receipt: Receipt, plan: Plan) -> tuple[Views, str | None]:
    """Return the views of a shard, and the first thing that is wrong with them, if any is."""
    view = {column.name: table.read(column, 0, receipt.views) for column in VIEW_COLUMNS}
    keys = np.stack([view["view.image_id"], view["view.index"]], axis=1).astype(np.int64)
    padded = view["view.padded_hw"].astype(np.int64)
    canvases, which = np.unique(padded, axis=0, return_inverse=True)
    counts = [_locations(height, width, plan) for height, width in canvases.tolist()]
    views = Views(keys, np.array(counts, np.int64)[which.reshape(-1)])
    return views, next(_view_faults(view, views, receipt, plan), None)


def _locations(height: int, width: int, plan: Plan) -> int:
    """Return the locations of a canvas; one more than there can be where they are too many."""
    if min(height, width) <= 0:
        return 0
    sizes = level_sizes((height, width), plan.axes.strides)
    return min(sum(rows * cols for rows, cols in sizes), U16_COUNT + 1)


def _view_faults(
    view: dict[str, Array], views: Views, receipt: Receipt, plan: Plan
) -> Iterator[str]:
    def of_view(faulty: Array, message: str) -> Iterator[str]:
        for position in np.flatnonzero(faulty)[:1]:
            yield f"{message}: {views.name(int(position))}."

    yield from of_view(np.logical_not(rises(views.keys)), "has keys that do not rise")
    ends = [tuple(key) for key in views.keys[[0, -1]].tolist()]
    if ends != [receipt.first_key, receipt.last_key]:
        yield f"has the keys {ends[0]} to {ends[1]}; its receipt says others."
    source, resized, padded = (
        view[f"view.{name}"].astype(np.int64) for name in ("source_hw", "resized_hw", "padded_hw")
    )
    empty = (source <= 0) | (resized <= 0)
    yield from of_view(np.any(empty, axis=1), "has a view without pixels")
    multiple = min(plan.build.pad_multiple_px, CRC32_COUNT)
    own = -(-resized // multiple) * multiple
    yield from of_view(np.any(own != padded, axis=1), "has a view padded to another canvas")
    yield from of_view(views.locations > U16_COUNT, "has a canvas of too many locations")
    if int(views.locations.sum()) != receipt.locations:
        yield f"has canvases of {views.locations.sum()} locations; its receipt says others."
    yield from of_view(view["view.flip"].view(np.uint8) > 1, "has a `flip` that is no bool")
    crc32 = view["view.pixels_crc32"]
    yield from of_view(
        (crc32 < 0) | (crc32 >= CRC32_COUNT), "has a checksum of pixels that is none"
    )


def rises(keys: Array) -> Array:
    """Say of each key whether it is larger than the one before; of the first, yes."""
    (ids, index), (old_ids, old_index) = keys[1:].T, keys[:-1].T
    larger = (ids > old_ids) | ((ids == old_ids) & (index > old_index))
    return np.concatenate([np.ones(1, bool), larger])


class GroupCheck:
    """The rows of one group of a shard, checked block by block."""

    def __init__(self, table: Table, group: Group, views: Views, plan: Plan) -> None:
        self._table = table
        self._group = group
        self._views = views
        self._plan = plan
        self._classes = min(plan.axes.num_classes, U16_COUNT)
        self.offsets = table.read(group.offsets, 0, len(views.keys) + 1)

    def fault(self, rows: int, scored: Array | None) -> str | None:
        """Return the first thing that is wrong; `scored` are the offsets of `score`."""
        return next(self._faults(rows, scored), None)

    def _faults(self, rows: int, scored: Array | None) -> Iterator[str]:
        name, offsets = self._group.offsets.name, self.offsets
        # Compared, not subtracted: differences of wild numbers run over.
        if offsets[0] != 0 or offsets[-1] != rows or (offsets[1:] < offsets[:-1]).any():
            yield f"has offsets that do not rise from 0 to its number of rows: {name}."
        counts = np.diff(offsets)
        yield from self._count_faults(counts, scored)
        for column in self._group.columns:
            if column.dtype in ("F16", "F32"):
                yield from self._not_finite(column, rows)
        for first in range(0, len(counts), BLOCK_VIEWS):
            yield from self._whole_faults(first, counts[first : first + BLOCK_VIEWS], scored)

    def _count_faults(self, counts: Array, scored: Array | None) -> Iterator[str]:
        levels, most = len(self._plan.axes.strides), self._views.locations
        if scored is not None:
            most = np.diff(scored) * self._classes
        if self._group.name == "cross":
            most = np.full_like(counts, levels)
            yield from self._of_view(counts != levels, "does not have one row for each level")
        yield from self._of_view(counts > most, f"has too many rows of {self._group.name}")

    def _not_finite(self, column: Column, rows: int) -> Iterator[str]:
        block = max(1, BLOCK_BYTES // column.entry_bytes)
        for first in range(0, rows, block):
            values = self._table.read(column, first, min(block, rows - first))
            finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
            for row in np.flatnonzero(~finite)[:1]:
                view = int(np.searchsorted(self.offsets, first + row, side="right")) - 1
                name = self._views.name(view)
                yield f"has numbers that are not finite: {column.name} of {name}."

    def _whole_faults(self, first: int, counts: Array, scored: Array | None) -> Iterator[str]:
        """Yield what is wrong with the whole numbers of some views from the first one on."""
        start, rows = int(self.offsets[first]), int(counts.sum())
        view = first + np.repeat(np.arange(len(counts)), counts)
        for column in self._group.columns:
            if column.dtype != "U16" or not rows:
                continue
            values = self._table.read(column, start, rows).astype(np.int64)
            step = np.where(view[1:] == view[:-1], np.diff(values), 1)
            least, most = self._limits(column, view, scored)
            falls = np.concatenate([np.zeros(1, bool), step < least])
            name = column.name
            yield from self._of_view(falls, f"has numbers that do not rise, {name}", view)
            yield from self._of_view(values >= most, f"has a number out of range, {name}", view)

    def _limits(self, column: Column, view: Array, scored: Array | None) -> tuple[int, Array]:
        """Return by how much the numbers of a view must rise at least, and their upper ends."""
        match column.name.partition(".")[2]:
            case "location":
                return 1, self._views.locations[view]
            case "row":
                assert scored is not None
                return 0, np.diff(scored)[view]
            case "label":
                return -U16_COUNT, np.full(len(view), self._classes)
            case _:
                return -U16_COUNT, np.full(len(view), U16_COUNT)

    def _of_view(self, faulty: Array, message: str, view: Array | None = None) -> Iterator[str]:
        for position in np.flatnonzero(faulty)[:1]:
            named = int(position if view is None else view[position])
            yield f"{message}: {self._views.name(named)}."
