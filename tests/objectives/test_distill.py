import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from ldkit.objectives.distill import MainLdSettings, ld_main
from ldkit.objectives.gfl import gfl_values
from ldkit.objectives.normalizers import PAPER_IMAGES, totals
from ldkit.ops.anchors import anchors, unflatten, valid_locations
from ldkit.ops.losses import localization_kl
from ldkit.ops.regions import assign_atss, main_rows
from ldkit.structures import GroundTruth, Predictions, Rows, TeacherRows
from tests.objectives.scenes import Scene, part, rows_of, scene, teacher_rows, values_of
from tests.ops.published import (
    CPU,
    GRID,
    WAVE_HW,
    case_names,
    golden,
    ground_truth,
    wave_ground_truth,
    wave_predictions,
)
from tests.ops.strategies import LAW

PAPER = MainLdSettings(weight=0.25, temperature=10.0, normalizer="paper")
WEIGHTS = MainLdSettings(weight=1.0, temperature=2.0, normalizer="weights")
both = pytest.mark.parametrize("settings", [PAPER, WEIGHTS], ids=["paper", "weights"])


def ld_of(one: Scene, settings: MainLdSettings) -> Tensor:
    rows = rows_of(one.truth)
    values, sums = values_of(one, rows)
    return ld_main(values, teacher_rows(one, rows), sums, settings)


@pytest.mark.law
@both
def test_a_student_like_its_teacher_learns_nothing(settings: MainLdSettings) -> None:
    one = scene((3, 2))
    same = one._replace(teacher=one.student)
    term = ld_of(same, settings)
    (gradient,) = torch.autograd.grad(term, one.student.bbox_logits)
    assert abs(term) < 1e-4
    assert gradient.abs().max() < 1e-5


@pytest.mark.law
@both
def test_a_batch_without_boxes_is_finite_and_teaches_nothing(settings: MainLdSettings) -> None:
    one = scene((1, 1))
    empty = one._replace(truth=GroundTruth(one.truth.boxes, torch.full((2, 1), -1)))
    term = ld_of(empty, settings)
    (gradient,) = torch.autograd.grad(term, one.student.bbox_logits)
    assert term == 0
    assert not gradient.any()


@pytest.mark.law
@LAW
@given(seed=st.integers(0, 99), settings=st.sampled_from([PAPER, WEIGHTS]))
def test_a_batch_twice_over_weighs_as_once(seed: int, settings: MainLdSettings) -> None:
    one = scene((2, 0, 3), seed)
    twice = part(one, [0, 1, 2, 0, 1, 2])
    assert_close(ld_of(one, settings), ld_of(twice, settings), atol=1e-5, rtol=1e-4)


@pytest.mark.law
def test_only_the_paper_weighs_images_with_many_rows_more() -> None:
    one = scene((2, 0))
    full = part(one, [0])
    assert_close(ld_of(one, PAPER), ld_of(full, PAPER) / 2)
    assert_close(ld_of(one, WEIGHTS), ld_of(full, WEIGHTS))


@pytest.mark.law
def test_divided_by_weights_it_is_the_weighted_mean_of_the_rows() -> None:
    one = scene((3, 2))
    rows = rows_of(one.truth)
    values, sums = values_of(one, rows)
    teacher = teacher_rows(one, rows)
    kl_P4 = localization_kl(values.bbox_logits, teacher.bbox_logits, temperature=2.0)
    mean = (values.weight @ kl_P4.mean(dim=1)) / values.weight.sum()
    assert_close(ld_main(values, teacher, sums, WEIGHTS), mean)


@pytest.mark.law
@LAW
@given(seed=st.integers(0, 99))
def test_half_precision_rows_change_little(seed: int) -> None:
    one = scene((2, 2), seed)
    rows = rows_of(one.truth)
    values, sums = values_of(one, rows)
    teacher = teacher_rows(one, rows)
    half = teacher._replace(bbox_logits=teacher.bbox_logits.half())
    whole, rounded = (ld_main(values, rows_, sums, PAPER) for rows_ in (teacher, half))
    assert_close(rounded, whole, atol=0, rtol=2e-3)


