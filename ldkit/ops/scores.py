"""Class scores of a teacher, sparse: only those that reach a floor are kept.

q is the teacher's score of a class, z the student's logit and p = sigmoid(z) its score. A class
that is not listed counts as q = 0.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from ldkit.ops.losses import quality_focal
from ldkit.structures import Predictions, ScoreRows


@torch.no_grad()
def score_rows(predictions: Predictions, valid: Bool[Tensor, "B A"], floor: float) -> ScoreRows:
    """Return the valid locations whose best class scores `floor` or more, and those classes.

    Scores are the sigmoid of `cls_logits`. Each location is listed with every class that reaches
    the floor, so that no pair at or above the floor is missing, and no pair below it is there.
    """
    enough_BAC = (predictions.cls_logits.sigmoid() >= floor) & valid[..., None]
    image, location = enough_BAC.any(dim=-1).nonzero(as_tuple=True)
    row, label = enough_BAC[image, location].nonzero(as_tuple=True)
    logit = predictions.cls_logits[image[row], location[row], label]
    return ScoreRows(image, location, predictions.bbox_logits[image, location], row, label, logit)


@torch.no_grad()
def scored_above(rows: ScoreRows, floor: float) -> ScoreRows:
    """Return what `score_rows` lists with a higher floor, given what it lists with a lower one.

    Exact, since a location is listed with each class that reaches the floor, and for no other.
    """
    enough_N = rows.logit.sigmoid() >= floor
    kept_P = torch.zeros_like(rows.location, dtype=torch.bool)
    kept_P[rows.row[enough_N]] = True
    renumbered_P = kept_P.cumsum(0) - 1
    return ScoreRows(
        image=rows.image[kept_P],
        location=rows.location[kept_P],
        bbox_logits=rows.bbox_logits[kept_P],
        row=renumbered_P[rows.row[enough_N]],
        label=rows.label[enough_N],
        logit=rows.logit[enough_N],
    )


def score_values(
    cls_logits: Float[Tensor, "B A C"], valid: Bool[Tensor, "B A"], teacher: ScoreRows
) -> Float[Tensor, "B A"]:
    """Return |q - p| · BCE(z, q) of each location, summed over classes, in nats; 0 in the padding.

    The factor in front is part of the function: its gradient counts; q gets none. Classes that
    are not listed have q = 0, hence p · softplus(z). With all classes listed, the values are
    exact, and a student equal to the teacher has value 0 and no gradient: a kink, beside which
    the gradient by z is ± BCE · p (1 - p). A teacher whose scores below a floor s are not listed
    changes the value of a class by at most

        s · (softplus(z) + s · max(-z, 0) + max(p, s) · |z|),

    since the derivative by q is ± BCE(z, q) - |q - p| · z, and 0 ≤ q ≤ s.

    Source: BCKD (ICCV 2023); CrossKD (CVPR 2024) has the same with crossed logits.
    """
    value_BA = (cls_logits.sigmoid() * F.softplus(cls_logits)).sum(dim=-1)
    value_BA = value_BA.masked_fill(~valid, 0.0)
    image_N, location_N = teacher.image[teacher.row], teacher.location[teacher.row]
    logit_N = cls_logits[image_N, location_N, teacher.label]
    score_N = teacher.logit.to(logit_N.dtype).sigmoid()
    listed_N = quality_focal(logit_N, score_N, beta=1.0)
    # What the sum above has counted for these pairs already.
    unlisted_N = logit_N.sigmoid() * F.softplus(logit_N)
    return value_BA.index_put((image_N, location_N), listed_N - unlisted_N, accumulate=True)


@torch.no_grad()
def score_gap(cls_logits: Float[Tensor, "B A C"], teacher: ScoreRows) -> Float[Tensor, "P"]:
    """Return max over classes of |q - p| at the teacher's rows; no gradient."""
    student_PC = cls_logits[teacher.image, teacher.location].sigmoid()
    teacher_PC = torch.zeros_like(student_PC)
    teacher_PC[teacher.row, teacher.label] = teacher.logit.to(student_PC.dtype).sigmoid()
    return (teacher_PC - student_PC).abs().amax(dim=-1)


@torch.no_grad()
def best_score(teacher: ScoreRows, dtype: torch.dtype) -> Float[Tensor, "P"]:
    """Return the teacher's score of its best class at each row."""
    score_N = teacher.logit.to(dtype).sigmoid()
    best_P = score_N.new_zeros(len(teacher.image))
    return best_P.scatter_reduce(0, teacher.row, score_N, "amax")
