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
    """Quality focal loss."""
    weight: NonNegativeFloat = 1.0
    """Weight of the term."""
    beta: NonNegativeFloat = 2.0
    """How much easy scores are damped: |target - score|^beta."""


class Giou(Section):
    """Box regression by generalized IoU."""

    kind: Literal["giou"] = "giou"
    """1 - GIoU."""
    weight: NonNegativeFloat = 2.0
    """Weight of the term."""


class DistributionFocal(Section):
    """Distributions towards the two bins beside the true distance (GFL)."""

    kind: Literal["dfl"] = "dfl"
    """Distribution focal loss."""
    weight: NonNegativeFloat = 0.25
    """Weight of the term."""


class MainLocalization(Section):
    """Localization distillation on the main region."""

    weight: NonNegativeFloat = 0.25
    """Weight of the term."""
    temperature: PositiveFloat = 10.0
    """Both distributions are softened by it; 10 as published, 2 did better on small data."""
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
