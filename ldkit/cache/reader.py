"""Reading a sealed cache: key → view, batch → teacher rows, by offset into reused buffers.

A reader can be pickled and survives a fork: files are opened by each process on first use, and
`os.preadv` carries its own position. One reader serves one thread.
"""

from bisect import bisect_right
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy.typing import NDArray
from torch import Tensor

from ldkit.cache.codecs import decode
from ldkit.cache.columns import Column
from ldkit.cache.content import name_of, pixels_crc32
from ldkit.cache.document import REBUILD
from ldkit.cache.folder import CacheFolder, file_size, incomplete, read_document, read_file
from ldkit.cache.format import Manifest, Plan
from ldkit.cache.handles import Handles
from ldkit.cache.shard import Shard, Span
from ldkit.errors import CacheCorrupt, CacheMismatch
from ldkit.ops.anchors import relocate
from ldkit.structures import Batch, RegionRows, Rows, TeacherRows, View, ViewKey


class _Place(NamedTuple):
    shard: Shard
    position: int
    span: Span


class CacheReader:
    """A sealed cache. It answers for the views of a batch as a live teacher would."""

    def __init__(self, path: Path, plan: Plan, manifest: Manifest) -> None:
        self.path = path
        self.plan = plan
        self.manifest = manifest
        self._first_keys = [receipt.first_key for receipt in manifest.receipts]
        self._columns = plan.row_columns
        self._shards: dict[int, Shard] = {}
        self._buffers: dict[str, NDArray[np.uint8]] = {}
        self._handles = Handles()

    @classmethod
    def open_(cls, path: Path) -> "CacheReader":
        """Return the reader of a cache whose plan, manifest and receipts are intact.

        Shards are checked later, each before a process uses its first row.

        Raises:
            CacheIncomplete: The cache is not sealed.
            CacheCorrupt: A document is missing or not what was written.
            CacheMismatch: It has another format version.
        """
        folder = CacheFolder(path)
        if file_size(folder.manifest) is None:
            raise incomplete(folder)
        manifest = read_document(folder.manifest, Manifest)
        plan = read_document(folder.plan, Plan)
        _check_documents(folder, plan, manifest)
        return cls(path, plan, manifest)

    @property
    def fingerprint(self) -> str:
        """Return the sha256 that names this cache, content and all."""
        return self.manifest.digest

    def view(self, key: ViewKey) -> View:
        """Return the view that the teacher saw.

        Raises:
            CacheMismatch: The cache has no such view.
            CacheCorrupt: Its shard is damaged.
        """
        place = self._place(key)
        return place.shard.view(place.position)

    def check_pixels(self, key: ViewKey, pixels: UInt8[Tensor, "3 H W"]) -> None:
        """Check that these pixels are those the teacher saw; they may be padded further.

        Raises:
            CacheMismatch: They are not.
        """
        place = self._place(key)
        found = pixels_crc32(pixels, place.shard.view(place.position).padded_hw)
        expected = place.shard.pixels_crc32(place.position)
        if found != expected:
            raise CacheMismatch(
                f"{name_of(key)} is not the picture the teacher saw (CRC-32 {expected:08x} in the "
                f"cache, {found:08x} here): another image file, JPEG decoder or resize.",
                where=str(self.path),
                hint="Use the images and libraries the cache was built with (`ldkit cache info` "
                "shows them), or build a new cache.",
            )

    def lookup(self, batch: Batch) -> TeacherRows:
        """Return the teacher's rows for these views, on the batch's device and canvas.

        A batch that is not on the CPU costs one device read, to check `gt_index`.

        Raises:
            CacheMismatch: A view is absent or another one, or a row names a box that is not there.
            CacheCorrupt: A shard is damaged.
        """
        places = [self._place(key) for key in batch.keys]
        for key, view, place in zip(batch.keys, batch.views, places, strict=True):
            cached = place.shard.view(place.position)
            if cached != view:
                raise _other_view(self.path, key, cached, view)
        stored = {column.name: self._gather(column, places) for column in self._columns}
        image = np.repeat(np.arange(len(places)), [place.span.length for place in places])
        gt_index = stored["main.gt_index"].astype(np.int64)
        self._check_boxes(batch, image, gt_index)
        location = self._on_canvas(stored["main.location"], places, batch)
        device = batch.pixels.device
        cls_logits = stored.get("main.cls_logits")
        main = RegionRows(
            rows=Rows(
                image=torch.from_numpy(image).to(device),
                location=location.to(device),
                gt_index=torch.from_numpy(gt_index).to(device),
            ),
            bbox_logits=_decoded(stored["main.bbox_logits"], device),
            cls_logits=None if cls_logits is None else _decoded(cls_logits, device),
        )
        return TeacherRows(main)

    def close(self) -> None:
        """Close all files; they open again on the next use."""
        self._handles.close()

    def __reduce__(self) -> tuple[type["CacheReader"], tuple[Path, Plan, Manifest]]:
        """Travel without files and buffers: another process opens its own."""
        return type(self), (self.path, self.plan, self.manifest)

    def _place(self, key: ViewKey) -> _Place:
        number = bisect_right(self._first_keys, key) - 1
        shard = self._shard(number) if number >= 0 else None
        position = None if shard is None else shard.find(key)
        if shard is None or position is None:
            raise CacheMismatch(
                f"has no {name_of(key)}.",
                where=str(self.path),
                hint="It was built for other images or fewer views. Use the data set and `views` "
                "of the cache (`ldkit cache info` shows them), or build a new cache.",
            )
        return _Place(shard, position, shard.span(position))

    def _shard(self, number: int) -> Shard:
        shard = self._shards.get(number)
        if shard is None:
            receipt = self.manifest.receipts[number]
            shard = self._shards[number] = Shard(CacheFolder(self.path), receipt, self.plan)
        return shard

    def _gather(self, column: Column, places: list[_Place]) -> NDArray[np.generic]:
        """Return a column of all rows of these views, in memory that the next call reuses."""
        rows, width = sum(place.span.length for place in places), column.entry_bytes
        buffer = self._buffers.get(column.name)
        if buffer is None or len(buffer) < rows * width:
            buffer = self._buffers[column.name] = np.empty(2 * rows * width, np.uint8)
        memory, end = buffer.data, 0
        for shard, _, span in places:
            start, end = end, end + span.length * width
            if span.length:
                handle = self._handles.of(shard.path)
                shard.read_rows(handle, column, span, memory[start:end])
        return buffer[:end].view(column.numpy).reshape(rows, *column.shape)

    def _on_canvas(
        self, location: NDArray[np.generic], places: list[_Place], batch: Batch
    ) -> Int[Tensor, "P"]:
        """Return locations of each view's own canvas as locations of the batch's canvas."""
        moved, end = torch.from_numpy(location.astype(np.int64)), 0
        strides, canvas = self.plan.axes.strides, batch.canvas_hw
        for place, view in zip(places, batch.views, strict=True):
            start, end = end, end + place.span.length
            if view.padded_hw != canvas:
                own = moved[start:end]
                moved[start:end] = relocate(own, view.padded_hw, canvas, strides)
        return moved

    def _check_boxes(
        self, batch: Batch, image: NDArray[np.int64], gt_index: NDArray[np.int64]
    ) -> None:
        boxes_B = (batch.ground_truth.labels >= 0).sum(dim=1).cpu().numpy()
        outside = np.flatnonzero(gt_index >= boxes_B[image])
        if len(outside):
            row = outside[0]
            raise CacheMismatch(
                f"{name_of(batch.keys[image[row]])}: a row belongs to box {gt_index[row]}, counted "
                f"from 0, but the image has {boxes_B[image[row]]} boxes here.",
                where=str(self.path),
                hint="The annotations are not those the cache was built with. Use those, or build "
                "a new cache.",
            )


