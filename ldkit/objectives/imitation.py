"""Feature imitation: the student's pyramid follows the teacher's at some locations."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, assert_never

import torch
from jaxtyping import Float
from torch import Tensor

from ldkit.objectives.normalizers import (
    PAPER_IMAGES,
    PaperLevels,
    mean_of_levels,
    number_of_rows,
    paper_levels,
)
from ldkit.objectives.student import Student
from ldkit.ops.features import feature_rows, location_levels
from ldkit.ops.general_instances import general_instances
from ldkit.structures import FeatureRows, TeacherRows

Project = Callable[[Tensor], Tensor]
"""A linear map on rows, from the student's channels to the teacher's."""


@dataclass(frozen=True, slots=True)
class ImitationSettings:
    """Where to imitate, the weight of the term, and the denominator."""

    region: Literal["main", "inside_gt", "fine_grained", "gi"]
    weight: float
    normalizer: Literal["paper", "rows"]


def imitation_term(
    student: Student,
    teacher: TeacherRows,
    settings: ImitationSettings,
    project: Project | None,
) -> Float[Tensor, ""]:
    """Return the weighted term of feature imitation.

    The value of a row is the mean over channels of (x - x^T)², x the student's features after
    `project`, x^T the teacher's, which get no gradient. With `rows` the term is the mean of all
    rows, 0 without any. With `paper` it is, as on a published GPU of 3 images, the mean of the rows
    of each level, 0 on a level where none of the 3 images has a row of the main region, summed
    over levels; and then the mean over the batch's runs of 3 consecutive images, the last of which
    may be shorter.

    Rows come from `teacher.imitation`; those of `gi` are chosen here, with the student's own
    output, among all locations that `teacher.dense` gives.

    Raises:
        ValueError: The teacher's rows are missing, or the channels differ.

    Source: LD (arXiv 2102.12252), `loss_im` of the public code, its zero levels included.
    """
    rows = _rows(student, teacher, settings)
    features_PD = feature_rows(student.predictions.maps, rows.image, rows.location, student.anchors)
    if project is not None:
        features_PD = project(features_PD)
    if features_PD.shape != rows.features.shape:
        raise ValueError(
            f"the student's features have {features_PD.shape[1]} channels, "
            f"the teacher's {rows.features.shape[1]}; a projection must join them."
        )
    target_PD = rows.features.detach().to(features_PD.dtype)
    value_P = (features_PD - target_PD).square().mean(dim=-1)
    match settings.normalizer:
        case "paper":
            return settings.weight * _paper_mean(value_P, rows, student, teacher)
        case "rows":
            return settings.weight * value_P.sum() / number_of_rows(torch.ones_like(value_P))
        case _:
            assert_never(settings.normalizer)


def _rows(student: Student, teacher: TeacherRows, settings: ImitationSettings) -> FeatureRows:
    if settings.region != "gi":
        if teacher.imitation is None:
            raise ValueError("the teacher gives no features to imitate.")
        return teacher.imitation
    if teacher.dense is None:
        raise ValueError("region gi needs a teacher that speaks at every location.")
    image, location = general_instances(
        student.predictions, teacher.dense, student.anchors, PAPER_IMAGES
    )
    return FeatureRows(image, location, teacher.dense.features[image, location])


def _paper_mean(
    value_P: Tensor, rows: FeatureRows, student: Student, teacher: TeacherRows
) -> Float[Tensor, ""]:
    """Return the published mean: a level on which no row of the main region lies counts as 0."""
    places = _places(rows.image, rows.location, student)
    main = teacher.main.rows
    main_places = _places(main.image, main.location, student)
    has_main = value_P.new_zeros(places.groups).index_fill(0, main_places.group, 1.0)
    counted_P = has_main[places.group]
    return mean_of_levels(counted_P * value_P, counted_P, places)


def _places(image: Tensor, location: Tensor, student: Student) -> PaperLevels:
    level_P = location_levels(location, student.anchors)
    levels, images = len(student.anchors.level_sizes), len(student.valid)
    return paper_levels(image, level_P, images=images, levels=levels)
