from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ldkit.objectives.classification import KdSettings, kd_term
from ldkit.objectives.cross import Crossing, CrossSettings, cross_terms
from ldkit.objectives.distill import (
    NO_BRIDGES,
    Bridges,
    DistillSettings,
    at_factors,
    distill_terms,
)
from ldkit.objectives.gfl import gfl_terms
from ldkit.objectives.imitation import ImitationSettings, imitation_term
from ldkit.objectives.localization import (
    LdSettings,
    VlrSettings,
    counted_rows,
    ld_main,
    ld_vlr,
    row_weights,
)
from ldkit.objectives.score import ScoreSettings, score_terms
from ldkit.objectives.student import Student
from ldkit.ops.features import cross_statistics
from ldkit.ops.scores import score_rows
from ldkit.structures import FeatureRows, GroundTruth, LossTerms, Predictions, TeacherRows
from tests.objectives.scenes import (
    BINS,
    CLASSES,
    SETTINGS,
    rows_of,
    scene,
    student_of,
    teacher_rows,
)

DEPTH = 4
REGION = VlrSettings("iou", exclude_main=True)
ALL = DistillSettings(
    vlr=REGION,
    ld_main=LdSettings(0.25, 10.0, "weights"),
    ld_vlr=LdSettings(0.5, 2.0, "weights"),
    kd_main=KdSettings("softmax", 10.0, 2.0, "mean", "paper"),
    kd_vlr=KdSettings("binary", 1.0, 1.0, "sum", "rows"),
    imitation=ImitationSettings("main", 2.0, "rows"),
    score=ScoreSettings(cls_weight=1.0, box_weight=4.0),
    cross=CrossSettings(cls_weight=1.0, box_weight=4.0),
)
NONE = DistillSettings(vlr=REGION)
NAMES = LossTerms._fields[3:]


def head_rest(crossing: Crossing) -> Predictions:
    """Return the first channels of a head's features as its logits."""
    cls, bbox = (
        torch.cat([towers[tower].flatten(2).transpose(1, 2) for towers in crossing], dim=1)
        for tower in (0, 1)
    )
    return Predictions(
        cls[..., :1].expand(-1, -1, CLASSES),
        bbox[..., None, :1] * torch.arange(float(BINS)).expand(1, 1, 4, BINS),
    )


BRIDGES = Bridges(project=None, head_rest=head_rest)


def maps(seed: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(2, DEPTH, side, side, generator=generator).requires_grad_() for side in (8, 4)
    )


def crossing(seed: int) -> Crossing:
    return tuple(zip(maps(seed), maps(seed + 1), strict=True))


def everything() -> tuple[Student, TeacherRows, LossTerms]:
    """Return a student and a teacher that speak of everything, and the terms of GFL."""
    one = scene((3, 2), seed=1)
    said = one.student._replace(maps=maps(1), crossing=crossing(2))
    rows = rows_of(one.truth)
    student = student_of(one._replace(student=said), rows)
    features = torch.randn(len(rows.image), DEPTH, generator=torch.Generator().manual_seed(4))
    statistics = cross_statistics(crossing(5), None)
    teacher = teacher_rows(one, rows)._replace(
        imitation=FeatureRows(rows.image, rows.location, features),
        score=score_rows(one.teacher, student.valid, 0.3),
        cross=type(statistics)(*(column.detach() for column in statistics)),
    )
    return student, teacher, gfl_terms(student.values, student.totals, SETTINGS)


def of(settings: DistillSettings, factors: dict[str, float] | None = None) -> LossTerms:
    student, teacher, plain = everything()
    return distill_terms(plain, student, teacher, settings, factors or {}, BRIDGES)


@pytest.mark.law
def test_without_settings_only_the_terms_of_gfl_are_left() -> None:
    student, teacher, plain = everything()
    terms = distill_terms(plain, student, teacher, NONE, {})
    assert terms == plain
    assert list(terms.values()) == ["cls", "box", "dfl"]


