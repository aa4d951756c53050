"""The objective sections: every loss term of a training step, with its weight.

A term is `null` or a section with a weight. Regions are named once, in `assign`, `vlr`, `score`
and `imitation`, so that a cache and the terms that read it mean the same rows.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from ldkit.recipe.section import FractionBelow1, PositiveFloat, Section


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


class ValuableRegion(Section):
    """The valuable localization region (VLR): locations near a box that learn no box.

    The terms named `vlr` read it.
    """

    overlap: Literal["published", "diou"] = "diou"
    """diou: as the paper says. published: as its code computes, which divides by the anchor."""
    floor: FractionBelow1 = 0.25
    """Lowest overlap that belongs to the region, as a share of the box's ATSS threshold."""
    weight: Literal["iou", "mask"] = "iou"
    """What a row weighs: the IoU of its anchor with its box (published code), or 1 (paper)."""
    exclude_main: bool = False
    """Leave out locations of the main region; the published code keeps them in both."""


class Scheduled(Section):
    """What every distillation term has beside its weight: when it counts.

    A term names it as its first base, because keys of later bases are listed first.
    """

    warmup_steps: NonNegativeInt = 0
    """Steps over which the weight rises from 0 to its full size."""
    stop_step: PositiveInt | None = None
    """Step from which on the term is off; null keeps it to the end."""

    @model_validator(mode="after")
    def _check(self) -> "Scheduled":
        if self.stop_step is not None and self.stop_step <= self.warmup_steps:
            raise ValueError(f"stop_step: must be greater than warmup_steps = {self.warmup_steps}.")
        return self


class LocalizationKeys(Section):
    """What is particular to localization distillation."""

    weight: NonNegativeFloat = 0.25
    """Weight of the term."""
    temperature: PositiveFloat = 10.0
    """Both distributions are softened by it; 10 as published, 2 did better on small data."""
    normalizer: Literal["paper", "weights"] = "weights"
    """paper: the published sum, as with 3 images per GPU. weights: divided by the row weights."""


class LocalizationTerm(Scheduled, LocalizationKeys):
    """Localization distillation on one region."""


class Localization(Section):
    """Localization distillation: the student learns the teacher's box distributions."""

    main: LocalizationTerm | None = None
    """Localization distillation on the main region: the locations that learn a box (ld_main)."""
    vlr: LocalizationTerm | None = None
    """Localization distillation on the VLR, as `objective.vlr` draws it (ld_vlr)."""


class ClassKdKeys(Section):
    """What is particular to class distillation."""

    kind: Literal["softmax", "binary"]
    """How classes are compared."""
    weight: NonNegativeFloat = 10.0
    """Weight of the term."""
    temperature: PositiveFloat = 2.0
    """Both sides are softened by it."""
    classes: Literal["mean", "sum"] = "mean"
    """Over classes: the mean as published, whose strength falls with their number, or the sum."""
    normalizer: Literal["paper", "rows"] = "rows"
    """paper: mean of each level of 3 images, summed over levels. rows: mean over all rows."""


class ClassKd(Scheduled, ClassKdKeys):
    """Class distillation on one region: the student learns the teacher's class logits."""


class SoftmaxKd(ClassKd):
    """Class distillation by a softmax over the classes."""

    kind: Literal["softmax"]
    """One softmax over the classes, as published; needs two classes or more."""


class BinaryKd(ClassKd):
    """Class distillation class by class."""

    kind: Literal["binary"]
    """One sigmoid for each class, as the head scores them; also for a single class."""


AnyKd = Annotated[SoftmaxKd | BinaryKd, Field(discriminator="kind")]


class ClassificationKd(Section):
    """Class distillation: the student learns the teacher's class logits."""

    main: AnyKd | None = None
    """On the main region: the locations that learn a box (kd_main)."""
    vlr: AnyKd | None = None
    """On the VLR, as `objective.vlr` draws it (kd_vlr)."""


class ImitationKeys(Section):
    """What is particular to feature imitation."""

    region: Literal["main", "inside_gt", "fine_grained", "gi"]
    """Where; gi is chosen with the student's own output, so it needs a live teacher (--online)."""
    weight: NonNegativeFloat = 1.0
    """Weight of the term."""
    normalizer: Literal["paper", "rows"] = "rows"
    """paper: mean of each level, summed, and 0 on a level without positives. rows: one mean."""


class Imitation(Scheduled, ImitationKeys):
    """Feature imitation: the student's pyramid learns the teacher's at some locations."""


class ScoreKeys(Section):
    """What is particular to a term on the locations that the teacher scores."""

    weight: NonNegativeFloat
    """Weight of the term."""


class ScoreTerm(Scheduled, ScoreKeys):
    """A term on the locations that the teacher scores."""


class Score(Section):
    """Distillation on the locations the teacher scores, whatever the ground truth (BCKD)."""

    floor: FractionBelow1 = 0.05
    """Lowest score of the teacher's best class that a location must have."""
    classification: ScoreTerm | None = None
    """The student's class scores towards the teacher's, class by class (score_cls)."""
    box: ScoreTerm | None = None
    """The student's box towards the teacher's, by GIoU (score_box)."""


class Cross(Section):
    """CrossKD: the student's head features go through the teacher's head, which judges them.

    It reads the locations of `score`, and needs the teacher's file while training.
    """

    after: PositiveInt = 3
    """Convolutions of the student's towers before its features cross over."""
    classification: ScoreTerm | None = None
    """The crossed class scores towards the teacher's (cross_cls)."""
    box: ScoreTerm | None = None
    """The crossed box distributions towards the teacher's (cross_box)."""


class Objective(Section):
    """The loss terms; null switches a term off."""

    assign: Assign = Assign()
    classification: QualityFocal = QualityFocal()
    box: Giou = Giou()
    distribution: DistributionFocal | None = DistributionFocal()
    weight_sum: Literal["clamp_1", "plus_epsilon"] = "clamp_1"
    """Floor of the summed box weights: at least 1, or + 1e-6 as in the published LD code."""
    vlr: ValuableRegion = ValuableRegion()
    localization: Localization = Localization()
    classification_kd: ClassificationKd = ClassificationKd()
    imitation: Imitation | None = None
    score: Score = Score()
    cross: Cross = Cross()

    def without_distillation(self) -> "Objective":
        """Return this objective with every distillation term off, and all else as it is."""
        return self.model_copy(
            update={
                "localization": Localization(),
                "classification_kd": ClassificationKd(),
                "imitation": None,
                "score": Score(floor=self.score.floor),
                "cross": Cross(after=self.cross.after),
            }
        )

    def distillation_terms(self) -> Iterator[tuple[str, str, Scheduled]]:
        """Yield (key, name of the loss term, section) for each distillation term that is on."""
        terms: tuple[tuple[str, str, Scheduled | None], ...] = (
            ("localization.main", "ld_main", self.localization.main),
            ("localization.vlr", "ld_vlr", self.localization.vlr),
            ("classification_kd.main", "kd_main", self.classification_kd.main),
            ("classification_kd.vlr", "kd_vlr", self.classification_kd.vlr),
            ("imitation", "imitation", self.imitation),
            ("score.classification", "score_cls", self.score.classification),
            ("score.box", "score_box", self.score.box),
            ("cross.classification", "cross_cls", self.cross.classification),
            ("cross.box", "cross_box", self.cross.box),
        )
        for key, name, section in terms:
            if section is not None:
                yield f"objective.{key}", name, section
