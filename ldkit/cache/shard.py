"""One shard, opened for reading: proved once, its views kept in memory, its rows read by offset.

The sha256 of the whole file is checked when a process opens it first, before any of its rows is
used. Nothing is allocated for a row: it is read into memory of the caller.
"""

import hashlib
import os
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from io import BufferedReader
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ldkit.cache.columns import VIEW_COLUMNS, Column
from ldkit.cache.folder import CacheFolder, unreadable
from ldkit.cache.format import Plan
from ldkit.cache.header import HeaderError, read_header
from ldkit.cache.receipts import Receipt
from ldkit.cache.store import hold, origin_of
from ldkit.errors import CacheCorrupt
from ldkit.structures import View, ViewKey


class Extent(NamedTuple):
    """Where the bytes of a column lie: the first in the file, and how many an entry has."""

    first: int
    width: int


PAIR = ("main.location", "main.gt_index")
"""Columns that are kept in memory: 3 % of a main row, but two of the three reads of a view."""
PAIRS_LIMIT = 1 << 27
"""Most bytes of a cache that are kept so. COCO with two views of each image takes 72 MB."""

Pairs = NDArray[np.uint16]
"""Location and box of rows, side by side."""


class Shard:
    """The views of one shard, and where its rows lie.

    `columns`, by name: where they lie in the file. `offsets`, by name of a group: the rows of view
    v are offsets[v] … offsets[v + 1]. `pairs` are the columns PAIR of all main rows; None: they are
    only in the file.

    Raises:
        CacheCorrupt: The file is missing, of another size, differs from its receipt in a byte, or
            does not have the columns of the plan.
        StorageError: It cannot be read.
    """

    def __init__(self, folder: CacheFolder, receipt: Receipt, plan: Plan) -> None:
        self.path = folder.shard(receipt.shard)
        self.file = str(self.path)
        self._folder = folder
        self._receipt = receipt
        try:
            with os.fdopen(hold(self.path), "rb") as file:
                self._prove(file, receipt)
                self.columns = self._find_columns(file, receipt, plan)
                views = receipt.views
                view = {column.name: self._read(file, column, views) for column in VIEW_COLUMNS}
                # Compact arrays of plain integers: looked up one at a time, faster than numpy's.
                self.offsets = {
                    group.name: array("q", self._read(file, group.offsets, views + 1).tobytes())
                    for group in plan.groups
                }
                self.pairs = self._pairs(file, receipt, plan)
        except HeaderError as error:
            raise self.corrupt(str(error)) from error
        except FileNotFoundError as error:
            raise self.corrupt("is missing.") from error
        except OSError as error:
            raise unreadable(self.path, error) from error
        counts = receipt.rows.by_group
        for group, offsets in self.offsets.items():
            if not _rises(offsets, counts[group]):
                raise self.corrupt(
                    f"has offsets that do not rise from 0 to its number of rows: {group}.offsets."
                )
        levels = len(plan.axes.strides)
        if "cross" in self.offsets and set(np.diff(self.offsets["cross"])) != {levels}:
            raise self.corrupt("has views without one row of cross for each level.")
        self._image_id = array("q", view["view.image_id"].astype("q").tobytes())
        self._view = array("q", view["view.index"].astype("q").tobytes())
        self._crc32 = view["view.pixels_crc32"]
        sizes = [view[f"view.{name}"] for name in ("source_hw", "resized_hw", "padded_hw")]
        self._geometry = np.concatenate([*sizes, view["view.flip"][:, None]], axis=1)

    @property
    def keys(self) -> list[ViewKey]:
        """Return the views of this shard in order."""
        return [ViewKey(*key) for key in zip(self._image_id, self._view, strict=True)]

    def find(self, key: ViewKey) -> int | None:
        """Return the position of a view in this shard, or None if it is not here."""
        image_id, view = key
        first = bisect_left(self._image_id, image_id)
        position = first + view  # where it lies if no view of the image is left out
        if 0 <= view < len(self._view) - first and (
            self._image_id[position] == image_id and self._view[position] == view
        ):
            return position
        last = bisect_right(self._image_id, key.image_id, first)
        position = bisect_left(self._view, key.view, first, last)
        found = position < last and self._view[position] == key.view
        return position if found else None

    def view(self, position: int) -> View:
        """Return the view at a position."""
        a, b, c, d, e, f, flip = self._geometry[position].tolist()
        return View(source_hw=(a, b), resized_hw=(c, d), padded_hw=(e, f), flip=bool(flip))

    def pixels_crc32(self, position: int) -> int:
        """Return the checksum of the pixels that the teacher saw."""
        return int(self._crc32[position])

    def read_rows(self, handle: int, row: int, into: Iterable[tuple[str, memoryview]]) -> None:
        """Fill memory with columns, by name, from a row on; `handle` is this shard's file."""
        for name, memory in into:
            first, width = self.columns[name]
            try:
                count = os.preadv(handle, (memory,), first + row * width)
            except OSError as error:
                raise unreadable(self.path, error) from error
            if count != len(memory):
                raise self.corrupt("was truncated while it was being read.")

    def admit(self, handle: int) -> None:
        """Check a handle opened since: another file than the one that was proved is proved anew.

        Raises:
            CacheCorrupt: The shard was replaced by another.
        """
        if _identity(handle) != self._proved:
            with os.fdopen(handle, "rb", closefd=False) as file:
                self._prove(file, self._receipt)

    def corrupt(self, message: str) -> CacheCorrupt:
        """Return the error for this shard, with the way to rebuild it, or fetch it, alone."""
        return corrupt_shard(self._folder, self._receipt.shard, message)

    def _prove(self, file: BufferedReader, receipt: Receipt) -> None:
        size = os.fstat(file.fileno()).st_size
        if size != receipt.bytes:
            raise self.corrupt(f"has {size} bytes; its receipt says {receipt.bytes}.")
        found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != receipt.sha256:
            raise self.corrupt(
                f"is not what was written.\n  expected sha256 {receipt.sha256}\n"
                f"  found           {found}"
            )
        self._proved = _identity(file.fileno())

    def _find_columns(
        self, file: BufferedReader, receipt: Receipt, plan: Plan
    ) -> dict[str, Extent]:
        """Return where the bytes of each column lie in the file."""
        counts = entries(receipt, plan)
        header = read_header(file, receipt.bytes, counts)
        return {
            column.name: Extent(header.starts[column.name], column.entry_bytes) for column in counts
        }

    def _pairs(self, file: BufferedReader, receipt: Receipt, plan: Plan) -> Pairs | None:
        rows = receipt.rows.main
        columns = [column for column in plan.groups[0].columns if column.name in PAIR]
        if plan.shards * rows * sum(column.entry_bytes for column in columns) > PAIRS_LIMIT:
            return None
        return np.stack([self._read(file, column, rows) for column in columns], axis=1)

    def _read(self, file: BufferedReader, column: Column, count: int) -> NDArray[Any]:
        file.seek(self.columns[column.name].first)
        content = file.read(count * column.entry_bytes)
        return np.frombuffer(content, column.numpy).reshape(count, *column.shape)