@pytest.mark.law
def test_each_term_is_that_of_its_own_function() -> None:
    student, teacher, _ = everything()
    vlr, score = teacher.vlr, teacher.score
    assert vlr is not None
    assert score is not None
    weight = row_weights(student, vlr.rows, REGION)
    counted = counted_rows(student, vlr.rows, REGION)
    assert ALL.ld_main is not None
    assert ALL.ld_vlr is not None
    assert ALL.kd_main is not None
    assert ALL.kd_vlr is not None
    assert ALL.imitation is not None
    assert ALL.score is not None
    assert ALL.cross is not None
    every = torch.ones(len(teacher.main.rows.image))
    expected = [
        ld_main(student, teacher.main, ALL.ld_main),
        ld_vlr(student, vlr, weight, ALL.ld_vlr),
        kd_term(student, teacher.main, every, ALL.kd_main),
        kd_term(student, vlr, counted, ALL.kd_vlr),
        imitation_term(student, teacher, ALL.imitation, None),
        *score_terms(student, score, ALL.score),
        *cross_terms(student, teacher, head_rest, ALL.cross),
    ]
    found = of(ALL)
    for name, value in zip(NAMES, expected, strict=True):
        assert value is not None
        assert value > 0, name
        assert_close(getattr(found, name), value)


@pytest.mark.law
@pytest.mark.parametrize("name", NAMES)
def test_a_factor_scales_its_term_and_no_other(name: str) -> None:
    whole, scaled = of(ALL), of(ALL, {name: 0.25})
    for other in LossTerms._fields:
        factor = 0.25 if other == name else 1.0
        assert_close(getattr(scaled, other), factor * getattr(whole, other))


@pytest.mark.law
@pytest.mark.parametrize("name", NAMES)
def test_a_factor_of_zero_switches_its_term_off(name: str) -> None:
    terms = of(ALL, {name: 0.0})
    assert [other for other in LossTerms._fields if getattr(terms, other) is None] == [name]


@pytest.mark.law
def test_nothing_of_a_term_is_computed_while_it_is_off() -> None:
    student, teacher, plain = everything()
    silent = TeacherRows(teacher.main)
    off = dict.fromkeys(NAMES, 0.0) | {"ld_main": 1.0}
    terms = distill_terms(plain, student, silent, ALL, off)
    assert list(terms.values()) == ["cls", "box", "dfl", "ld_main"]
    assert at_factors(ALL, dict.fromkeys(NAMES, 0.0)) == NONE


@pytest.mark.law
@pytest.mark.parametrize("name", NAMES)
def test_every_term_teaches_the_student(name: str) -> None:
    student, teacher, plain = everything()
    off = dict.fromkeys(set(NAMES) - {name}, 0.0)
    term = getattr(distill_terms(plain, student, teacher, ALL, off, BRIDGES), name)
    said = student.predictions
    inputs = [said.cls_logits, said.bbox_logits, *said.maps]
    inputs += [tower for towers in said.crossing for tower in towers]
    gradients = torch.autograd.grad(term, inputs, allow_unused=True)
    assert any(gradient is not None and gradient.any() for gradient in gradients)


@pytest.mark.law
def test_a_batch_without_boxes_is_finite() -> None:
    student, teacher, plain = everything()
    one = scene((3, 2), seed=1)
    empty = one._replace(truth=GroundTruth(one.truth.boxes, torch.full((2, 3), -1)))
    rows = rows_of(empty.truth)
    student = student_of(empty._replace(student=student.predictions), rows)
    nothing = FeatureRows(rows.image, rows.location, torch.zeros(0, DEPTH))
    few = teacher_rows(empty, rows)._replace(
        imitation=nothing, score=teacher.score, cross=teacher.cross
    )
    terms = distill_terms(plain, student, few, ALL, {}, BRIDGES)
    for name in ("ld_main", "ld_vlr", "kd_main", "kd_vlr", "imitation"):
        assert getattr(terms, name) == 0, name
        assert getattr(terms, name).requires_grad
    assert terms.total.isfinite()


@pytest.mark.law
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (replace(NONE, ld_vlr=ALL.ld_vlr), "no rows of the VLR"),
        (replace(NONE, kd_vlr=ALL.kd_vlr), "no rows of the VLR"),
        (replace(NONE, imitation=ALL.imitation), "no features to imitate"),
        (replace(NONE, score=ALL.score), "no rows of the locations it scores"),
        (replace(NONE, cross=ALL.cross), "the rest of the teacher's head is missing"),
    ],
)
def test_a_teacher_that_lacks_what_a_term_reads_is_refused(
    settings: DistillSettings, message: str
) -> None:
    student, teacher, plain = everything()
    with pytest.raises(ValueError, match=message):
        distill_terms(plain, student, TeacherRows(teacher.main), settings, {}, NO_BRIDGES)
