import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from ldkit.ops.losses import quality_focal
from ldkit.ops.scores import best_score, score_gap, score_rows, score_values, scored_above
from ldkit.structures import Predictions
from tests.ops.strategies import LAW

IMAGES, LOCATIONS, CLASSES, BINS = 2, 9, 4, 5
VALID = torch.ones(IMAGES, LOCATIONS, dtype=torch.bool)
VALID[1, 6:] = False

seeds = st.integers(0, 999)
floors = st.sampled_from([0.0, 0.01, 0.05, 0.3, 0.9])


def predictions(seed: int, spread: float = 3.0) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    cls = spread * torch.randn(IMAGES, LOCATIONS, CLASSES, generator=generator) - 1.0
    bbox = torch.randn(IMAGES, LOCATIONS, 4, BINS, generator=generator)
    return Predictions(cls.double(), bbox.double())


def dense_values(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the values of all locations and classes against all scores of a teacher."""
    return quality_focal(student, teacher.sigmoid(), beta=1.0) * VALID[..., None]


@pytest.mark.law
@LAW
@given(seed=seeds, floor=floors)
def test_rows_list_the_pairs_that_reach_the_floor_and_no_other(seed: int, floor: float) -> None:
    teacher = predictions(seed)
    rows = score_rows(teacher, VALID, floor)
    listed = torch.zeros_like(teacher.cls_logits)
    listed[rows.image[rows.row], rows.location[rows.row], rows.label] = rows.logit
    expected = (teacher.cls_logits.sigmoid() >= floor) & VALID[..., None]
    assert listed.equal(teacher.cls_logits * expected)
    assert len(rows.logit) == expected.sum()
    assert rows.row.equal(rows.row.sort(stable=True).values)
    assert torch.stack([rows.image, rows.location], 1).equal(expected.any(-1).nonzero())
    assert rows.bbox_logits.equal(teacher.bbox_logits[rows.image, rows.location])


@pytest.mark.law
@LAW
@given(seed=seeds, low=floors, high=floors)
def test_what_scores_above_a_higher_floor_is_what_is_listed_with_it(
    seed: int, low: float, high: float
) -> None:
    low, high = sorted((low, high))
    teacher = predictions(seed)
    found = scored_above(score_rows(teacher, VALID, low), high)
    expected = score_rows(teacher, VALID, high)
    assert all(ours.equal(theirs) for ours, theirs in zip(found, expected, strict=True))


@pytest.mark.law
def test_a_location_exactly_at_the_floor_is_listed() -> None:
    teacher = Predictions(torch.zeros(1, 2, 1), torch.zeros(1, 2, 4, 3))
    valid = torch.ones(1, 2, dtype=torch.bool)
    assert score_rows(teacher, valid, 0.5).location.tolist() == [0, 1]
    assert score_rows(teacher, valid, 0.5001).location.tolist() == []


@pytest.mark.law
@LAW
@given(seed=seeds)
def test_with_every_class_listed_the_values_and_gradients_are_exact(seed: int) -> None:
    student, teacher = predictions(seed).cls_logits.requires_grad_(), predictions(seed + 1)
    ours = score_values(student, VALID, score_rows(teacher, VALID, 0.0))
    theirs = dense_values(student, teacher.cls_logits).sum(dim=-1)
    assert_close(ours, theirs)
    gradients = [torch.autograd.grad(value.sum(), student)[0] for value in (ours, theirs)]
    assert_close(*gradients)


@pytest.mark.law
@LAW
@given(seed=seeds)
def test_a_student_equal_to_its_teacher_gets_no_gradient(seed: int) -> None:
    one = predictions(seed)
    student = one.cls_logits.clone().requires_grad_()
    value = score_values(student, VALID, score_rows(one, VALID, 0.0)).sum()
    (gradient,) = torch.autograd.grad(value, student)
    assert abs(value) < 1e-10
    assert gradient.abs().max() < 1e-12


@pytest.mark.law
@LAW
@given(seed=seeds, floor=st.sampled_from([0.01, 0.05, 0.3]))
def test_a_floor_changes_a_class_by_no_more_than_the_stated_bound(seed: int, floor: float) -> None:
    z, teacher = predictions(seed).cls_logits, predictions(seed + 1)
    sparse = score_values(z, VALID, score_rows(teacher, VALID, floor))
    dense = dense_values(z, teacher.cls_logits).sum(dim=-1)
    p = z.sigmoid()
    bound = floor * (F.softplus(z) + floor * F.relu(-z) + p.clamp(min=floor) * z.abs())
    unlisted = (teacher.cls_logits.sigmoid() < floor) & VALID[..., None]
    assert ((sparse - dense).abs() <= (bound * unlisted).sum(dim=-1) + 1e-9).all()


@pytest.mark.law
def test_the_bound_shrinks_with_the_floor() -> None:
    z, teacher = predictions(0).cls_logits, predictions(1)
    dense = dense_values(z, teacher.cls_logits).sum()
    errors = [
        (score_values(z, VALID, score_rows(teacher, VALID, floor)).sum() - dense).abs().item()
        for floor in (0.5, 0.1, 0.02, 0.0)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 1
    assert errors[-1] < 1e-9


@pytest.mark.law
def test_a_teacher_that_scores_nothing_pulls_every_score_down() -> None:
    z = predictions(0).cls_logits.requires_grad_()
    nothing = score_rows(predictions(1), torch.zeros_like(VALID), 0.0)
    value = score_values(z, VALID, nothing)
    assert_close(value, dense_values(z, torch.full_like(z, -torch.inf)).sum(dim=-1))
    (gradient,) = torch.autograd.grad(value.sum(), z)
    assert (gradient[VALID] > 0).all()
    assert not gradient[~VALID].any()


@pytest.mark.law
@LAW
@given(seed=seeds, floor=floors)
def test_best_scores_and_gaps_are_those_of_the_listed_classes(seed: int, floor: float) -> None:
    student, teacher = predictions(seed).cls_logits, predictions(seed + 1)
    rows = score_rows(teacher, VALID, floor)
    score = teacher.cls_logits.sigmoid()[rows.image, rows.location]
    listed = score * (score >= floor)
    assert_close(best_score(rows, torch.float64), score.amax(dim=-1))
    gap = (listed - student.sigmoid()[rows.image, rows.location]).abs().amax(dim=-1)
    assert_close(score_gap(student, rows), gap)
    assert not score_gap(student.clone().requires_grad_(), rows).requires_grad


@pytest.mark.law
def test_half_precision_logits_are_computed_in_the_student_s() -> None:
    student, teacher = predictions(0).cls_logits, score_rows(predictions(1), VALID, 0.05)
    half = teacher._replace(logit=teacher.logit.half())
    ours = score_values(student, VALID, half)
    assert ours.dtype == student.dtype
    assert_close(ours, score_values(student, VALID, teacher), rtol=5e-3, atol=5e-3)
    assert best_score(half, torch.float32).dtype == torch.float32
