"""General instances: the places where teacher and student disagree most (region `gi`).

Chosen anew in each step, from what both say at every location.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ldkit.ops.boxes import pairwise_iou
from ldkit.ops.distribution import distances_to_boxes, project
from ldkit.structures import Anchors, DenseTeacher, Predictions

GI_IOU = 0.3
"""A box that overlaps a better one by more is no instance. Source: the LD repository."""

GI_BOXES = 10
"""Instances of each level of each group of images. Source: the LD repository."""


@torch.no_grad()
def general_instances(
    student: Predictions, teacher: DenseTeacher, anchors: Anchors, group: int
) -> tuple[Int[Tensor, "P"], Int[Tensor, "P"]]:
    """Return image and location of the general instances, sorted by image, then location.

    The score of a location is g = max over classes of |q - p|, q and p the scores of teacher and
    student. Its box is the teacher's where q ≥ p for the class of that maximum, else the
    student's. On each level the boxes of `group` consecutive images together undergo
    non-maximum suppression by g at `GI_IOU`, and the best `GI_BOXES` stay.

    As published, boxes of different images suppress each other. Not as published, locations in
    the padding of the batch are left out; there they can be chosen.

    Source: GID (arXiv 2103.02340), section 3.1, as coded in the LD repository.
    """
    score_BA, box_BA4 = _disagreement(student, teacher, anchors)
    chosen, start = [], 0
    for count in anchors.level_counts:
        level = slice(start, start + count)
        chosen.append(_best_of_groups(score_BA[:, level], box_BA4[:, level], group))
        start += count
    image, location = torch.cat(chosen, dim=1).nonzero(as_tuple=True)
    return image, location


def _disagreement(
    student: Predictions, teacher: DenseTeacher, anchors: Anchors
) -> tuple[Float[Tensor, "B A"], Float[Tensor, "B A 4"]]:
    gap_BAC = teacher.cls_logits.sigmoid() - student.cls_logits.sigmoid()
    score_BA, label_BA = gap_BAC.abs().max(dim=-1)
    teacher_wins_BA = gap_BAC.gather(-1, label_BA[..., None])[..., 0] >= 0
    logits_BA4K = teacher.bbox_logits.where(teacher_wins_BA[..., None, None], student.bbox_logits)
    centre_A2 = anchors.centre / anchors.unit[:, None]
    box_BA4 = distances_to_boxes(centre_A2.expand(*score_BA.shape, 2), project(logits_BA4K))
    return score_BA.masked_fill(~teacher.valid, -1.0), box_BA4


def _best_of_groups(
    score_BN: Float[Tensor, "B N"], box_BN4: Float[Tensor, "B N 4"], group: int
) -> Bool[Tensor, "B N"]:
    """Return which locations of one level are the best of their group of images.

    Suppression stops at the boxes that are wanted, so each costs one pass over the level, and
    all groups go side by side.
    """
    images, count = score_BN.shape
    missing = -images % group
    score_VM = torch.nn.functional.pad(score_BN, (0, 0, 0, missing), value=-1.0)
    box_VM4 = torch.nn.functional.pad(box_BN4, (0, 0, 0, 0, 0, missing))
    score_VM = score_VM.reshape(-1, group * count)
    box_VM4 = box_VM4.reshape(-1, group * count, 4)
    chosen_VM = torch.zeros_like(score_VM, dtype=torch.bool)
    for _ in range(GI_BOXES):
        best_V1, index_V1 = score_VM.max(dim=-1, keepdim=True)
        exists_V1 = best_V1 >= 0
        chosen_VM.scatter_(1, index_V1, chosen_VM.gather(1, index_V1) | exists_V1)
        best_V14 = box_VM4.gather(1, index_V1[..., None].expand(-1, -1, 4))
        near_VM = pairwise_iou(best_V14, box_VM4)[:, 0] > GI_IOU
        score_VM = score_VM.masked_fill(near_VM, -1.0).scatter(1, index_V1, -1.0)
    return chosen_VM.reshape(-1, count)[:images]
