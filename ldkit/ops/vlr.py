"""The valuable localization region (VLR): locations near a box that learn no box.

The region of a box are the locations whose anchors overlap it well, but less than ATSS asks of a
positive: floor · t ≤ overlap < t, t the threshold of the box. All locations of all levels are
asked, not just the candidates of ATSS. Like the main region it follows from boxes, canvas and
grid alone.

Source: LD (arXiv 2102.12252), algorithm 1; details as in the LD repository, commit 4287990c.
"""

from typing import Literal, assert_never

from jaxtyping import Bool, Float
from torch import Tensor

from ldkit.ops.boxes import paired_diou, paired_diou_over_first, paired_iou
from ldkit.ops.regions import atss, best_boxes, boxes_of, main_rows, touching_pairs
from ldkit.structures import Anchors, GroundTruth, Rows

Overlap = Literal["published", "diou"]
VlrWeight = Literal["iou", "mask"]


def vlr_rows(
    anchors: Anchors,
    valid: Bool[Tensor, "B A"],
    ground_truth: GroundTruth,
    *,
    topk: int,
    overlap: Overlap,
    floor: float,
) -> Rows:
    """Return the rows of the VLR; `topk` is that of `assign_atss`.

    The box of a row is, of those it belongs to, the one its anchor has the largest IoU with; as
    published, an anchor that does not touch a box never belongs to it.
    Rows of the main region are not left out: on crowded images some are in both.
    """
    threshold_BG = atss(anchors, valid, ground_truth, topk).threshold
    return vlr_rows_below(threshold_BG, anchors, valid, ground_truth, overlap=overlap, floor=floor)


def vlr_rows_below(
    threshold: Float[Tensor, "B G"],
    anchors: Anchors,
    valid: Bool[Tensor, "B A"],
    ground_truth: GroundTruth,
    *,
    overlap: Overlap,
    floor: float,
) -> Rows:
    """Return the rows of the VLR, where the thresholds of `atss` are at hand already."""
    pairs = touching_pairs(anchors, valid, ground_truth)
    anchor_P4, box_P4 = anchors.box[pairs.location], boxes_of(pairs, ground_truth)
    overlap_P = _overlap(anchor_P4, box_P4, overlap)
    iou_P = paired_iou(anchor_P4, box_P4)
    limit_P = threshold[pairs.image, pairs.gt_index]
    member_P = (overlap_P >= floor * limit_P) & (overlap_P < limit_P)
    return main_rows(best_boxes(pairs, iou_P, member_P, valid))


def vlr_weight(
    anchors: Anchors, ground_truth: GroundTruth, rows: Rows, kind: VlrWeight
) -> Float[Tensor, "P"]:
    """Return what each row of the VLR weighs: the IoU of its anchor with its box, or 1."""
    match kind:
        case "iou":
            return paired_iou(anchors.box[rows.location], boxes_of(rows, ground_truth))
        case "mask":
            return anchors.box.new_ones(len(rows.location))
        case _:
            assert_never(kind)


def _overlap(anchor_P4: Tensor, box_P4: Tensor, kind: Overlap) -> Tensor:
    match kind:
        case "published":
            return paired_diou_over_first(anchor_P4, box_P4)
        case "diou":
            return paired_diou(anchor_P4, box_P4)
        case _:
            assert_never(kind)
