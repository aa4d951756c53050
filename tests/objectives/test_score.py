import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from ldkit.objectives.score import ScoreSettings, score_terms
from ldkit.ops.boxes import paired_giou
from ldkit.ops.distribution import distances_to_boxes, project
from ldkit.ops.scores import score_gap, score_rows, score_values
from ldkit.structures import Predictions
from tests.objectives.students import (
    CANVAS,
    CLASSES,
    LOCATIONS,
    POSITIVES,
    random_predictions,
    student_of,
)
from tests.ops.strategies import LAW

BOTH = ScoreSettings(cls_weight=1.0, box_weight=4.0)
OWN = (CANVAS, (24, 32))

seeds = st.integers(0, 99)


def spoken(seed: int) -> Predictions:
    cls, bbox, *_ = random_predictions(2, seed, spread=3.0)
    return Predictions(cls.detach(), bbox.detach())


@pytest.mark.law
@LAW
@given(seed=seeds)
def test_a_student_equal_to_its_teacher_learns_nothing(seed: int) -> None:
    own = random_predictions(2, seed, spread=3.0)
    student = student_of(own, OWN)
    cls, box = score_terms(student, score_rows(own, student.valid, 0.0), BOTH)
    assert cls is not None
    assert box is not None
    assert abs(cls) < 1e-5
    assert box == 0
    for gradient in torch.autograd.grad(cls + box, own[:2]):
        assert gradient.abs().max() < 1e-6


@pytest.mark.law
@LAW
@given(seed=seeds, floor=st.sampled_from([0.0, 0.05, 0.4]))
def test_terms_are_their_sums_over_the_positives(seed: int, floor: float) -> None:
    own, other = random_predictions(2, seed), spoken(seed + 1)
    student = student_of(own, OWN)
    rows = score_rows(other, student.valid, floor)
    cls, box = score_terms(student, rows, BOTH)
    value = score_values(own.cls_logits, student.valid, rows)
    assert_close(cls, value.sum() / POSITIVES)
    centre = student.anchors.centre[rows.location]
    unit = student.anchors.unit[rows.location, None]
    boxes = [
        distances_to_boxes(centre, project(one.bbox_logits[rows.image, rows.location]) * unit)
        for one in (own, other)
    ]
    loss = score_gap(own.cls_logits, rows) * (1 - paired_giou(*boxes))
    assert_close(box, 4.0 * loss.sum() / POSITIVES)


@pytest.mark.law
def test_the_box_term_moves_boxes_and_no_scores() -> None:
    own, other = random_predictions(2, 0), spoken(1)
    student = student_of(own, OWN)
    rows = score_rows(other, student.valid, 0.05)
    _, box = score_terms(student, rows, BOTH)
    assert box is not None
    cls_gradient, bbox_gradient = torch.autograd.grad(box, own[:2], allow_unused=True)
    assert cls_gradient is None
    moved = bbox_gradient.flatten(2).any(dim=-1).nonzero()
    assert moved.equal(torch.stack([rows.image, rows.location], dim=1))


@pytest.mark.law
def test_the_score_term_sees_no_padding_and_pulls_down_what_is_not_listed() -> None:
    own, other = random_predictions(2, 0), spoken(1)
    student = student_of(own, OWN)
    rows = score_rows(other, student.valid, 0.5)
    cls, _ = score_terms(student, rows, BOTH)
    assert cls is not None
    (gradient,) = torch.autograd.grad(cls, own.cls_logits)
    unlisted = torch.ones(2, LOCATIONS, CLASSES, dtype=torch.bool)
    unlisted[rows.image[rows.row], rows.location[rows.row], rows.label] = False
    assert not gradient[~student.valid].any()
    assert (gradient[unlisted & student.valid[..., None]] > 0).all()


@pytest.mark.law
def test_a_term_without_a_weight_is_none() -> None:
    own = random_predictions(2, 0)
    student = student_of(own)
    rows = score_rows(spoken(1), student.valid, 0.05)
    whole = score_terms(student, rows, BOTH)
    cls_only = score_terms(student, rows, ScoreSettings(cls_weight=2.0, box_weight=None))
    box_only = score_terms(student, rows, ScoreSettings(cls_weight=None, box_weight=4.0))
    assert cls_only.box is None
    assert box_only.cls is None
    assert whole.cls is not None
    assert_close(cls_only.cls, 2.0 * whole.cls)
    assert_close(box_only.box, whole.box)


@pytest.mark.law
def test_a_teacher_that_scores_nothing_gives_finite_terms() -> None:
    own = random_predictions(2, 0)
    student = student_of(own)
    rows = score_rows(spoken(1), torch.zeros_like(student.valid), 0.05)
    cls, box = score_terms(student, rows, BOTH)
    assert cls is not None
    assert box is not None
    assert cls > 0
    assert box == 0
    assert all(one.isfinite().all() for one in torch.autograd.grad(cls + box, own[:2]))


@pytest.mark.law
def test_half_precision_rows_change_little() -> None:
    student = student_of(random_predictions(2, 0))
    rows = score_rows(spoken(1), student.valid, 0.05)
    half = rows._replace(bbox_logits=rows.bbox_logits.half(), logit=rows.logit.half())
    pairs = zip(score_terms(student, rows, BOTH), score_terms(student, half, BOTH), strict=True)
    for whole, rounded in pairs:
        assert rounded is not None
        assert rounded.dtype == torch.float32
        assert_close(rounded, whole, rtol=2e-3, atol=0)
