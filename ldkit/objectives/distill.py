"""What the student learns from the teacher's rows: every term of distillation, in one place.

A term has settings or is off. A schedule may scale its weight from step to step (`at_factors`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from ldkit.objectives.classification import KdSettings, kd_term
from ldkit.objectives.cross import CrossSettings, CrossTerms, HeadRest, cross_terms
from ldkit.objectives.imitation import ImitationSettings, Project, imitation_term
from ldkit.objectives.localization import (
    LdSettings,
    VlrSettings,
    counted_rows,
    ld_main,
    ld_vlr,
    row_weights,
)
from ldkit.objectives.score import ScoreSettings, ScoreTerms, score_terms
from ldkit.objectives.student import Student
from ldkit.structures import LossTerms, RegionRows, TeacherRows

Weighted = TypeVar("Weighted", LdSettings, KdSettings, ImitationSettings)
Paired = TypeVar("Paired", ScoreSettings, CrossSettings)


@dataclass(frozen=True, slots=True)
class DistillSettings:
    """The settings of each term, None where it is off, and how the rows of the VLR count."""

    vlr: VlrSettings
    ld_main: LdSettings | None = None
    ld_vlr: LdSettings | None = None
    kd_main: KdSettings | None = None
    kd_vlr: KdSettings | None = None
    imitation: ImitationSettings | None = None
    score: ScoreSettings | None = None
    cross: CrossSettings | None = None


class Bridges(NamedTuple):
    """What leads from the student to the teacher, where a term needs it.

    `project` maps the student's channels to the teacher's, for imitation where they differ.
    `head_rest` is what follows in the teacher's head, for CrossKD.
    """

    project: Project | None = None
    head_rest: HeadRest | None = None


NO_BRIDGES = Bridges()


class VlrTerms(NamedTuple):
    """The weighted terms on the VLR; None is one that is switched off."""

    ld: Float[Tensor, ""] | None
    kd: Float[Tensor, ""] | None


def distill_terms(
    plain: LossTerms,
    student: Student,
    teacher: TeacherRows,
    settings: DistillSettings,
    factors: Mapping[str, float],
    bridges: Bridges = NO_BRIDGES,
) -> LossTerms:
    """Return the terms of GFL together with those of distillation.

    `factors` scales the weights of some terms, by their name in `LossTerms`: see `at_factors`.

    Raises:
        ValueError: The teacher, or `bridges`, lack what a term reads, or shapes differ.
    """
    now = at_factors(settings, factors)
    vlr = _vlr_terms(student, teacher.vlr, now)
    score = _score_terms(student, teacher, now.score)
    cross = _cross_terms(student, teacher, now.cross, bridges.head_rest)
    return plain._replace(
        ld_main=None if now.ld_main is None else ld_main(student, teacher.main, now.ld_main),
        ld_vlr=vlr.ld,
        kd_main=None if now.kd_main is None else _kd_main(student, teacher.main, now.kd_main),
        kd_vlr=vlr.kd,
        imitation=None
        if now.imitation is None
        else imitation_term(student, teacher, now.imitation, bridges.project),
        score_cls=score.cls,
        score_box=score.box,
        cross_cls=cross.cls,
        cross_box=cross.box,
    )


def at_factors(settings: DistillSettings, factors: Mapping[str, float]) -> DistillSettings:
    """Return the settings with the weight of each term multiplied by its factor.

    A factor of 0 switches its term off, so that nothing of it is computed; a term without a
    factor keeps its weight.
    """
    return DistillSettings(
        vlr=settings.vlr,
        ld_main=_scaled(settings.ld_main, factors.get("ld_main", 1.0)),
        ld_vlr=_scaled(settings.ld_vlr, factors.get("ld_vlr", 1.0)),
        kd_main=_scaled(settings.kd_main, factors.get("kd_main", 1.0)),
        kd_vlr=_scaled(settings.kd_vlr, factors.get("kd_vlr", 1.0)),
        imitation=_scaled(settings.imitation, factors.get("imitation", 1.0)),
        score=_scaled_pair(
            settings.score, factors.get("score_cls", 1.0), factors.get("score_box", 1.0)
        ),
        cross=_scaled_pair(
            settings.cross, factors.get("cross_cls", 1.0), factors.get("cross_box", 1.0)
        ),
    )


def _scaled(settings: Weighted | None, factor: float) -> Weighted | None:
    if settings is None or factor == 0:
        return None
    return replace(settings, weight=settings.weight * factor)


def _scaled_pair(settings: Paired | None, cls_factor: float, box_factor: float) -> Paired | None:
    if settings is None:
        return None
    cls_weight = _scaled_weight(settings.cls_weight, cls_factor)
    box_weight = _scaled_weight(settings.box_weight, box_factor)
    if cls_weight is None and box_weight is None:
        return None
    return replace(settings, cls_weight=cls_weight, box_weight=box_weight)


def _scaled_weight(weight: float | None, factor: float) -> float | None:
    return None if weight is None or factor == 0 else weight * factor


def _kd_main(student: Student, teacher: RegionRows, settings: KdSettings) -> Float[Tensor, ""]:
    return kd_term(student, teacher, torch.ones_like(student.values.weight), settings)


def _vlr_terms(student: Student, teacher: RegionRows | None, now: DistillSettings) -> VlrTerms:
    if now.ld_vlr is None and now.kd_vlr is None:
        return VlrTerms(None, None)
    if teacher is None:
        raise ValueError("the teacher gives no rows of the VLR.")
    ld = kd = None
    if now.ld_vlr is not None:
        ld = ld_vlr(student, teacher, row_weights(student, teacher.rows, now.vlr), now.ld_vlr)
    if now.kd_vlr is not None:
        kd = kd_term(student, teacher, counted_rows(student, teacher.rows, now.vlr), now.kd_vlr)
    return VlrTerms(ld, kd)


def _score_terms(
    student: Student, teacher: TeacherRows, settings: ScoreSettings | None
) -> ScoreTerms:
    if settings is None:
        return ScoreTerms(None, None)
    if teacher.score is None:
        raise ValueError("the teacher gives no rows of the locations it scores.")
    return score_terms(student, teacher.score, settings)


def _cross_terms(
    student: Student,
    teacher: TeacherRows,
    settings: CrossSettings | None,
    head_rest: HeadRest | None,
) -> CrossTerms:
    if settings is None:
        return CrossTerms(None, None)
    if head_rest is None:
        raise ValueError("the rest of the teacher's head is missing, which features cross into.")
    return cross_terms(student, teacher, head_rest, settings)
