"""The main region: which locations learn which box (ATSS).

For each box the nearest locations of every level are its candidates; those whose anchor overlaps
the box clearly better than its candidates do on average become its positives. Nothing here
depends on a network: the region follows from boxes, canvas and grid alone, so a cache can hold
it. Every tie goes to the lowest index, on every device.

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


class Candidates(NamedTuple):
    """The N candidates of each box. Where `exists` is false there were fewer; ignore those."""

    location: Int[Tensor, "B G N"]
    exists: Bool[Tensor, "B G N"]


def assign_atss(
    anchors: Anchors, valid: Bool[Tensor, "B A"], ground_truth: GroundTruth, topk: int
) -> Int[Tensor, "B A"]:
    """Return for each location the index of the box it learns, or -1.

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
    positive_BGN = (
        exists
        & (labels_BG >= 0)[:, :, None]
        & (iou_BGN >= _threshold(iou_BGN, exists)[:, :, None])
        & (depth_BGN > INSIDE_PX)
    )
    return _best_box(location, iou_BGN, positive_BGN, len(anchors.unit))


def main_rows(gt_index: Int[Tensor, "B A"]) -> Rows:
    """Return the locations that have a box, sorted by image, then location."""
    image, location = (gt_index >= 0).nonzero(as_tuple=True)
    return Rows(image, location, gt_index[image, location])


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


def _best_box(
    location_BGN: Tensor, iou_BGN: Tensor, positive_BGN: Tensor, num_locations: int
) -> Int[Tensor, "B A"]:
    batch, boxes, _ = location_BGN.shape
    location = location_BGN.flatten(1)
    best_BA = iou_BGN.new_full((batch, num_locations), -1.0)
    claim = iou_BGN.masked_fill(~positive_BGN, -1.0).flatten(1)
    best_BA.scatter_reduce_(1, location, claim, "amax")
    wins = positive_BGN.flatten(1) & (claim == best_BA.gather(1, location))
    box_BGN = torch.arange(boxes, device=location.device)[:, None].expand_as(location_BGN)
    owner_BA = location.new_full((batch, num_locations), boxes)
    owner_BA.scatter_reduce_(1, location, box_BGN.flatten(1).masked_fill(~wins, boxes), "amin")
    return owner_BA.masked_fill(owner_BA == boxes, -1)
