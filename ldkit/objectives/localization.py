"""Localization distillation: the student's box distributions follow the teacher's, edge by edge.

On the main region a row weighs the student's best score, as in the box terms. On the VLR it weighs
the overlap of its anchor with its box, which no network decides.
"""

from dataclasses import dataclass
from typing import Literal, assert_never

import torch
from jaxtyping import Float
from torch import Tensor

from ldkit.objectives.normalizers import (
    PAPER_VLR_SHARE,
    ld_paper,
    ld_weights,
    mean_over_ranks,
)
from ldkit.objectives.student import Student
from ldkit.ops.losses import localization_kl
from ldkit.ops.vlr import VlrWeight, vlr_weight
from ldkit.structures import RegionRows, Rows


@dataclass(frozen=True, slots=True)
class LdSettings:
    """The weight of the term, the temperature of both softmaxes, and the denominator."""

    weight: float
    temperature: float
    normalizer: Literal["paper", "weights"]


@dataclass(frozen=True, slots=True)
class VlrSettings:
    """What a row of the VLR weighs, and whether rows that are main rows too count at all."""

    weight: VlrWeight
    exclude_main: bool


def ld_main(student: Student, teacher: RegionRows, settings: LdSettings) -> Float[Tensor, ""]:
    """Return the weighted term of main-region localization distillation.

    `student.values` must have been made with `teacher.rows`: row i of the one meets row i of the
    other. Teacher logits in half precision are computed in the student's.

    Raises:
        ValueError: The values belong to other rows, or the numbers of bins differ.

    Source: LD (arXiv 2102.12252); denominators in `ldkit.objectives.normalizers`.
    """
    values = student.values
    if values.rows is not teacher.rows:
        raise ValueError("the student's values belong to other rows than the teacher's.")
    value_P = _row_values(values.bbox_logits, teacher.bbox_logits, settings.temperature)
    summed = (values.weight * value_P).sum()
    match settings.normalizer:
        case "paper":
            return settings.weight * summed / _paper(student)
        case "weights":
            return settings.weight * summed / ld_weights(student.totals.weights)
        case _:
            assert_never(settings.normalizer)


def ld_vlr(
    student: Student, teacher: RegionRows, weight: Float[Tensor, "P"], settings: LdSettings
) -> Float[Tensor, ""]:
    """Return the weighted term of localization distillation on the VLR.

    `weight` is what each row weighs: `counted_rows` times `vlr_weight`.

    Raises:
        ValueError: The numbers of bins differ.

    Source: LD (arXiv 2102.12252), `loss_ld_vlr` of its repository.
    """
    student_P4K = student.predictions.bbox_logits[teacher.rows.image, teacher.rows.location]
    value_P = _row_values(student_P4K, teacher.bbox_logits, settings.temperature)
    summed = (weight * value_P).sum()
    match settings.normalizer:
        case "paper":
            return settings.weight * PAPER_VLR_SHARE * summed / _paper(student)
        case "weights":
            return settings.weight * summed / ld_weights(mean_over_ranks(weight.sum()))
        case _:
            assert_never(settings.normalizer)


def counted_rows(student: Student, rows: Rows, settings: VlrSettings) -> Float[Tensor, "P"]:
    """Return 1 for each row of the VLR that counts, and 0 for one that is left out."""
    counted_P = student.anchors.box.new_ones(len(rows.location))
    if not settings.exclude_main:
        return counted_P
    main_BA = torch.zeros_like(student.valid)
    main_BA[student.values.rows.image, student.values.rows.location] = True
    return counted_P.masked_fill(main_BA[rows.image, rows.location], 0.0)


def row_weights(student: Student, rows: Rows, settings: VlrSettings) -> Float[Tensor, "P"]:
    """Return what each row of the VLR weighs, 0 for one that is left out."""
    weight_P = vlr_weight(student.anchors, student.ground_truth, rows, settings.weight)
    return weight_P * counted_rows(student, rows, settings)


def _row_values(student_P4K: Tensor, teacher_P4K: Tensor, temperature: float) -> Tensor:
    if student_P4K.shape != teacher_P4K.shape:
        raise ValueError(
            f"the student's rows are {tuple(student_P4K.shape)} (rows, edges, bins), "
            f"the teacher's {tuple(teacher_P4K.shape)}."
        )
    target_P4K = teacher_P4K.to(student_P4K.dtype)
    return localization_kl(student_P4K, target_P4K, temperature=temperature).mean(dim=-1)


def _paper(student: Student) -> float:
    images, _, _, num_bins = student.predictions.bbox_logits.shape
    return ld_paper(num_bins, images)
