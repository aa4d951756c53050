"""A teacher that runs beside the student, and answers as a cache would.

It sees each view on its own canvas, as the builder's teacher did; what it says is then placed on
the batch's canvas and put into the batch's order.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ldkit.cache.format import Wanted
from ldkit.jobs.canvases import groups_of_equal_canvas
from ldkit.jobs.teacher_rows import rows_of_group
from ldkit.models.gfl import Detector
from ldkit.ops.anchors import level_sizes, relocate
from ldkit.structures import (
    Batch,
    CrossStatistics,
    DenseTeacher,
    FeatureRows,
    GroundTruth,
    RegionRows,
    Rows,
    ScoreRows,
    Size,
    TeacherRows,
)


class LiveTeacher:
    """A teacher that runs on the student's batch: exact, and as slow as the teacher is.

    `dense` adds what it says everywhere, for choices that depend on the student.
    """

    def __init__(
        self, teacher: Detector, wanted: Wanted, *, batch_size: int, dense: bool = False
    ) -> None:
        self.teacher = teacher
        self.wanted = wanted
        self.batch_size = batch_size
        self.dense = dense

    def lookup(self, batch: Batch) -> TeacherRows:
        """Return the teacher's rows for the batch, on its device and canvas."""
        parts = []
        for members in groups_of_equal_canvas(batch.views, self.batch_size):
            part = part_of_batch(batch, members)
            said = rows_of_group(self.teacher, part, self.wanted, dense=self.dense)
            place = _Place(batch, members, part.canvas_hw, self.teacher.grid.strides)
            parts.append((said, place))
        return _merged(parts)


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


class _Place:
    """Where a group of views lies in its batch."""

    def __init__(
        self, batch: Batch, members: Sequence[int], own: Size, strides: tuple[int, ...]
    ) -> None:
        self.members = torch.tensor(members, device=batch.pixels.device)
        self._own, self._canvas, self._strides = own, batch.canvas_hw, strides
        self.images = len(batch.keys)

    def image(self, image: Tensor) -> Tensor:
        """Return positions in the group as positions in the batch."""
        return self.members[image]

    def location(self, location: Tensor) -> Tensor:
        """Return locations of the group's canvas as locations of the batch's."""
        return relocate(location, self._own, self._canvas, self._strides)

    def spread(self, dense: Tensor) -> Tensor:
        """Return values at all locations of the group as values on the batch's canvas, else 0."""
        total = sum(rows * cols for rows, cols in level_sizes(self._canvas, self._strides))
        every = self.location(torch.arange(dense.shape[1], device=dense.device))
        spread = dense.new_zeros(self.images, total, *dense.shape[2:])
        spread[self.members[:, None], every] = dense
        return spread


Part = tuple[TeacherRows, _Place]


def _merged(parts: Sequence[Part]) -> TeacherRows:
    vlr = [(said.vlr, place) for said, place in parts if said.vlr is not None]
    features = [(said.imitation, place) for said, place in parts if said.imitation is not None]
    scores = [(said.score, place) for said, place in parts if said.score is not None]
    return TeacherRows(
        main=_regions([(said.main, place) for said, place in parts]),
        vlr=_regions(vlr) if vlr else None,
        imitation=_feature_rows(features) if features else None,
        score=_score_rows(scores) if scores else None,
        cross=_statistics(parts),
        dense=_dense(parts),
    )


def _regions(parts: Sequence[tuple[RegionRows, _Place]]) -> RegionRows:
    image = torch.cat([place.image(said.rows.image) for said, place in parts])
    location = torch.cat([place.location(said.rows.location) for said, place in parts])
    order = _order(image)
    classes = [said.cls_logits for said, _ in parts if said.cls_logits is not None]
    return RegionRows(
        rows=Rows(
            image=image[order],
            location=location[order],
            gt_index=torch.cat([said.rows.gt_index for said, _ in parts])[order],
        ),
        bbox_logits=torch.cat([said.bbox_logits for said, _ in parts])[order],
        cls_logits=torch.cat(classes)[order] if classes else None,
    )


def _feature_rows(parts: Sequence[tuple[FeatureRows, _Place]]) -> FeatureRows:
    image = torch.cat([place.image(said.image) for said, place in parts])
    location = torch.cat([place.location(said.location) for said, place in parts])
    order = _order(image)
    features = torch.cat([said.features for said, _ in parts])
    return FeatureRows(image[order], location[order], features[order])


def _score_rows(parts: Sequence[tuple[ScoreRows, _Place]]) -> ScoreRows:
    image = torch.cat([place.image(said.image) for said, place in parts])
    location = torch.cat([place.location(said.location) for said, place in parts])
    order = _order(image)
    counts = [len(said.image) for said, _ in parts]
    firsts = [sum(counts[:number]) for number in range(len(counts))]
    before = torch.cat([said.row + first for (said, _), first in zip(parts, firsts, strict=True)])
    row = torch.argsort(order)[before]  # where each row went
    entries = torch.sort(row, stable=True).indices
    return ScoreRows(
        image=image[order],
        location=location[order],
        bbox_logits=torch.cat([said.bbox_logits for said, _ in parts])[order],
        row=row[entries],
        label=torch.cat([said.label for said, _ in parts])[entries],
        logit=torch.cat([said.logit for said, _ in parts])[entries],
    )


def _statistics(parts: Sequence[Part]) -> CrossStatistics | None:
    found = [(said.cross, place) for said, place in parts if said.cross is not None]
    if not found:
        return None
    order = torch.argsort(torch.cat([place.members for _, place in found]))
    mean = torch.cat([cross.mean for cross, _ in found])
    std = torch.cat([cross.std for cross, _ in found])
    return CrossStatistics(mean[order], std[order])


def _dense(parts: Sequence[Part]) -> DenseTeacher | None:
    found = [(said.dense, place) for said, place in parts if said.dense is not None]
    if not found:
        return None
    return DenseTeacher(
        valid=torch.stack([place.spread(dense.valid) for dense, place in found]).any(dim=0),
        cls_logits=torch.stack([place.spread(dense.cls_logits) for dense, place in found]).sum(0),
        bbox_logits=torch.stack([place.spread(dense.bbox_logits) for dense, place in found]).sum(0),
        features=torch.stack([place.spread(dense.features) for dense, place in found]).sum(0),
    )


def _order(image: Tensor) -> Tensor:
    """Return the order by image; the locations of an image are sorted already."""
    return torch.sort(image, stable=True).indices
