"""Reading a sealed cache: key → view, batch → teacher rows, by offset into reused buffers.

A reader can be pickled and survives a fork: files are opened by each process on first use, and
`os.preadv` carries its own position. One reader serves one thread.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from ldkit.cache.answer import Target, image_of_rows, teacher_rows
from ldkit.cache.canvas import moves
from ldkit.cache.content import name_of, pixels_crc32
from ldkit.cache.format import Plan, Wanted
from ldkit.cache.gather import Gathered, Gatherer, Place
from ldkit.cache.generations import Generation, fingerprint, read_generations
from ldkit.cache.held import require_views
from ldkit.cache.receipts import Manifest
from ldkit.cache.routes import Route, Stock, raised_floor, routes
from ldkit.errors import CacheMismatch
from ldkit.ops.scores import scored_above
from ldkit.structures import Batch, TeacherRows, View, ViewKey


class CacheReader:
    """A sealed cache. It answers for the views of a batch as a live teacher would."""

    def __init__(
        self, path: Path, generations: Sequence[Generation], wanted: Wanted | None = None
    ) -> None:
        self.path = path
        self.generations = tuple(generations)
        self._wanted = wanted
        self._stocks = [Stock(generation) for generation in self.generations]
        self._routes = routes(self.plans, wanted)
        self._floor = raised_floor(self.plans, wanted)
        self._gatherer = Gatherer()

    @classmethod
    def open_(cls, path: Path, wanted: Wanted | None = None) -> "CacheReader":
        """Return the reader of a cache whose plans, manifests and receipts are intact.

        Of each view and group, the newest generation that has it answers. Shards are checked
        later, each before a process uses its first row. Rows that are not wanted are never read;
        None wants all that is stored. A cache that lacks what is wanted opens too: `require_fit`
        tells.

        Raises:
            CacheIncomplete: The cache is not sealed.
            CacheCorrupt: A document is missing or not what was written.
            CacheMismatch: It has another format version, or parts of several teachers.
        """
        return cls(path, read_generations(path), wanted)

    @property
    def fingerprint(self) -> str:
        """Return the sha256 that names this cache, content and all."""
        return fingerprint(self.generations)

    @property
    def plan(self) -> Plan:
        """Return the plan of the root: teacher, detector and renderer are those of all."""
        return self.generations[0].plan

    @property
    def manifest(self) -> Manifest:
        """Return the manifest of the root."""
        return self.generations[0].manifest

    @property
    def plans(self) -> tuple[Plan, ...]:
        """Return the plans of all generations, the root's first."""
        return tuple(generation.plan for generation in self.generations)

    @property
    def channels(self) -> int | None:
        """Return the width of the pyramid, where a generation keeps features."""
        return next((plan.axes.channels for plan in self.plans if plan.axes.channels), None)

    def require_keys(self, keys: Sequence[ViewKey]) -> None:
        """Check that all that is wanted is there for each of these views, which are sorted.

        No shard is proved, and none is fetched: of a mirror, what is not here is not looked at.

        Raises:
            CacheCoverage: It is not.
            CacheCorrupt: The views of a generation are not those of its plan.
        """
        for route in self._routes:
            parts = [self.generations[number] for number in route.generations]
            with suppress(FileNotFoundError):
                require_views(self.path, [group.name for group in route.groups], parts, keys)

    def files_of(self, key: ViewKey) -> tuple[Path, ...]:
        """Return the shards that a lookup of this view may open, without looking into them."""
        numbers = dict.fromkeys(n for route in self._routes for n in route.generations)
        files = (self._stocks[number].file_of(key) for number in numbers)
        return tuple(file for file in files if file is not None)

    def view(self, key: ViewKey) -> View:
        """Return the view that the teacher saw.

        Raises:
            CacheMismatch: The cache has no such view.
            CacheCorrupt: Its shard is damaged.
        """
        place = self._place(key, self._routes[0])
        return place.shard.view(place.position)

    def check_pixels(self, key: ViewKey, pixels: UInt8[Tensor, "3 H W"]) -> None:
        """Check that these pixels are those the teacher saw; they may be padded further.

        Raises:
            CacheMismatch: They are not.
        """
        place = self._place(key, self._routes[0])
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
        gathered = {}
        for route in self._routes:
            places = [self._place(key, route) for key in batch.keys]
            self._check_views(batch, places)
            for group in route.groups:
                gathered[group.name] = self._gatherer.read(group, places)
        self._check_boxes(batch, gathered)
        own_hw = [view.padded_hw for view in batch.views]
        target = Target(moves(own_hw, batch.canvas_hw, self.plan.axes.strides), batch.pixels.device)
        answer = teacher_rows(gathered, target)
        if self._floor is None or answer.score is None:
            return answer
        return answer._replace(score=scored_above(answer.score, self._floor))

    def close(self) -> None:
        """Close all files; they open again on the next use."""
        self._gatherer.close()

    def __reduce__(self) -> tuple[type["CacheReader"], tuple[object, ...]]:
        """Travel without files and buffers: another process opens its own."""
        return type(self), (self.path, self.generations, self._wanted)

    def _place(self, key: ViewKey, route: Route) -> Place:
        for number in route.generations:
            place = self._stocks[number].find(key)
            if place is not None:
                return place
        raise CacheMismatch(
            f"has no {name_of(key)}.",
            where=str(self.path),
            hint="It was built for other images or fewer views. Use the data set and `views` of "
            "the cache (`ldkit cache info` shows them), add what is missing to it "
            "(`ldkit cache-logits RECIPE --extend`), or build a new cache.",
        )

    def _check_views(self, batch: Batch, places: Sequence[Place]) -> None:
        for key, view, place in zip(batch.keys, batch.views, places, strict=True):
            cached = place.shard.view(place.position)
            if cached != view:
                raise _other_view(self.path, key, cached, view)

    def _check_boxes(self, batch: Batch, gathered: Mapping[str, Gathered]) -> None:
        boxes_B = (batch.ground_truth.labels >= 0).sum(dim=1).cpu().numpy()
        for name in ("main", "vlr"):
            if name not in gathered:
                continue
            counts, columns, _ = gathered[name]
            gt_index = columns[f"{name}.gt_index"]
            outside = gt_index >= np.repeat(boxes_B, counts)
            if outside.any():
                row = outside.argmax()
                image = image_of_rows(counts)[row]
                raise CacheMismatch(
                    f"{name_of(batch.keys[image])}: a row belongs to box {gt_index[row]}, counted "
                    f"from 0, but the image has {boxes_B[image]} boxes here.",
                    where=str(self.path),
                    hint="The annotations are not those the cache was built with. Use those, or "
                    "build a new cache.",
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
