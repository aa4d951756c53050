"""What a teacher says at the main region, each view on its own canvas.

The cache builder and the live teacher both come through `rows_of_group`, so that what one writes
and what the other says are the same rows.
"""

from collections.abc import Sequence

import torch

from ldkit.jobs.canvases import groups_of_equal_canvas
from ldkit.models.gfl import Detector
from ldkit.ops.anchors import anchors, relocate, valid_locations
from ldkit.ops.pixels import normalise
from ldkit.ops.regions import assign_atss, main_rows
from ldkit.structures import (
    Batch,
    GroundTruth,
    RegionRows,
    Rows,
    Size,
    TeacherRows,
    padded_sizes,
    resized_sizes,
)


@torch.no_grad()
def rows_of_group(teacher: Detector, batch: Batch, topk: int) -> TeacherRows:
    """Return the teacher's main rows for views of one canvas, equal to the batch's canvas."""
    canvas, device = batch.canvas_hw, batch.pixels.device
    images = normalise(batch.pixels, resized_sizes(batch.views, device))
    predictions = teacher(images)
    valid_BA = valid_locations(canvas, padded_sizes(batch.views, device), teacher.grid)
    rows = main_rows(
        assign_atss(anchors(canvas, teacher.grid, device), valid_BA, batch.ground_truth, topk)
    )
    main = RegionRows(
        rows=rows,
        bbox_logits=predictions.bbox_logits[rows.image, rows.location].float(),
        cls_logits=predictions.class_logits[rows.image, rows.location].float(),
    )
    return TeacherRows(main)


def part_of_batch(batch: Batch, members: Sequence[int]) -> Batch:
    """Return some views of a batch, cut back to their own common canvas."""
    height, width = batch.views[members[0]].padded_hw
    chosen = torch.tensor(members, device=batch.pixels.device)
    boxes, labels = batch.ground_truth
    return Batch(
        keys=tuple(batch.keys[member] for member in members),
        views=tuple(batch.views[member] for member in members),
        pixels=batch.pixels[chosen, :, :height, :width].contiguous(),
        ground_truth=GroundTruth(boxes[chosen], labels[chosen]),
    )


class LiveTeacher:
    """A teacher that runs on the student's batch: exact, and as slow as the teacher is.

    It answers for the same views, on the same canvases and in the same row order as a cache.
    """

    def __init__(self, teacher: Detector, *, topk: int, batch_size: int) -> None:
        self.teacher = teacher
        self.topk = topk
        self.batch_size = batch_size

    def lookup(self, batch: Batch) -> TeacherRows:
        """Return the teacher's rows for the batch, on its device and canvas."""
        parts: list[RegionRows] = []
        for members in groups_of_equal_canvas(batch.views, self.batch_size):
            part = part_of_batch(batch, members)
            answer = rows_of_group(self.teacher, part, self.topk).main
            parts.append(_placed(answer, members, part.canvas_hw, batch.canvas_hw, self.teacher))
        return TeacherRows(_in_batch_order(parts))


def _placed(
    answer: RegionRows, members: Sequence[int], own: Size, canvas: Size, teacher: Detector
) -> RegionRows:
    """Return rows of a group as rows of the batch it was cut from."""
    image, location, gt_index = answer.rows
    rows = Rows(
        image=torch.tensor(members, device=image.device)[image],
        location=relocate(location, own, canvas, teacher.grid.strides),
        gt_index=gt_index,
    )
    return answer._replace(rows=rows)


def _in_batch_order(parts: Sequence[RegionRows]) -> RegionRows:
    image = torch.cat([part.rows.image for part in parts])
    order = torch.sort(image, stable=True).indices  # locations of an image are sorted already
    classes = [part.cls_logits for part in parts if part.cls_logits is not None]
    return RegionRows(
        rows=Rows(
            image=image[order],
            location=torch.cat([part.rows.location for part in parts])[order],
            gt_index=torch.cat([part.rows.gt_index for part in parts])[order],
        ),
        bbox_logits=torch.cat([part.bbox_logits for part in parts])[order],
        cls_logits=torch.cat(classes)[order] if classes else None,
    )
