"""From raw logits to boxes: choose candidates, decode only those, suppress duplicates.

Two published orders of the choice exist. `pairs` ranks (location, class) pairs and is what
mmdet does since 2.18; `locations` ranks locations by their best class and then takes all their
classes above the floor, as mmdet did up to 2.17 and the LD repository still does. They differ
only where a level has more candidates than are kept.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchvision.ops import batched_nms

from ldkit.ops.anchors import anchors, valid_locations
from ldkit.ops.boxes import clip, mirror
from ldkit.ops.distribution import distances_to_boxes, project
from ldkit.structures import Anchors, Detections, Grid, Predictions, Size, View, padded_sizes


@dataclass(frozen=True, slots=True)
class DecodeSettings:
    """How predictions become detections.

    A score must exceed `score_floor` (0 to 1); of each level the best `candidates_per_level`
    stay; a box that overlaps a better one of its class by more than `nms_iou` goes.
    """

    score_floor: float
    candidates_per_level: int
    topk: Literal["pairs", "locations"]
    nms_iou: float
    max_detections: int


class Candidates(NamedTuple):
    """Pairs of location and class that may become a detection, sorted by image."""

    image: Int[Tensor, "M"]
    location: Int[Tensor, "M"]
    label: Int[Tensor, "M"]
    score: Float[Tensor, "M"]


@torch.no_grad()
def decode(
    predictions: Predictions,
    grid: Grid,
    canvas_hw: Size,
    views: tuple[View, ...],
    settings: DecodeSettings,
) -> list[Detections]:
    """Return what was found in each image, in pixels of the original images, best score first.

    Boxes are clipped to the resized image, mirrored back if the view was flipped, and scaled to
    the original size; `pairs` then drops boxes without width or height, `locations` keeps them,
    each as published. Locations in the padding of the batch never detect.
    """
    device = predictions.cls_logits.device
    places = anchors(canvas_hw, grid, device)
    valid_BA = valid_locations(canvas_hw, padded_sizes(views, device), grid)
    scores_BAC = predictions.cls_logits.sigmoid().masked_fill_(~valid_BA[:, :, None], 0.0)
    chosen = _choose(scores_BAC, places, settings)
    logits_M4K = predictions.bbox_logits[chosen.image, chosen.location]
    distances_M4 = project(logits_M4K) * places.unit[chosen.location, None]
    boxes_M4 = distances_to_boxes(places.centre[chosen.location], distances_M4)
    counts = chosen.image.bincount(minlength=len(views)).tolist()
    columns = (torch.split(column, counts) for column in (boxes_M4, chosen.score, chosen.label))
    return [
        _finish(Detections(boxes, scores, labels), view, settings)
        for boxes, scores, labels, view in zip(*columns, views, strict=True)
    ]


def _choose(scores_BAC: Tensor, places: Anchors, settings: DecodeSettings) -> Candidates:
    counts = torch.tensor(places.level_counts, device=scores_BAC.device)
    level_A = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
    image_B1 = torch.arange(len(scores_BAC), device=counts.device)[:, None]
    group_BA = image_B1 * len(counts) + level_A
    if settings.topk == "pairs":
        return _best_pairs(scores_BAC, group_BA, settings)
    return _pairs_of_best_locations(scores_BAC, group_BA, settings)


def _best_pairs(scores_BAC: Tensor, group_BA: Tensor, settings: DecodeSettings) -> Candidates:
    image, location, label = (scores_BAC > settings.score_floor).nonzero(as_tuple=True)
    score = scores_BAC[image, location, label]
    kept = _best_of_each(group_BA[image, location], score, settings.candidates_per_level)
    return Candidates(image[kept], location[kept], label[kept], score[kept])


def _pairs_of_best_locations(
    scores_BAC: Tensor, group_BA: Tensor, settings: DecodeSettings
) -> Candidates:
    best_BA = scores_BAC.amax(dim=-1)
    # A location with no class above the floor has no pair to offer, whatever its rank.
    image, location = (best_BA > settings.score_floor).nonzero(as_tuple=True)
    best = best_BA[image, location]
    kept = _best_of_each(group_BA[image, location], best, settings.candidates_per_level)
    image, location = image[kept], location[kept]
    score_RC = scores_BAC[image, location]
    row, label = (score_RC > settings.score_floor).nonzero(as_tuple=True)
    return Candidates(image[row], location[row], label, score_RC[row, label])


def suppress(detections: Detections, iou: float) -> Detections:
    """Return the detections that no better one of the same class overlaps by more than `iou`.

    Best score first.
    """
    kept = batched_nms(detections.boxes, detections.scores, detections.labels, iou)
    return Detections(*(column[kept] for column in detections))


def _best_of_each(group_M: Tensor, score_M: Tensor, limit: int) -> Int[Tensor, "R"]:
    """Return the indices of the `limit` best of each group, sorted by group, then best first."""
    order_M = score_M.argsort(descending=True, stable=True)
    order_M = order_M[group_M[order_M].argsort(stable=True)]
    group_M = group_M[order_M]
    counts = group_M.bincount()
    starts = counts.cumsum(0) - counts
    rank_M = torch.arange(len(group_M), device=group_M.device) - starts[group_M]
    return order_M[rank_M < limit]


def _finish(found: Detections, view: View, settings: DecodeSettings) -> Detections:
    boxes = clip(found.boxes, view.resized_hw)
    if view.flip:
        boxes = mirror(boxes, view.resized_hw[1])
    (height, width), (source_height, source_width) = view.resized_hw, view.source_hw
    scale_x, scale_y = width / source_width, height / source_height
    boxes = boxes / boxes.new_tensor([scale_x, scale_y, scale_x, scale_y])
    found = found._replace(boxes=boxes)
    if settings.topk == "pairs":
        solid = (boxes[:, 2:] > boxes[:, :2]).all(dim=-1)
        found = Detections(*(column[solid] for column in found))
    kept = suppress(found, settings.nms_iou)
    return Detections(*(column[: settings.max_detections] for column in kept))
