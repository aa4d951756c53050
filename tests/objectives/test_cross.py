from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from ldkit.models.gfl import GflHead
from ldkit.objectives.cross import CrossSettings, align, cross_terms
from ldkit.objectives.student import Student
from ldkit.ops.anchors import valid_locations
from ldkit.ops.features import cross_statistics
from ldkit.ops.losses import localization_kl
from ldkit.ops.scores import best_score, score_rows, score_values
from ldkit.structures import Predictions, TeacherRows
from tests.objectives.students import (
    BINS,
    CANVAS,
    CLASSES,
    GRID,
    POSITIVES,
    main_at,
    random_maps,
    student_of,
    teacher_of,
)
from tests.ops.strategies import LAW

BOTH = CrossSettings(cls_weight=1.0, box_weight=4.0)
WIDTH = 8
OWN = (CANVAS, (24, 32))
"""Two images of one batch; the second fills only a part of the canvas."""
seeds = st.integers(0, 99)
afters = st.integers(1, 3)


def head_of(seed: int) -> GflHead:
    """Return a head whose outputs are as wide as those of a trained one."""
    torch.manual_seed(seed)
    head = GflHead(WIDTH, CLASSES, convs=3, norm_groups=2, reg_max=BINS - 1, grid=GRID)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return head.requires_grad_(requires_grad=False)


def spoken(head: GflHead, seed: int, after: int, images: int = 2) -> Predictions:
    out: Predictions = head(random_maps(images, WIDTH, seed), after)
    return out


def rows_of(predictions: Predictions, floor: float, valid: Tensor) -> TeacherRows:
    return teacher_of(main_at(len(valid)))._replace(
        score=score_rows(predictions, valid, floor),
        cross=cross_statistics(predictions.crossing),
    )


def everywhere(images: int) -> Tensor:
    return valid_locations(CANVAS, torch.tensor([CANVAS] * images), GRID)


def met(student: Student) -> list[Tensor]:
    return [one for pair in student.predictions.crossing for one in pair]


@pytest.mark.law
@LAW
@given(seed=seeds, after=afters)
def test_the_teacher_s_own_features_give_the_teacher_s_logits(seed: int, after: int) -> None:
    head = head_of(seed)
    own = spoken(head, seed, after)
    crossed = head.from_crossing(
        align(own.crossing, everywhere(2), cross_statistics(own.crossing)), after
    )
    assert_close(crossed.cls_logits, own.cls_logits, atol=1e-5, rtol=1e-5)
    assert_close(crossed.bbox_logits, own.bbox_logits, atol=1e-5, rtol=1e-5)


@pytest.mark.law
@LAW
@given(seed=seeds, scale=st.floats(0.2, 5), shift=st.floats(-3, 3))
def test_the_scale_of_the_student_s_features_plays_no_part(
    seed: int, scale: float, shift: float
) -> None:
    maps = random_maps(2, WIDTH, seed)
    own = tuple(zip(maps, maps, strict=True))
    moved = tuple((cls * scale + shift, box * scale - shift) for cls, box in own)
    statistics = cross_statistics(spoken(head_of(seed), seed, after=2).crossing)
    pairs = zip(
        align(own, everywhere(2), statistics), align(moved, everywhere(2), statistics), strict=True
    )
    for plain, scaled in pairs:
        assert_close(plain, scaled, rtol=1e-3, atol=1e-4)


@pytest.mark.law
@LAW
@given(seed=seeds)
def test_aligned_features_have_the_teacher_s_statistics(seed: int) -> None:
    own, other = (spoken(head_of(seed), seed + n, after=2).crossing for n in range(2))
    wanted = cross_statistics(other)
    found = cross_statistics(align(own, everywhere(2), wanted))
    assert_close(found.mean, wanted.mean, atol=1e-4, rtol=1e-4)
    assert_close(found.std, wanted.std, atol=1e-3, rtol=1e-3)


@pytest.mark.law
@LAW
@given(seed=seeds, after=afters)
def test_a_student_with_the_teacher_s_features_has_nothing_to_learn(seed: int, after: int) -> None:
    head = head_of(seed)
    own = spoken(head, seed, after)
    teacher = rows_of(own, 0.0, everywhere(2))
    student = student_of(own)
    cls, box = cross_terms(student, teacher, partial(head.from_crossing, after=after), BOTH)
    assert cls is not None
    assert box is not None
    assert abs(cls) < 1e-4
    assert abs(box) < 1e-4
    # The class term has a kink here, where rounding decides the sign of its gradient.
    gradients = torch.autograd.grad(box, met(student), allow_unused=True)
    for gradient in gradients[1::2]:
        assert gradient.abs().max() < 1e-4


