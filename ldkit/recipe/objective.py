"""The objective sections: every loss term of a training step, with its weight."""

from typing import Literal

from pydantic import NonNegativeFloat, PositiveInt

from ldkit.recipe.section import PositiveFloat, Section


class Assign(Section):
    """Which locations learn a box: ATSS."""

    topk: PositiveInt = 9
    """Nearest locations of each level that are candidates for a box."""


class QualityFocal(Section):
    """Classification towards the box quality (GFL, quality focal loss)."""

    kind: Literal["qfl"] = "qfl"
    weight: NonNegativeFloat = 1.0
    beta: NonNegativeFloat = 2.0


class Giou(Section):
    """Box regression by generalized IoU."""

    kind: Literal["giou"] = "giou"
    weight: NonNegativeFloat = 2.0


class DistributionFocal(Section):
    """Distributions towards the two bins beside the true distance (GFL)."""

    kind: Literal["dfl"] = "dfl"
    weight: NonNegativeFloat = 0.25


class MainLocalization(Section):
    """Localization distillation on the main region."""

    weight: NonNegativeFloat = 0.25
    temperature: PositiveFloat = 10.0
    normalizer: Literal["paper", "weights"] = "weights"
    """paper: the published sum, as with 3 images per GPU. weights: divided by the row weights."""


class Localization(Section):
    """Localization distillation: the student learns the teacher's box distributions."""

    main: MainLocalization | None = None


class Objective(Section):
    """The loss terms; null switches a term off."""

    assign: Assign = Assign()
    classification: QualityFocal = QualityFocal()
    box: Giou = Giou()
    distribution: DistributionFocal | None = DistributionFocal()
    weight_sum: Literal["clamp_1", "plus_epsilon"] = "clamp_1"
    """Floor of the summed box weights: at least 1, or + 1e-6 as in the published LD code."""
    localization: Localization = Localization()
