"""The main region, which locations learn which box (ATSS), and the locations imitation looks at.

For each box the nearest locations of every level are its candidates; those whose anchor overlaps
the box clearly better than its candidates do on average become its positives. Nothing here
depends on a network: the region follows from boxes, canvas and grid alone, so a cache can hold
it. Every tie goes to the lowest index, on every device.

Few of the anchors of a canvas touch a box at all. What asks for an overlap is computed for the
pairs that touch, never for all anchors and boxes.

Source: ATSS (arXiv 1912.02424), algorithm 1; details as in mmdetection's `ATSSAssigner`.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ldkit.ops.boxes import paired_iou
from ldkit.ops.distribution import boxes_to_distances
from ldkit.structures import Anchors, GroundTruth, Rows, Size

INSIDE_PX = 0.01
"""How deep a positive's centre must lie inside its box, in pixels. Source: as published."""


FINE_GRAINED_SHARE = 0.5
"""Share of a box's best IoU that a location must exceed to be imitated.

Source: fine-grained feature imitation (arXiv 1906.03609), ψ; the value as in the LD repository.
"""


class Candidates(NamedTuple):
    """The N candidates of each box. Where `exists` is false there were fewer; ignore those."""

    location: Int[Tensor, "B G N"]
    exists: Bool[Tensor, "B G N"]


class Locations(NamedTuple):
    """Chosen locations of a batch without a box, sorted by image, then location."""

    image: Int[Tensor, "P"]
    location: Int[Tensor, "P"]


class Assignment(NamedTuple):
    """What ATSS says of a batch: the box of each location or -1, and the threshold of each box.

    A box with fewer than two candidates has the threshold NaN, which no overlap reaches.
    """

    gt_index: Int[Tensor, "B A"]
    threshold: Float[Tensor, "B G"]


def atss(
    anchors: Anchors, valid: Bool[Tensor, "B A"], ground_truth: GroundTruth, topk: int
) -> Assignment:
    """Return which box each location learns, and the overlap that this took.

    Candidates are the `topk` locations of each level whose centres are nearest to the box's. A
    candidate is positive if its anchor's IoU reaches mean + standard deviation (n - 1) over all
    candidates of the box, and its centre lies inside the box. A location that several boxes
    claim goes to the one of largest IoU. A box may end without any, one of padding always does.

    `valid` comes from `valid_locations`: on each level a rectangle from the first cell on.
    """
    boxes_BG4, labels_BG = ground_truth
    location, exists = _candidates(anchors, valid, boxes_BG4, topk)
    box_BGN4 = boxes_BG4[:, :, None].expand(*location.shape, 4)
    iou_BGN = paired_iou(anchors.box[location], box_BGN4)
    depth_BGN = boxes_to_distances(anchors.centre[location], box_BGN4).amin(dim=-1)
    threshold_BG = _threshold(iou_BGN, exists)
    positive_BGN = (
        exists
        & (labels_BG >= 0)[:, :, None]
        & (iou_BGN >= threshold_BG[:, :, None])
        & (depth_BGN > INSIDE_PX)
    )
    batch, boxes, _ = location.shape
    image_BGN = torch.arange(batch, device=location.device)[:, None, None].expand_as(location)
    box_BGN = torch.arange(boxes, device=location.device)[:, None].expand_as(location)
    pairs = Rows(image_BGN.flatten(), location.flatten(), box_BGN.flatten())
    owner_BA = best_boxes(pairs, iou_BGN.flatten(), positive_BGN.flatten(), valid)
    return Assignment(owner_BA, threshold_BG)


def assign_atss(
    anchors: Anchors, valid: Bool[Tensor, "B A"], ground_truth: GroundTruth, topk: int
) -> Int[Tensor, "B A"]:
    """Return for each location the index of the box it learns, or -1, as `atss` says."""
    return atss(anchors, valid, ground_truth, topk).gt_index


def main_rows(gt_index: Int[Tensor, "B A"]) -> Rows:
    """Return the locations that have a box, sorted by image, then location."""
    image, location = (gt_index >= 0).nonzero(as_tuple=True)
    return Rows(image, location, gt_index[image, location])


def inside_gt_locations(
    anchors: Anchors, valid: Bool[Tensor, "B A"], ground_truth: GroundTruth
) -> Locations:
    """Return the locations whose centre lies inside a box, whatever the level.

    Source: `fitnet` in the LD repository, "Inside GT Box" in the paper's table.
    """
    centre_A14 = torch.cat([anchors.centre, anchors.centre], dim=-1)[:, None]
    inside_BA = _within(centre_A14, valid, ground_truth).any(dim=-1)
    return Locations(*inside_BA.nonzero(as_tuple=True))


def fine_grained_locations(
    anchors: Anchors, valid: Bool[Tensor, "B A"], ground_truth: GroundTruth
) -> Locations:
    """Return the locations whose anchor has more than half of the best IoU that a box has.

    The best is taken over all levels.

    Source: `finegrained` in the LD repository; arXiv 1906.03609.
    """
    pairs = touching_pairs(anchors, valid, ground_truth)
    iou_P = paired_iou(anchors.box[pairs.location], boxes_of(pairs, ground_truth))
    batch, boxes = ground_truth.labels.shape
    number_P = pairs.image * boxes + pairs.gt_index
    best = iou_P.new_zeros(batch * boxes).scatter_reduce_(0, number_P, iou_P, "amax")
    member_P = iou_P > FINE_GRAINED_SHARE * best[number_P]
    owner_BA = best_boxes(pairs, iou_P, member_P, valid)
    return Locations(*(owner_BA >= 0).nonzero(as_tuple=True))