def corrupt_shard(folder: CacheFolder, number: int, message: str) -> CacheCorrupt:
    """Return the error for a shard, with the way to rebuild it, or fetch it, alone."""
    path, origin = folder.shard(number), origin_of(folder.path)
    if origin is not None:
        hint = f"Delete this file: it is a copy, and the next use fetches it from {origin}."
        return CacheCorrupt(message, where=str(path), hint=hint)
    return CacheCorrupt(
        message,
        where=str(path),
        hint=f"Delete this file, {folder.receipt(number).name} beside it and {folder.manifest}, "
        f"then run `{folder.command}` again with the same recipe and teacher: it rebuilds just "
        "this shard.",
    )


def entries(receipt: Receipt, plan: Plan) -> dict[Column, int]:
    """Return how many entries each column of a shard has.

    Raises:
        HeaderError: The receipt does not count the rows of a group.
    """
    rows = receipt.rows.by_group
    counts = dict.fromkeys(VIEW_COLUMNS, receipt.views)
    for group in plan.groups:
        if group.name not in rows:
            raise HeaderError(f"has a receipt that does not count the rows of {group.name}.")
        counts[group.offsets] = receipt.views + 1
        counts |= dict.fromkeys(group.columns, rows[group.name])
    return counts


def _identity(handle: int) -> tuple[int, int, int]:
    found = os.fstat(handle)
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _rises(offsets: Sequence[int], rows: int) -> bool:
    # Compared, not subtracted: differences of wild numbers run over.
    values = np.asarray(offsets)
    return offsets[0] == 0 and offsets[-1] == rows and bool((values[1:] >= values[:-1]).all())