def _decoded(stored: NDArray[np.generic], device: torch.device) -> Float[Tensor, "P ..."]:
    return decode(torch.from_numpy(stored).to(device))


def _check_documents(folder: CacheFolder, plan: Plan, manifest: Manifest) -> None:
    if plan.digest != manifest.plan:
        raise CacheCorrupt(
            "is not the plan of manifest.json.\n"
            f"  expected digest {manifest.plan}\n  found           {plan.digest}",
            where=str(folder.plan),
            hint=REBUILD,
        )
    if [receipt.shard for receipt in manifest.receipts] != list(range(plan.shards)):
        raise CacheCorrupt(
            f"does not list the {plan.shards} shards of the plan.",
            where=str(folder.manifest),
            hint=REBUILD,
        )
    for receipt in manifest.receipts:
        file = folder.receipt(receipt.shard)
        if read_file(file) != receipt.to_bytes():
            raise CacheCorrupt(
                "is not the receipt that manifest.json holds.", where=str(file), hint=REBUILD
            )


def _other_view(folder: Path, key: ViewKey, cached: View, batch: View) -> CacheMismatch:
    fields = {
        "source_hw": (cached.source_hw, batch.source_hw),
        "resized_hw": (cached.resized_hw, batch.resized_hw),
        "padded_hw": (cached.padded_hw, batch.padded_hw),
        "flip": (cached.flip, batch.flip),
    }
    lines = [
        f"  {name}: {ours} in the cache, {theirs} here"
        for name, (ours, theirs) in fields.items()
        if ours != theirs
    ]
    return CacheMismatch(
        f"{name_of(key)} is another view than the teacher saw.\n" + "\n".join(lines),
        where=str(folder),
        hint="Set `views` and `seed` as in the cache (`ldkit cache info` shows them), or build a "
        "new cache.",
    )
