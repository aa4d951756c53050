"""Does a cache belong to a data set it was not built from? Its rows say which boxes it has seen.

Which locations belong to which box follows from boxes and anchors alone. So where a data set has
grown, or parts of a cache come from several, no image and no teacher is needed to tell.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from ldkit.cache.content import name_of
from ldkit.cache.format import Coverage, MainRegion, Wanted
from ldkit.cache.reader import CacheReader
from ldkit.data.augment import render_boxes
from ldkit.data.coco import Record
from ldkit.errors import CacheMismatch
from ldkit.jobs.canvases import groups_of_equal_canvas
from ldkit.jobs.material import Material
from ldkit.ops.anchors import anchors, valid_locations
from ldkit.ops.regions import atss, main_rows
from ldkit.structures import Batch, GroundTruth, Rows, View, ViewKey, padded_sizes

AT_ONCE = 16
"""Views of one canvas that are assigned together."""


def one_view_each(keys: Sequence[ViewKey]) -> list[ViewKey]:
    """Return the first of the views of each image, in order."""
    return list({key.image_id: key for key in reversed(keys)}.values())[::-1]


def check_boxes(
    folder: Path, material: Material, keys: Sequence[ViewKey], topk: int, device: torch.device
) -> Iterator[int]:
    """Yield how many views are done; check that a cache's rows are those of this data set's boxes.

    Raises:
        CacheMismatch: An image has other boxes, or another size.
        CacheCorrupt: A shard is damaged.
    """
    wanted = Wanted(Coverage(main=MainRegion(topk=topk)), frozenset())
    reader, done = CacheReader.open_(folder, wanted), 0
    views = [material.draw(key, material.records[key.image_id].hw) for key in keys]
    for members in groups_of_equal_canvas(views, AT_ONCE):
        batch = _without_pixels(
            [keys[n] for n in members], [views[n] for n in members], material.records, device
        )
        _compare(reader, batch, topk)
        done += len(members)
        yield done
    reader.close()


def _without_pixels(
    keys: Sequence[ViewKey],
    views: Sequence[View],
    records: dict[int, Record],
    device: torch.device,
) -> Batch:
    """Return a batch with all but its pixels, which nobody looks at."""
    found = [records[key.image_id] for key in keys]
    most = max(1, *(len(record.boxes) for record in found))
    boxes = np.zeros((len(keys), most, 4), np.float32)
    labels = np.full((len(keys), most), -1, np.int64)
    for row, (record, view) in enumerate(zip(found, views, strict=True)):
        boxes[row, : len(record.boxes)] = render_boxes(record.boxes, view)
        labels[row, : len(record.labels)] = record.labels
    blank = torch.zeros((), dtype=torch.uint8, device=device)
    truth = GroundTruth(torch.from_numpy(boxes).to(device), torch.from_numpy(labels).to(device))
    return Batch(
        keys=tuple(keys),
        views=tuple(views),
        pixels=blank.expand(len(keys), 3, *views[0].padded_hw),
        ground_truth=truth,
    )


def _compare(reader: CacheReader, batch: Batch, topk: int) -> None:
    grid, device = reader.plan.axes.grid, batch.pixels.device
    places = anchors(batch.canvas_hw, grid, device)
    valid_BA = valid_locations(batch.canvas_hw, padded_sizes(batch.views, device), grid)
    assigned = main_rows(atss(places, valid_BA, batch.ground_truth, topk).gt_index)
    stored = reader.lookup(batch).main.rows
    for position, key in enumerate(batch.keys):
        if not _equal(_of(stored, position), _of(assigned, position)):
            raise CacheMismatch(
                f"{name_of(key)}: its rows are not those of the boxes that the image has here.",
                where=str(reader.path),
                hint="The annotations of this image have changed since the cache was built. Use "
                "those of then, or build a new cache (`--out caches/NAME`).",
            )


def _of(rows: Rows, image: int) -> torch.Tensor:
    chosen = rows.image == image
    return torch.stack([rows.location[chosen], rows.gt_index[chosen]])


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and bool((one == other).all())