@pytest.mark.law
@LAW
@given(seed=seeds)
def test_crossed_predictions_equal_to_the_teacher_s_get_no_gradient(seed: int) -> None:
    own = spoken(head_of(seed), seed, after=1)
    crossed = Predictions(*(one.detach().requires_grad_() for one in own[:2]))
    teacher = rows_of(own, 0.0, everywhere(2))
    cls, box = cross_terms(student_of(own), teacher, lambda _: crossed, BOTH)
    assert cls is not None
    assert box is not None
    for gradient in torch.autograd.grad(cls + box, crossed[:2]):
        assert gradient.abs().max() < 1e-6


@pytest.mark.law
@LAW
@given(seed=seeds, floor=st.sampled_from([0.0, 0.2, 0.5]))
def test_terms_are_their_sums_over_crossed_predictions(seed: int, floor: float) -> None:
    head, valid = head_of(seed), valid_locations(CANVAS, torch.tensor(OWN), GRID)
    own, other = spoken(head_of(seed + 1), seed, 2), spoken(head, seed, 2)
    teacher = rows_of(other, floor, valid)
    assert teacher.score is not None
    assert teacher.cross is not None
    rest = partial(head.from_crossing, after=2)
    cls, box = cross_terms(student_of(own, OWN), teacher, rest, BOTH)
    crossed = rest(align(own.crossing, valid, teacher.cross))
    value = score_values(crossed.cls_logits, valid, teacher.score)
    assert_close(cls, value.sum() / POSITIVES)
    image, location = teacher.score.image, teacher.score.location
    edges = localization_kl(
        crossed.bbox_logits[image, location], teacher.score.bbox_logits, temperature=1.0
    )
    weight = best_score(teacher.score, torch.float32)
    expected = 4.0 * (weight @ edges.mean(dim=1)) / weight.sum().clamp(min=1e-6)
    assert_close(box, expected)


@pytest.mark.law
def test_only_the_student_s_features_learn() -> None:
    own, other = spoken(head_of(1), 1, 2), spoken(head_of(2), 1, 2)
    student = student_of(own)
    teacher = rows_of(other, 0.05, everywhere(2))
    rest = partial(head_of(2).from_crossing, after=2)
    cls, box = cross_terms(student, teacher, rest, BOTH)
    assert cls is not None
    assert box is not None
    maps = met(student)
    cls_moves = [
        one is not None and one.any()
        for one in torch.autograd.grad(cls, maps, retain_graph=True, allow_unused=True)
    ]
    box_moves = [
        one is not None and one.any()
        for one in torch.autograd.grad(box, maps, retain_graph=True, allow_unused=True)
    ]
    assert cls_moves[::2] == [True, True]
    assert cls_moves[1::2] == [False, False]
    assert any(box_moves[1::2])
    assert not any(box_moves[::2])
    loose = torch.autograd.grad(
        cls + box,
        [student.predictions.cls_logits, student.predictions.bbox_logits],
        allow_unused=True,
    )
    assert loose == (None, None)


@pytest.mark.law
def test_statistics_leave_out_the_padding_of_the_batch() -> None:
    head = head_of(3)
    own = spoken(head, 3, 1)
    valid = valid_locations(CANVAS, torch.tensor(OWN), GRID)
    statistics = cross_statistics(own.crossing, valid)
    noisy = [(cls.clone(), box.clone()) for cls, box in own.crossing]
    noisy[0][0][1, :, 3:] = 50.0
    plain, other = (align(crossing, valid, statistics) for crossing in (own.crossing, tuple(noisy)))
    assert_close(plain[0][0][1, :, :3, :4], other[0][0][1, :, :3, :4])


@pytest.mark.law
def test_a_term_without_a_weight_is_none_and_what_is_missing_is_named() -> None:
    head = head_of(4)
    own = spoken(head, 4, 1)
    teacher = rows_of(own, 0.05, everywhere(2))
    rest = partial(head.from_crossing, after=1)
    student = student_of(own)
    cls_only = cross_terms(student, teacher, rest, CrossSettings(1.0, None))
    box_only = cross_terms(student, teacher, rest, CrossSettings(None, 1.0))
    assert cls_only.box is None
    assert cls_only.cls is not None
    assert box_only.cls is None
    assert box_only.box is not None
    for hole in (teacher._replace(score=None), teacher._replace(cross=None)):
        with pytest.raises(ValueError, match="gives no scores, or no statistics"):
            cross_terms(student, hole, rest, BOTH)
    bare = student._replace(predictions=own._replace(crossing=()))
    with pytest.raises(ValueError, match="was not asked for the features that cross"):
        cross_terms(bare, teacher, rest, BOTH)


@pytest.mark.law
def test_a_teacher_that_scores_nothing_gives_finite_terms() -> None:
    head = head_of(5)
    own = spoken(head, 5, 1)
    teacher = rows_of(own, 0.05, torch.zeros_like(everywhere(2)))
    student = student_of(own)
    cls, box = cross_terms(student, teacher, partial(head.from_crossing, after=1), BOTH)
    assert cls is not None
    assert box is not None
    assert box == 0
    assert all(one.isfinite().all() for one in torch.autograd.grad(cls + box, met(student)))
