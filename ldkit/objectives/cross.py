"""CrossKD: the student's head features pass through the teacher's head, which judges them.

The student's own logits never meet the teacher's, so that the two kinds of targets do not
contradict each other in one head.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor

from ldkit.objectives.normalizers import ld_weights, mean_over_ranks
from ldkit.objectives.student import Student
from ldkit.ops.features import cross_statistics
from ldkit.ops.losses import localization_kl
from ldkit.ops.scores import best_score, score_values
from ldkit.structures import CrossStatistics, Predictions, ScoreRows, TeacherRows

Crossing = tuple[tuple[Tensor, Tensor], ...]
"""(class tower, box tower) for each level: after a GroupNorm, before its ReLU."""

HeadRest = Callable[[Crossing], Predictions]
"""The rest of a frozen head: the ReLU first, then what follows it. The gradient flows through."""


@dataclass(frozen=True, slots=True)
class CrossSettings:
    """The weights of the terms; None is a term that is switched off."""

    cls_weight: float | None
    box_weight: float | None


class CrossTerms(NamedTuple):
    """The weighted terms; None is one that is switched off."""

    cls: Float[Tensor, ""] | None
    box: Float[Tensor, ""] | None


def cross_terms(
    student: Student, teacher: TeacherRows, head_rest: HeadRest, settings: CrossSettings
) -> CrossTerms:
    """Return the weighted terms on what the teacher's head says of the student's features.

    Each channel of `predictions.crossing` is shifted and scaled from its own mean and deviation
    to the teacher's (`align`), and goes through `head_rest`, which gives the crossed logits zc, Sc.
    With q the teacher's scores, 0 where it lists none, and N_pos the positives of the batch:

    - cls: sum over all valid locations and classes of |q - sigmoid(zc)| · BCE(zc, q), / N_pos.
      What the floor of q costs at most is in `ldkit.ops.scores.score_values`.
    - box: sum over the teacher's rows of w · KL(teacher ‖ Sc), the KL summed over bins at
      temperature 1 and averaged over the four edges, / sum of w, at least 1e-6; w is the
      teacher's best score.

    Not as published: statistics are those of one image, without the padding of its batch, where
    the published ones are over the batch; the box term leaves out locations below the floor.

    Raises:
        ValueError: The teacher gives no scores or no statistics, or the student no features.

    Source: CrossKD (CVPR 2024).
    """
    if teacher.score is None or teacher.cross is None:
        raise ValueError("the teacher gives no scores, or no statistics of its head's features.")
    if not student.predictions.crossing:
        raise ValueError("the student's head was not asked for the features that cross over.")
    crossed = head_rest(align(student.predictions.crossing, student.valid, teacher.cross))
    cls = box = None
    if settings.cls_weight is not None:
        value_BA = score_values(crossed.cls_logits, student.valid, teacher.score)
        cls = settings.cls_weight * value_BA.sum() / student.totals.positives
    if settings.box_weight is not None:
        box = settings.box_weight * _box_mean(crossed, teacher.score)
    return CrossTerms(cls, box)


def align(crossing: Crossing, valid: Bool[Tensor, "B A"], statistics: CrossStatistics) -> Crossing:
    """Return the features with the teacher's mean and deviation in each channel of each level.

    (x - mean) / std · std^T + mean^T, mean and std those of x over the image's own part of the
    canvas; the gradient flows through them. Features that have the teacher's stay as they are.
    """
    own = cross_statistics(crossing, valid)
    dtype = own.mean.dtype
    scale_BL2D = statistics.std.to(dtype) / own.std
    shift_BL2D = statistics.mean.to(dtype) - own.mean * scale_BL2D
    return tuple(
        (
            _affine(cls_BDHW, scale_BL2D[:, level, 0], shift_BL2D[:, level, 0]),
            _affine(box_BDHW, scale_BL2D[:, level, 1], shift_BL2D[:, level, 1]),
        )
        for level, (cls_BDHW, box_BDHW) in enumerate(crossing)
    )


def _affine(map_BDHW: Tensor, scale_BD: Tensor, shift_BD: Tensor) -> Float[Tensor, "B D _ _"]:
    return map_BDHW * scale_BD[..., None, None] + shift_BD[..., None, None]


def _box_mean(crossed: Predictions, teacher: ScoreRows) -> Float[Tensor, ""]:
    logits_P4K = crossed.bbox_logits[teacher.image, teacher.location]
    target_P4K = teacher.bbox_logits.to(logits_P4K.dtype)
    edge_P4 = localization_kl(logits_P4K, target_P4K, temperature=1.0)
    weight_P = best_score(teacher, logits_P4K.dtype)
    return (weight_P * edge_P4.mean(dim=-1)).sum() / ld_weights(mean_over_ranks(weight_P.sum()))