def touching_pairs(anchors: Anchors, valid: Bool[Tensor, "B A"], ground_truth: GroundTruth) -> Rows:
    """Return every location with every box that its anchor touches, sorted by all three columns."""
    return Rows(*_within(anchors.box[:, None], valid, ground_truth).nonzero(as_tuple=True))


def boxes_of(rows: Rows, ground_truth: GroundTruth) -> Float[Tensor, "P 4"]:
    """Return the box of each row, in pixels."""
    return ground_truth.boxes[rows.image, rows.gt_index]


def best_boxes(
    pairs: Rows, iou: Float[Tensor, "P"], member: Bool[Tensor, "P"], valid: Bool[Tensor, "B A"]
) -> Int[Tensor, "B A"]:
    """Return for each location its box of largest IoU among the pairs that are members, or -1.

    `pairs` are rows in which a location may occur several times; `valid` says only the shape.
    """
    batch, locations = valid.shape
    cell_P = pairs.image * locations + pairs.location
    claim_P = iou.masked_fill(~member, -1.0)
    best = iou.new_full((batch * locations,), -1.0).scatter_reduce_(0, cell_P, claim_P, "amax")
    wins_P = member & (claim_P == best[cell_P])
    nobody = torch.iinfo(torch.long).max
    owner = cell_P.new_full((batch * locations,), nobody)
    owner.scatter_reduce_(0, cell_P, pairs.gt_index.masked_fill(~wins_P, nobody), "amin")
    return owner.masked_fill(owner == nobody, -1).view(batch, locations)


def _candidates(anchors: Anchors, valid: Tensor, boxes_BG4: Tensor, topk: int) -> Candidates:
    centre_BG2 = (boxes_BG4[..., :2] + boxes_BG4[..., 2:]) / 2
    levels, start = [], 0
    for (rows, cols), stride in zip(anchors.level_sizes, anchors.strides, strict=True):
        valid_BHW = valid[:, start : start + rows * cols].reshape(-1, rows, cols)
        limits = valid_BHW[:, :, 0].sum(dim=1), valid_BHW[:, 0, :].sum(dim=1)
        nearest = _nearest(centre_BG2 / stride, limits, (rows, cols), topk)
        levels.append(nearest._replace(location=nearest.location + start))
        start += rows * cols
    return Candidates(*(torch.cat(parts, dim=-1) for parts in zip(*levels, strict=True)))


def _nearest(
    centre_BG2: Tensor, limits: tuple[Tensor, Tensor], size: Size, topk: int
) -> Candidates:
    """Return the nearest cells of one level, for centres in cells.

    The `topk` nearest cells lie among the `topk` nearest rows and columns, so a small window is
    searched instead of the level.
    """
    col_BGX = _window(centre_BG2[..., 0], limits[1], min(topk, size[1]), topk)
    row_BGY = _window(centre_BG2[..., 1], limits[0], min(topk, size[0]), topk)
    dx_BGX = (col_BGX - centre_BG2[..., :1]).square()
    dy_BGY = (row_BGY - centre_BG2[..., 1:]).square()
    # Beyond the image's own canvas there is nothing.
    dx_BGX = dx_BGX.masked_fill(col_BGX >= limits[1][:, None, None], torch.inf)
    dy_BGY = dy_BGY.masked_fill(row_BGY >= limits[0][:, None, None], torch.inf)
    distance_BGW = (dy_BGY[..., :, None] + dx_BGX[..., None, :]).flatten(2)
    # A stable sort keeps the window's order, which is that of the locations: lowest index first.
    distance_BGW, order_BGW = distance_BGW.sort(dim=-1, stable=True)
    location_BGW = (row_BGY[..., :, None] * size[1] + col_BGX[..., None, :]).flatten(2)
    location_BGN = location_BGW.gather(-1, order_BGW[..., :topk])
    return Candidates(location_BGN, distance_BGW[..., :topk].isfinite())


def _window(centre_BG: Tensor, limit_B: Tensor, width: int, topk: int) -> Int[Tensor, "B G W"]:
    """Return the `width` whole numbers from 0 to below the limit that are nearest to `centre`."""
    last_B1 = (limit_B[:, None] - width).clamp(min=0)
    first_BG = (centre_BG - topk / 2).ceil().long().clamp(min=0).minimum(last_B1)
    return first_BG[..., None] + torch.arange(width, device=centre_BG.device)


def _threshold(iou: Float[Tensor, "B G N"], exists: Bool[Tensor, "B G N"]) -> Float[Tensor, "B G"]:
    """Return mean + standard deviation over the candidates; NaN, hence no positive, for just one.

    Deviations are taken from the first candidate, so that equal values have exactly none.
    """
    count_BG = exists.sum(dim=-1)
    first_BG1 = iou[..., :1]
    deviation_BGN = (iou - first_BG1) * exists
    mean_BG = deviation_BGN.sum(dim=-1) / count_BG
    spread_BGN = (deviation_BGN - mean_BG[..., None]) * exists
    variance_BG = spread_BGN.square().sum(dim=-1) / (count_BG - 1)
    return first_BG1[..., 0] + mean_BG + variance_BG.sqrt()


def _within(places_A14: Tensor, valid: Tensor, ground_truth: GroundTruth) -> Tensor:
    """Return whether the open box of each place and of the ground truth share a point (B, A, G)."""
    boxes_B1G4 = ground_truth.boxes[:, None]
    within_BAG = valid[..., None] & (ground_truth.labels >= 0)[:, None]
    for low, high in ((0, 2), (1, 3)):
        within_BAG &= places_A14[..., low] < boxes_B1G4[..., high]
        within_BAG &= boxes_B1G4[..., low] < places_A14[..., high]
    return within_BAG
