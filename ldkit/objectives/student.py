"""What a student did in one step, as the distillation terms see it."""

from typing import NamedTuple

from jaxtyping import Bool
from torch import Tensor

from ldkit.objectives.gfl import GflValues
from ldkit.objectives.normalizers import Totals
from ldkit.structures import Anchors, GroundTruth, Predictions


class Student(NamedTuple):
    """Predictions of a batch, and what was made of them for the terms of GFL.

    `values` belong to the teacher's main rows; `totals` are those of `values`.
    """

    predictions: Predictions
    anchors: Anchors
    valid: Bool[Tensor, "B A"]
    ground_truth: GroundTruth
    values: GflValues
    totals: Totals