@pytest.mark.law
def test_rows_of_another_batch_are_refused() -> None:
    one = scene((2,))
    values, sums = values_of(one, rows_of(one.truth))
    with pytest.raises(ValueError, match="other rows"):
        ld_main(values, teacher_rows(one, rows_of(one.truth)), sums, PAPER)


@pytest.mark.law
def test_another_number_of_bins_is_refused() -> None:
    one = scene((2,))
    rows = rows_of(one.truth)
    values, sums = values_of(one, rows)
    teacher = TeacherRows(rows, torch.zeros(len(rows.image), 4, 17), None)
    with pytest.raises(ValueError, match=r"4, 9\).*4, 17\)"):
        ld_main(values, teacher, sums, PAPER)


def term_of_rows(
    student: Predictions,
    teacher_P4K: Tensor,
    truth: GroundTruth,
    rows: Rows,
    canvas: tuple[int, int],
) -> Tensor:
    """Return the published term: `paper` as if the batch were the reference batch."""
    images = len(truth.labels)
    places = anchors(canvas, GRID, CPU)
    valid = torch.ones(images, len(places.unit), dtype=torch.bool)
    values = gfl_values(student, places, valid, truth, rows, beta=2.0)
    sums = totals(rows, values.weight, images)
    term = ld_main(values, TeacherRows(rows, teacher_P4K, None), sums, PAPER)
    return term * images / PAPER_IMAGES


@pytest.mark.golden
@pytest.mark.parametrize("case", case_names("ops_ld"))
def test_the_term_and_its_gradient_equal_the_published_ones(case: str) -> None:
    tensors, whole = golden("ops_ld")
    facts, canvas = whole["cases"][case], tuple(whole["canvas_hw"])
    images = len(facts["padded_hw"])
    places = anchors(canvas, GRID, CPU)
    valid = valid_locations(canvas, torch.tensor(facts["padded_hw"]), GRID)
    truth = ground_truth(tensors, case, images)
    rows = main_rows(assign_atss(places, valid, truth, topk=9))
    assert torch.stack([rows.image, rows.location], dim=1).equal(tensors[f"{case}.rows"].long())

    bbox_logits = torch.zeros(images, len(places.unit), 4, 17)
    bbox_logits[rows.image, rows.location] = tensors[f"{case}.reg"].unflatten(-1, (4, 17))
    student = Predictions(tensors[f"{case}.cls"], bbox_logits.requires_grad_())
    teacher_P4K = tensors[f"{case}.t_reg"].unflatten(-1, (4, 17))
    term = term_of_rows(student, teacher_P4K, truth, rows, canvas)
    assert_close(term, torch.tensor(sum(facts["losses"]["loss_ld"])), rtol=1e-5, atol=1e-7)
    (gradient,) = torch.autograd.grad(term, bbox_logits)
    ours = gradient[rows.image, rows.location].flatten(1)
    assert_close(ours, tensors[f"{case}.grad.loss_ld"], rtol=1e-4, atol=1e-6)
    assert_close(gradient.abs().sum(), ours.abs().sum())


@pytest.mark.golden
def test_the_term_of_the_waves_equals_the_published_one() -> None:
    truth = wave_ground_truth()
    valid = valid_locations(WAVE_HW, torch.tensor([WAVE_HW, WAVE_HW]), GRID)
    rows = main_rows(assign_atss(anchors(WAVE_HW, GRID, CPU), valid, truth, topk=9))
    level_P = unflatten(rows.location, WAVE_HW, GRID.strides).level
    teacher_P4K = wave_predictions(0.9).bbox_logits[rows.image, rows.location]
    for level, expected in enumerate([0.021916, 0.016221, 0.017218]):
        chosen = level_P == level
        some = Rows(*(column[chosen] for column in rows))
        term = term_of_rows(wave_predictions(0.0), teacher_P4K[chosen], truth, some, WAVE_HW)
        assert_close(term, torch.tensor(expected), rtol=3e-5, atol=0)
    whole = term_of_rows(wave_predictions(0.0), teacher_P4K, truth, rows, WAVE_HW)
    assert_close(whole, torch.tensor(0.055355), rtol=1e-5, atol=0)
