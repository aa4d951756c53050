"""What a teacher says of views that share a canvas, at all rows that are asked for.

The cache builder and the live teacher both come through `rows_of_group`, so that what one writes
and what the other says are the same rows.
"""

from typing import NamedTuple, assert_never

import torch
from jaxtyping import Bool
from torch import Tensor

from ldkit.cache.format import ImitationRegion, VlrRegion, Wanted
from ldkit.models.gfl import Detector
from ldkit.ops.anchors import anchors, valid_locations
from ldkit.ops.features import cross_statistics, feature_rows
from ldkit.ops.pixels import normalise
from ldkit.ops.regions import (
    Locations,
    atss,
    fine_grained_locations,
    inside_gt_locations,
    main_rows,
)
from ldkit.ops.scores import score_rows
from ldkit.ops.vlr import vlr_rows_below
from ldkit.structures import (
    Anchors,
    Batch,
    CrossStatistics,
    DenseTeacher,
    FeatureRows,
    Grid,
    GroundTruth,
    Predictions,
    RegionRows,
    Rows,
    ScoreRows,
    TeacherRows,
    padded_sizes,
    resized_sizes,
)


class _Scene(NamedTuple):
    """Views of one canvas, and what the teacher says of them everywhere."""

    anchors: Anchors
    valid: Tensor
    truth: GroundTruth
    said: Predictions


def rows_of_group(
    teacher: Detector, batch: Batch, wanted: Wanted, *, dense: bool = False
) -> TeacherRows:
    """Return what the teacher says of views of one canvas, equal to the batch's canvas.

    `dense` adds what it says everywhere.
    """
    said = ask(teacher, batch, wanted, dense=dense)
    return rows_said(said, batch, teacher.grid, wanted, dense=dense)


@torch.no_grad()
def ask(teacher: Detector, batch: Batch, wanted: Wanted, *, dense: bool = False) -> Predictions:
    """Return what the teacher says everywhere; of classes only where they are wanted."""
    images = normalise(batch.pixels, resized_sizes(batch.views, batch.pixels.device))
    if not (dense or asks_classes(wanted)):
        return teacher.boxes(images)
    cross = wanted.coverage.cross
    said: Predictions = teacher(images, cross_after=None if cross is None else cross.after)
    return said


@torch.no_grad()
def rows_said(
    said: Predictions, batch: Batch, grid: Grid, wanted: Wanted, *, dense: bool = False
) -> TeacherRows:
    """Return the rows that are wanted of what a teacher says of a batch."""
    canvas, device, asked = batch.canvas_hw, batch.pixels.device, wanted.coverage
    places = anchors(canvas, grid, device)
    valid_BA = valid_locations(canvas, padded_sizes(batch.views, device), grid)
    scene = _Scene(places, valid_BA, batch.ground_truth, said)
    assignment = atss(places, valid_BA, batch.ground_truth, asked.main.topk)
    main = main_rows(assignment.gt_index)
    return TeacherRows(
        main=_region(said, main, with_classes="main.cls_logits" in wanted.columns),
        vlr=_vlr(scene, asked.vlr, assignment.threshold, wanted),
        imitation=_imitation(scene, asked.imitation, main),
        score=None if asked.score is None else _scores(scene, asked.score.floor),
        cross=None if asked.cross is None else _statistics(said),
        dense=_everywhere(scene) if dense else None,
    )


def asks_classes(wanted: Wanted) -> bool:
    """Say whether anything that is asked for comes out of the class tower."""
    asked = wanted.coverage
    scored = asked.score is not None or asked.cross is not None
    return scored or not wanted.columns.isdisjoint({"main.cls_logits", "vlr.cls_logits"})


def _region(said: Predictions, rows: Rows, *, with_classes: bool) -> RegionRows:
    bbox_logits = said.bbox_logits[rows.image, rows.location].float()
    cls_logits = said.class_logits[rows.image, rows.location].float() if with_classes else None
    return RegionRows(rows, bbox_logits, cls_logits)


def _vlr(
    scene: _Scene, region: VlrRegion | None, threshold_BG: Tensor, wanted: Wanted
) -> RegionRows | None:
    """Return the VLR; its thresholds are those of the main region, whose `topk` it shares."""
    if region is None:
        return None
    rows = vlr_rows_below(
        threshold_BG,
        scene.anchors,
        scene.valid,
        scene.truth,
        overlap=region.overlap,
        floor=region.floor,
    )
    return _region(scene.said, rows, with_classes="vlr.cls_logits" in wanted.columns)


def _imitation(scene: _Scene, region: ImitationRegion | None, main: Rows) -> FeatureRows | None:
    if region is None:
        return None
    chosen = imitated(region, main, scene.anchors, scene.valid, scene.truth)
    features = feature_rows(scene.said.maps, chosen.image, chosen.location, scene.anchors)
    return FeatureRows(chosen.image, chosen.location, features.float())


def imitated(
    region: ImitationRegion,
    main: Rows,
    places: Anchors,
    valid: Bool[Tensor, "B A"],
    truth: GroundTruth,
) -> Locations:
    """Return the locations of a region of imitation; `main` are the rows of the main region."""
    match region.region:
        case "main":
            return Locations(main.image, main.location)
        case "inside_gt":
            return inside_gt_locations(places, valid, truth)
        case "fine_grained":
            return fine_grained_locations(places, valid, truth)
        case _:
            assert_never(region.region)


def _scores(scene: _Scene, floor: float) -> ScoreRows:
    rows = score_rows(scene.said, scene.valid, floor)
    return rows._replace(bbox_logits=rows.bbox_logits.float(), logit=rows.logit.float())


def _statistics(said: Predictions) -> CrossStatistics:
    """Return the statistics of the head; each view fills its canvas, so nothing is left out."""
    mean, std = cross_statistics(said.crossing)
    return CrossStatistics(mean.float(), std.float())


def _everywhere(scene: _Scene) -> DenseTeacher:
    features = torch.cat([level.flatten(2).transpose(1, 2) for level in scene.said.maps], dim=1)
    return DenseTeacher(
        valid=scene.valid,
        cls_logits=scene.said.cls_logits,
        bbox_logits=scene.said.bbox_logits,
        features=features,
    )
