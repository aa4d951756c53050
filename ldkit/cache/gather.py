"""The stored rows of some views, column by column, read by offset into reused buffers."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ldkit.cache.columns import Column, Group
from ldkit.cache.format import Wanted
from ldkit.cache.handles import Handles
from ldkit.cache.memory import Memory
from ldkit.cache.shard import PAIR, Shard


class Place(NamedTuple):
    """Where a view is stored."""

    shard: Shard
    position: int


Run = tuple[Shard, int, int]
"""Rows of a shard, from the first to that before the last: a plain tuple, made for each view."""


class Gathered(NamedTuple):
    """The rows that some views have in a group, view by view.

    `counts` are the rows of each view. `columns`, by name, are memory that the next call reuses;
    answers are made in `memory`, None: in fresh one.
    """

    counts: NDArray[np.int64]
    columns: dict[str, NDArray[np.generic]]
    memory: Memory | None = None


class Gatherer:
    """Reads groups of columns; keeps files open and one buffer for each column."""

    def __init__(self) -> None:
        self._buffers: dict[str, NDArray[np.uint8]] = {}
        self._handles = Handles()
        self._memory = Memory()

    def read(self, group: Group, places: Sequence[Place]) -> Gathered:
        """Return all rows of these views in a group.

        Raises:
            CacheCorrupt: A shard was cut while it was open.
            StorageError: A shard cannot be read.
        """
        counts, runs = runs_of(group.name, places)
        found = _kept_pairs(runs) if group.name == "main" else {}
        rows = sum(counts)
        columns = [column for column in group.columns if column.name not in found]
        buffers = [self._buffer(column, rows) for column in columns]
        self._fill(runs, columns, buffers)
        for column, buffer in zip(columns, buffers, strict=True):
            content = buffer[: rows * column.entry_bytes].view(column.numpy)
            found[column.name] = content.reshape(rows, *column.shape)
        return Gathered(np.array(counts, np.int64), found, self._memory)

    def close(self) -> None:
        """Close all files; they open again on the next use."""
        self._handles.close()

    def _fill(
        self,
        runs: Sequence[Run],
        columns: Sequence[Column],
        buffers: Sequence[NDArray[np.uint8]],
    ) -> None:
        pairs = zip(columns, buffers, strict=True)
        into = [(column.name, column.entry_bytes, buffer.data) for column, buffer in pairs]
        end = 0
        for shard, first, last in runs:
            begin, end = end, end + last - first
            shard.read_rows(
                self._handles.of(shard.file, shard.admit),
                first,
                [(name, memory[begin * width : end * width]) for name, width, memory in into],
            )

    def _buffer(self, column: Column, rows: int) -> NDArray[np.uint8]:
        buffer = self._buffers.get(column.name)
        if buffer is None or len(buffer) < rows * column.entry_bytes:
            size = 2 * rows * column.entry_bytes
            buffer = self._buffers[column.name] = np.empty(size, np.uint8)
        return buffer


def runs_of(group: str, places: Sequence[Place]) -> tuple[list[int], list[Run]]:
    """Return the rows of each view, and what is read at once: views that lie side by side.

    Views without rows are in no run.
    """
    counts: list[int] = []
    runs: list[Run] = []
    reading: Shard | None = None
    first = last = 0
    for shard, position in places:
        offsets = shard.offsets[group]
        start, stop = offsets[position], offsets[position + 1]
        counts.append(stop - start)
        if start == last and shard is reading:
            last = stop
            continue
        if reading is not None and first < last:
            runs.append((reading, first, last))
        reading, first, last = shard, start, stop
    if reading is not None and first < last:
        runs.append((reading, first, last))
    return counts, runs


def _kept_pairs(runs: Sequence[Run]) -> dict[str, NDArray[np.generic]]:
    """Return the main columns that all of these shards keep in memory; none where one does not."""
    kept = [(shard.pairs, first, last) for shard, first, last in runs]
    parts = [pairs[first:last] for pairs, first, last in kept if pairs is not None]
    if len(parts) < len(kept) or not parts:
        return {}
    pairs = np.concatenate(parts)
    return {name: pairs[:, number] for number, name in enumerate(PAIR)}


def wanted_groups(stored: Sequence[Group], wanted: Wanted | None) -> tuple[Group, ...]:
    """Return the groups and columns that are to be read; None wants all that is stored."""
    if wanted is None:
        return tuple(stored)
    regions = {name for name, region in wanted.coverage if region is not None}
    if "score" in regions:
        regions.add("score_class")
    return tuple(_wanted(group, wanted) for group in stored if group.name in regions)


def _wanted(group: Group, wanted: Wanted) -> Group:
    def is_read(column: Column) -> bool:
        return not column.name.endswith(".cls_logits") or column.name in wanted.columns

    return Group(group.name, tuple(column for column in group.columns if is_read(column)))
