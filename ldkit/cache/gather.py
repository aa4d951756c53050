"""The stored rows of some views, column by column, read by offset into reused buffers."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ldkit.cache.columns import Column, Group
from ldkit.cache.format import Wanted
from ldkit.cache.handles import Handles
from ldkit.cache.memory import Memory
from ldkit.cache.shard import Shard, Span


class Place(NamedTuple):
    """Where a view is stored."""

    shard: Shard
    position: int


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
        spans = [shard.span(position, group.name) for shard, position in places]
        counts = [span.length for span in spans]
        rows = sum(counts)
        buffers = [self._buffer(column, rows) for column in group.columns]
        widths = [column.entry_bytes for column in group.columns]
        into = [
            (column.name, width, buffer.data)
            for column, width, buffer in zip(group.columns, widths, buffers, strict=True)
        ]
        end = 0
        for shard, span in runs(places, spans):
            start, end = end, end + span.length
            shard.read_rows(
                self._handles.of(shard.path),
                span,
                [(name, memory[start * width : end * width]) for name, width, memory in into],
            )
        columns = {
            column.name: buffer[: rows * width].view(column.numpy).reshape(rows, *column.shape)
            for column, width, buffer in zip(group.columns, widths, buffers, strict=True)
        }
        return Gathered(np.array(counts, np.int64), columns, self._memory)

    def close(self) -> None:
        """Close all files; they open again on the next use."""
        self._handles.close()

    def _buffer(self, column: Column, rows: int) -> NDArray[np.uint8]:
        buffer = self._buffers.get(column.name)
        if buffer is None or len(buffer) < rows * column.entry_bytes:
            size = 2 * rows * column.entry_bytes
            buffer = self._buffers[column.name] = np.empty(size, np.uint8)
        return buffer


def runs(places: Sequence[Place], spans: Sequence[Span]) -> Iterator[tuple[Shard, Span]]:
    """Yield the rows that are read at once: those of views that follow each other in a shard.

    Views without rows are left out.
    """
    if not spans:
        return
    shard, (start, length) = places[0].shard, spans[0]
    for place, span in zip(places[1:], spans[1:], strict=True):
        if place.shard is shard and span.start == start + length:
            length += span.length
            continue
        if length:
            yield shard, Span(start, length)
        shard, (start, length) = place.shard, span
    if length:
        yield shard, Span(start, length)


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
