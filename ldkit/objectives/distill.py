"""What the student learns from the teacher's rows: localization distillation.

The student's box distributions follow the teacher's, edge by edge, at the rows of the main region
that the teacher spoke about.
"""

from dataclasses import dataclass
from typing import Literal, assert_never

from jaxtyping import Float
from torch import Tensor

from ldkit.objectives.gfl import GflValues
from ldkit.objectives.normalizers import Totals, ld_paper, ld_weights
from ldkit.ops.losses import localization_kl
from ldkit.structures import RegionRows


@dataclass(frozen=True, slots=True)
class MainLdSettings:
    """The weight of the term, the temperature of both softmaxes, and the denominator."""

    weight: float
    temperature: float
    normalizer: Literal["paper", "weights"]


def ld_main(
    values: GflValues, teacher: RegionRows, totals: Totals, settings: MainLdSettings
) -> Float[Tensor, ""]:
    """Return the weighted term of main-region localization distillation.

    `values` must have been made with `teacher.rows`: row i of the one meets row i of the other.
    Rows weigh as in the box terms. Teacher logits in half precision are computed in the student's.

    Raises:
        ValueError: The values belong to other rows, or the numbers of bins differ.

    Source: LD (arXiv 2102.12252); denominators in `ldkit.objectives.normalizers`.
    """
    if values.rows is not teacher.rows:
        raise ValueError("the student's values belong to other rows than the teacher's.")
    student_P4K = values.bbox_logits
    if student_P4K.shape != teacher.bbox_logits.shape:
        raise ValueError(
            f"the student's rows are {tuple(student_P4K.shape)} (rows, edges, bins), "
            f"the teacher's {tuple(teacher.bbox_logits.shape)}."
        )
    edge_P4 = localization_kl(
        student_P4K,
        teacher.bbox_logits.to(student_P4K.dtype),
        temperature=settings.temperature,
    )
    summed = (values.weight * edge_P4.mean(dim=-1)).sum()
    match settings.normalizer:
        case "paper":
            images, num_bins = len(values.cls), student_P4K.shape[-1]
            return settings.weight * summed / ld_paper(num_bins, images)
        case "weights":
            return settings.weight * summed / ld_weights(totals.weights)
        case _:
            assert_never(settings.normalizer)
