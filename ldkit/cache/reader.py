"""Reading a sealed cache: key → view, batch → teacher rows, by offset into reused buffers.

A reader can be pickled and survives a fork: files are opened by each process on first use, and
`os.preadv` carries its own position. One reader serves one thread.
"""

from bisect import bisect_right
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from ldkit.cache.answer import Target, image_of_rows, teacher_rows
from ldkit.cache.canvas import moves
from ldkit.cache.content import name_of, pixels_crc32
from ldkit.cache.document import REBUILD
from ldkit.cache.folder import CacheFolder, file_size, incomplete, read_document, read_file
from ldkit.cache.format import Plan, Wanted
from ldkit.cache.gather import Gathered, Gatherer, Place, wanted_groups
from ldkit.cache.receipts import Manifest
from ldkit.cache.shard import Shard
from ldkit.errors import CacheCorrupt, CacheMismatch
from ldkit.structures import Batch, TeacherRows, View, ViewKey


class CacheReader:
    """A sealed cache. It answers for the views of a batch as a live teacher would."""

    def __init__(
        self, path: Path, plan: Plan, manifest: Manifest, wanted: Wanted | None = None
    ) -> None:
        self.path = path
        self.plan = plan
        self.manifest = manifest
        self._wanted = wanted
        self._first_keys = [receipt.first_key for receipt in manifest.receipts]
        self._groups = wanted_groups(plan.groups, wanted)
        self._shards: dict[int, Shard] = {}
        self._gatherer = Gatherer()

    @classmethod
    def open_(cls, path: Path, wanted: Wanted | None = None) -> "CacheReader":
        """Return the reader of a cache whose plan, manifest and receipts are intact.

        Shards are checked later, each before a process uses its first row. Rows that are not
        wanted are never read; None wants all that is stored. A cache that lacks what is wanted
        opens too: `require_fit` tells.

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
        return cls(path, plan, manifest, wanted)

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
        gathered = {group.name: self._gatherer.read(group, places) for group in self._groups}
        self._check_boxes(batch, gathered)
        own_hw = [view.padded_hw for view in batch.views]
        target = Target(moves(own_hw, batch.canvas_hw, self.plan.axes.strides), batch.pixels.device)
        return teacher_rows(gathered, target)

    def close(self) -> None:
        """Close all files; they open again on the next use."""
        self._gatherer.close()

    def __reduce__(self) -> tuple[type["CacheReader"], tuple[object, ...]]:
        """Travel without files and buffers: another process opens its own."""
        return type(self), (self.path, self.plan, self.manifest, self._wanted)

    def _place(self, key: ViewKey) -> Place:
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
        return Place(shard, position)

    def _shard(self, number: int) -> Shard:
        shard = self._shards.get(number)
        if shard is None:
            receipt = self.manifest.receipts[number]
            shard = self._shards[number] = Shard(CacheFolder(self.path), receipt, self.plan)
        return shard

    def _check_boxes(self, batch: Batch, gathered: Mapping[str, Gathered]) -> None:
        boxes_B = (batch.ground_truth.labels >= 0).sum(dim=1).cpu().numpy()
        for name in ("main", "vlr"):
            if name not in gathered:
                continue
            counts, columns = gathered[name]
            gt_index = columns[f"{name}.gt_index"]
            outside = np.flatnonzero(gt_index >= np.repeat(boxes_B, counts))
            if len(outside):
                row = outside[0]
                image = image_of_rows(counts)[row]
                raise CacheMismatch(
                    f"{name_of(batch.keys[image])}: a row belongs to box {gt_index[row]}, counted "
                    f"from 0, but the image has {boxes_B[image]} boxes here.",
                    where=str(self.path),
                    hint="The annotations are not those the cache was built with. Use those, or "
                    "build a new cache.",
                )


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
