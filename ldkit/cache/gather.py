"""The stored rows of some views, column by column, read by offset into reused buffers."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ldkit.cache.columns import Column, Group
from ldkit.cache.format import Wanted
from ldkit.cache.handles import Handles
from ldkit.cache.shard import Shard, Span


class Place(NamedTuple):
    """Where a view is stored."""

    shard: Shard
    position: int


class Gathered(NamedTuple):
    """The rows that some views have in a group, view by view.

    `counts` are the rows of each view. `columns`, by name, are memory that the next call reuses.
    """

    counts: NDArray[np.int64]
    columns: dict[str, NDArray[np.generic]]


class Gatherer:
    """Reads groups of columns; keeps files open and one buffer for each column."""

    def __init__(self) -> None:
        self._buffers: dict[str, NDArray[np.uint8]] = {}
        self._handles = Handles()

    def read(self, group: Group, places: Sequence[Place]) -> Gathered:
        """Return all rows of these views in a group.

        Raises:
            CacheCorrupt: A shard was cut while it was open.
            StorageError: A shard cannot be read.
        """
        spans = [place.shard.span(place.position, group.name) for place in places]
        columns = {column.name: self._column(column, places, spans) for column in group.columns}
        return Gathered(np.array([span.length for span in spans], np.int64), columns)

    def close(self) -> None:
        """Close all files; they open again on the next use."""
        self._handles.close()

    def _column(
        self, column: Column, places: Sequence[Place], spans: Sequence[Span]
    ) -> NDArray[np.generic]:
        rows, width = sum(span.length for span in spans), column.entry_bytes
        buffer = self._buffers.get(column.name)
        if buffer is None or len(buffer) < rows * width:
            buffer = self._buffers[column.name] = np.empty(2 * rows * width, np.uint8)
        memory, end = buffer.data, 0
        for (shard, _), span in zip(places, spans, strict=True):
            start, end = end, end + span.length * width
            if span.length:
                handle = self._handles.of(shard.path)
                shard.read_rows(handle, column, span, memory[start:end])
        return buffer[:end].view(column.numpy).reshape(rows, *column.shape)


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
