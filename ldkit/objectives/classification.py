"""Class distillation: the student's class logits follow the teacher's at the rows of a region."""

from dataclasses import dataclass
from typing import Literal, assert_never

from jaxtyping import Float
from torch import Tensor

from ldkit.objectives.normalizers import mean_of_levels, number_of_rows, paper_levels
from ldkit.objectives.student import Student
from ldkit.ops.features import location_levels
from ldkit.ops.losses import binary_kl, softmax_kl
from ldkit.structures import RegionRows


@dataclass(frozen=True, slots=True)
class KdSettings:
    """How classes are compared, the weight of the term, its temperature and its denominators.

    `classes` says whether a row is the mean or the sum over classes.
    """

    kind: Literal["softmax", "binary"]
    weight: float
    temperature: float
    classes: Literal["mean", "sum"]
    normalizer: Literal["paper", "rows"]


def kd_term(
    student: Student, teacher: RegionRows, counted: Float[Tensor, "P"], settings: KdSettings
) -> Float[Tensor, ""]:
    """Return the weighted term of class distillation on a region.

    `counted` is 1 for each row, or 0 for one that is left out; rows weigh the same. The logits are
    those of the class alone. Teacher logits in half precision are computed in the student's.

    Raises:
        ValueError: The teacher gives no class logits, or the numbers of classes differ.

    Source: LD (arXiv 2102.12252), `loss_kd` of its repository; denominators in
        `ldkit.objectives.normalizers`.
    """
    rows = teacher.rows
    student_PC = student.predictions.class_logits[rows.image, rows.location]
    value_P = counted * _row_values(student_PC, teacher.cls_logits, settings)
    match settings.normalizer:
        case "paper":
            level_P = location_levels(rows.location, student.anchors)
            levels, images = len(student.anchors.level_sizes), len(student.valid)
            places = paper_levels(rows.image, level_P, images=images, levels=levels)
            mean = mean_of_levels(value_P, counted, places)
        case "rows":
            mean = value_P.sum() / number_of_rows(counted)
        case _:
            assert_never(settings.normalizer)
    return settings.weight * mean


def _row_values(student_PC: Tensor, teacher_PC: Tensor | None, settings: KdSettings) -> Tensor:
    if teacher_PC is None:
        raise ValueError("the teacher gives no class logits at the rows of the region.")
    if student_PC.shape != teacher_PC.shape:
        raise ValueError(
            f"the student's rows are {tuple(student_PC.shape)} (rows, classes), "
            f"the teacher's {tuple(teacher_PC.shape)}."
        )
    target_PC = teacher_PC.to(student_PC.dtype)
    match settings.kind:
        case "softmax":
            value_P = softmax_kl(student_PC, target_PC, temperature=settings.temperature)
        case "binary":
            value_P = binary_kl(student_PC, target_PC, temperature=settings.temperature)
        case _:
            assert_never(settings.kind)
    match settings.classes:
        case "mean":
            return value_P / student_PC.shape[-1]
        case "sum":
            return value_P
        case _:
            assert_never(settings.classes)
