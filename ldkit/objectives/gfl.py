"""The objective of GFL: classification by box quality, boxes by GIoU, edges as distributions.

`gfl_values` says what each location and row contributes, `gfl_terms` weighs, sums and divides.
The rows are an argument: they come from ATSS or from a teacher cache, and nothing here assigns.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ldkit.objectives.normalizers import Totals, WeightSum, weight_sum
from ldkit.ops.boxes import paired_iou
from ldkit.ops.distribution import boxes_to_distances, distances_to_boxes, project
from ldkit.ops.losses import distribution_focal, giou_loss, quality_focal
from ldkit.structures import Anchors, GroundTruth, LossTerms, Predictions, Rows


@dataclass(frozen=True, slots=True)
class GflSettings:
    """The weights of the terms, the exponent `beta` of QFL, and the floor of the weight sum."""

    cls_weight: float
    beta: float
    box_weight: float
    dfl_weight: float
    weight_sum: WeightSum


class GflValues(NamedTuple):
    """What a batch contributes, before weights and denominators.

    `cls` is summed over classes and zero at locations of the padding; `dfl` is the mean of the
    four edges. `weight` is the row weight: the student's best score, which gets no gradient.
    `bbox_logits` are the student's at the rows, for the terms of distillation.
    """

    rows: Rows
    cls: Float[Tensor, "B A"]
    box: Float[Tensor, "P"]
    dfl: Float[Tensor, "P"]
    weight: Float[Tensor, "P"]
    bbox_logits: Float[Tensor, "P 4 K"]


def gfl_values(
    predictions: Predictions,
    anchors: Anchors,
    valid: Bool[Tensor, "B A"],
    ground_truth: GroundTruth,
    rows: Rows,
    beta: float,
) -> GflValues:
    """Return the loss values of a batch; `rows` are its main region, on the batch's canvas.

    Without rows the box values are empty, and their sums are zero with a zero gradient.

    Source: GFL (arXiv 2006.04388) as published in mmdetection's `GFLHead`. All lengths are in bins.
    """
    image_P, location_P, gt_index_P = rows
    unit_P1 = anchors.unit[location_P, None]
    centre_P2 = anchors.centre[location_P] / unit_P1
    target_P4 = ground_truth.boxes[image_P, gt_index_P] / unit_P1
    logits_P4K = predictions.bbox_logits[image_P, location_P]
    box_P4 = distances_to_boxes(centre_P2, project(logits_P4K))

    quality_BAC = torch.zeros_like(predictions.cls_logits)
    label_P = ground_truth.labels[image_P, gt_index_P]
    quality_BAC[image_P, location_P, label_P] = paired_iou(box_P4.detach(), target_P4)
    cls_BA = quality_focal(predictions.cls_logits, quality_BAC, beta).sum(dim=-1)
    best_P = predictions.cls_logits.detach()[image_P, location_P].amax(dim=-1)
    edge_P4 = distribution_focal(logits_P4K, boxes_to_distances(centre_P2, target_P4))
    return GflValues(
        rows=rows,
        cls=cls_BA.masked_fill(~valid, 0.0),
        box=giou_loss(box_P4, target_P4),
        dfl=edge_P4.mean(dim=-1),
        weight=best_P.sigmoid(),
        bbox_logits=logits_P4K,
    )


def gfl_terms(values: GflValues, totals: Totals, settings: GflSettings) -> LossTerms:
    """Return the weighted terms of GFL; `totals` are those of `values`."""
    weights = weight_sum(totals.weights, settings.weight_sum)
    return LossTerms(
        cls=settings.cls_weight * values.cls.sum() / totals.positives,
        box=settings.box_weight * (values.weight * values.box).sum() / weights,
        dfl=settings.dfl_weight * (values.weight * values.dfl).sum() / weights,
    )
