"""From the objective section to the settings of every loss term."""

from ldkit.objectives.classification import KdSettings
from ldkit.objectives.cross import CrossSettings
from ldkit.objectives.distill import DistillSettings
from ldkit.objectives.gfl import GflSettings
from ldkit.objectives.imitation import ImitationSettings
from ldkit.objectives.localization import LdSettings, VlrSettings
from ldkit.objectives.score import ScoreSettings
from ldkit.recipe.objective import (
    BinaryKd,
    Cross,
    Imitation,
    LocalizationTerm,
    Objective,
    Score,
    ScoreTerm,
    SoftmaxKd,
)


def gfl_settings(section: Objective) -> GflSettings:
    """Return the weights of the GFL terms."""
    distribution = section.distribution
    return GflSettings(
        cls_weight=section.classification.weight,
        beta=section.classification.beta,
        box_weight=section.box.weight,
        dfl_weight=0.0 if distribution is None else distribution.weight,
        weight_sum=section.weight_sum,
    )


def distill_settings(section: Objective) -> DistillSettings:
    """Return the settings of the distillation terms, None where one is off."""
    return DistillSettings(
        vlr=VlrSettings(weight=section.vlr.weight, exclude_main=section.vlr.exclude_main),
        ld_main=_localization(section.localization.main),
        ld_vlr=_localization(section.localization.vlr),
        kd_main=_classes(section.classification_kd.main),
        kd_vlr=_classes(section.classification_kd.vlr),
        imitation=_imitation(section.imitation),
        score=_score(section.score),
        cross=_cross(section.cross),
    )


def _localization(section: LocalizationTerm | None) -> LdSettings | None:
    if section is None:
        return None
    return LdSettings(section.weight, section.temperature, section.normalizer)


def _classes(section: SoftmaxKd | BinaryKd | None) -> KdSettings | None:
    if section is None:
        return None
    return KdSettings(
        kind=section.kind,
        weight=section.weight,
        temperature=section.temperature,
        classes=section.classes,
        normalizer=section.normalizer,
    )


def _imitation(section: Imitation | None) -> ImitationSettings | None:
    if section is None:
        return None
    return ImitationSettings(section.region, section.weight, section.normalizer)


def _score(section: Score) -> ScoreSettings | None:
    if section.classification is None and section.box is None:
        return None
    return ScoreSettings(_weight(section.classification), _weight(section.box))


def _cross(section: Cross) -> CrossSettings | None:
    if section.classification is None and section.box is None:
        return None
    return CrossSettings(_weight(section.classification), _weight(section.box))


def _weight(section: ScoreTerm | None) -> float | None:
    return None if section is None else section.weight
