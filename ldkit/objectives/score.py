"""Distillation at the locations a teacher scores, whatever the ground truth (BCKD)."""

from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from ldkit.objectives.student import Student
from ldkit.ops.distribution import distances_to_boxes, project
from ldkit.ops.losses import giou_loss
from ldkit.ops.scores import score_gap, score_values
from ldkit.structures import ScoreRows


@dataclass(frozen=True, slots=True)
class ScoreSettings:
    """The weights of the terms; None is a term that is switched off."""

    cls_weight: float | None
    box_weight: float | None


class ScoreTerms(NamedTuple):
    """The weighted terms; None is one that is switched off."""

    cls: Float[Tensor, ""] | None
    box: Float[Tensor, ""] | None


def score_terms(student: Student, teacher: ScoreRows, settings: ScoreSettings) -> ScoreTerms:
    """Return the weighted terms on the teacher's class scores and on its boxes.

    With q the teacher's scores, 0 where it lists none, p the student's, z its logits and N_pos
    the positives of the batch (`Totals.positives`):

    - cls: sum over all valid locations and classes of |q - p| · BCE(z, q), / N_pos. What the
      floor of the teacher's scores costs at most is in `ldkit.ops.scores.score_values`.
    - box: sum over the teacher's rows of g · (1 - GIoU) of the student's box with the teacher's,
      / N_pos, where g = max over classes of |q - p| gets no gradient.

    The published code sums the boxes over all locations, which a floor leaves out where the
    teacher scores nothing, and skips levels without a positive; here none is skipped.

    Source: BCKD (ICCV 2023).
    """
    positives = student.totals.positives
    cls = box = None
    if settings.cls_weight is not None:
        value_BA = score_values(student.predictions.cls_logits, student.valid, teacher)
        cls = settings.cls_weight * value_BA.sum() / positives
    if settings.box_weight is not None:
        gap_P = score_gap(student.predictions.cls_logits, teacher)
        box = settings.box_weight * (gap_P * _box_loss(student, teacher)).sum() / positives
    return ScoreTerms(cls, box)


def _box_loss(student: Student, teacher: ScoreRows) -> Float[Tensor, "P"]:
    unit_P1 = student.anchors.unit[teacher.location, None]
    centre_P2 = student.anchors.centre[teacher.location] / unit_P1
    logits_P4K = student.predictions.bbox_logits[teacher.image, teacher.location]
    target_P4K = teacher.bbox_logits.to(logits_P4K.dtype)
    box_P4, target_P4 = (
        distances_to_boxes(centre_P2, project(logits)) for logits in (logits_P4K, target_P4K)
    )
    return giou_loss(box_P4, target_P4)
