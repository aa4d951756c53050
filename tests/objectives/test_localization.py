from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from ldkit.objectives.localization import (
    LdSettings,
    VlrSettings,
    counted_rows,
    ld_main,
    ld_vlr,
    row_weights,
)
from ldkit.objectives.normalizers import PAPER_IMAGES
from ldkit.objectives.student import Student
from ldkit.ops.anchors import anchors, valid_locations
from ldkit.ops.boxes import paired_iou
from ldkit.ops.losses import localization_kl
from ldkit.ops.regions import assign_atss, main_rows
from ldkit.ops.vlr import Overlap
from ldkit.structures import GroundTruth, Predictions, RegionRows, Rows
from tests.objectives.published import (
    levels_of,
    part_of,
    published_case,
    published_student,
    wave_terms,
)
from tests.objectives.scenes import (
    CANVAS,
    Scene,
    part,
    region_rows,
    rows_of,
    scene,
    student_of,
    vlr_of,
)
from tests.objectives.scenes import GRID as SCENE_GRID
from tests.ops.published import CPU, GRID, case_names, golden, ground_truth
from tests.ops.strategies import LAW

PAPER = LdSettings(weight=0.25, temperature=10.0, normalizer="paper")
WEIGHTS = LdSettings(weight=1.0, temperature=2.0, normalizer="weights")
OVERLAPS = VlrSettings("iou", exclude_main=False)
both = pytest.mark.parametrize("settings", [PAPER, WEIGHTS], ids=["paper", "weights"])

Term = Callable[[Scene, LdSettings], Tensor]


def main_of(one: Scene, settings: LdSettings) -> Tensor:
    rows = rows_of(one.truth)
    return ld_main(student_of(one, rows), region_rows(one.teacher, rows), settings)


def vlr_term_of(one: Scene, settings: LdSettings, region: VlrSettings = OVERLAPS) -> Tensor:
    student = student_of(one, rows_of(one.truth))
    rows = vlr_of(one.truth)
    weight = row_weights(student, rows, region)
    return ld_vlr(student, region_rows(one.teacher, rows), weight, settings)


terms = pytest.mark.parametrize("term", [main_of, vlr_term_of], ids=["main", "vlr"])


@pytest.mark.law
@both
@terms
def test_a_student_like_its_teacher_learns_nothing(term: Term, settings: LdSettings) -> None:
    one = scene((3, 2))
    value = term(one._replace(teacher=one.student), settings)
    (gradient,) = torch.autograd.grad(value, one.student.bbox_logits)
    assert abs(value) < 1e-4
    assert gradient.abs().max() < 1e-5


@pytest.mark.law
@both
@terms
def test_a_batch_without_boxes_is_finite_and_teaches_nothing(
    term: Term, settings: LdSettings
) -> None:
    one = scene((1, 1))
    empty = one._replace(truth=GroundTruth(one.truth.boxes, torch.full((2, 1), -1)))
    value = term(empty, settings)
    (gradient,) = torch.autograd.grad(value, one.student.bbox_logits)
    assert value == 0
    assert not gradient.any()


@pytest.mark.law
@terms
@LAW
@given(seed=st.integers(0, 99), settings=st.sampled_from([PAPER, WEIGHTS]))
def test_a_batch_twice_over_weighs_as_once(term: Term, seed: int, settings: LdSettings) -> None:
    one = scene((2, 0, 3), seed)
    twice = part(one, [0, 1, 2, 0, 1, 2])
    assert_close(term(one, settings), term(twice, settings), atol=1e-5, rtol=1e-4)


@pytest.mark.law
@terms
def test_only_the_paper_weighs_images_with_many_rows_more(term: Term) -> None:
    one = scene((2, 0))
    full = part(one, [0])
    assert_close(term(one, PAPER), term(full, PAPER) / 2)
    assert_close(term(one, WEIGHTS), term(full, WEIGHTS))


@pytest.mark.law
@both
@terms
@LAW
@given(seed=st.integers(0, 99), order=st.permutations(range(4)))
def test_the_order_of_boxes_does_not_matter(
    term: Term, settings: LdSettings, seed: int, order: list[int]
) -> None:
    one = scene((4, 4), seed)
    boxes, labels = one.truth
    other = one._replace(truth=GroundTruth(boxes[:, order], labels[:, order]))
    assert_close(term(other, settings), term(one, settings))


@pytest.mark.law
def test_divided_by_weights_it_is_the_weighted_mean_of_the_rows() -> None:
    one = scene((3, 2))
    rows = rows_of(one.truth)
    student, teacher = student_of(one, rows), region_rows(one.teacher, rows)
    values = student.values
    kl_P4 = localization_kl(values.bbox_logits, teacher.bbox_logits, temperature=2.0)
    mean = (values.weight @ kl_P4.mean(dim=1)) / values.weight.sum()
    assert_close(ld_main(student, teacher, WEIGHTS), mean)


@pytest.mark.law
def test_on_the_vlr_rows_weigh_their_overlap_or_all_the_same() -> None:
    one = scene((3, 2))
    rows = vlr_of(one.truth)
    said_P4K = one.student.bbox_logits[rows.image, rows.location]
    teacher = region_rows(one.teacher, rows)
    kl_P = localization_kl(said_P4K, teacher.bbox_logits, temperature=2.0).mean(dim=1)
    assert_close(vlr_term_of(one, WEIGHTS, VlrSettings("mask", exclude_main=False)), kl_P.mean())
    boxes_P4 = one.truth.boxes[rows.image, rows.gt_index]
    overlap_P = paired_iou(anchors(CANVAS, SCENE_GRID, CPU).box[rows.location], boxes_P4)
    assert_close(vlr_term_of(one, WEIGHTS), overlap_P @ kl_P / overlap_P.sum())


@pytest.mark.law
def test_rows_of_the_main_region_can_be_left_out() -> None:
    one = scene((4, 4), seed=3)
    main, rows = rows_of(one.truth), vlr_of(one.truth)
    student = student_of(one, main)
    places = {(i, a) for i, a in zip(main.image.tolist(), main.location.tolist(), strict=True)}
    in_main = [
        (i, a) in places for i, a in zip(rows.image.tolist(), rows.location.tolist(), strict=True)
    ]
    assert any(in_main)
    keep = ~torch.tensor(in_main)
    without = VlrSettings("iou", exclude_main=True)
    assert counted_rows(student, rows, OVERLAPS).equal(torch.ones(len(keep)))
    assert counted_rows(student, rows, without).equal(keep.float())
    fewer = Rows(*(column[keep] for column in rows))
    weight = row_weights(student, fewer, OVERLAPS)
    for settings in (PAPER, WEIGHTS):
        expected = ld_vlr(student, region_rows(one.teacher, fewer), weight, settings)
        assert_close(vlr_term_of(one, settings, without), expected)


@pytest.mark.law
@LAW
@given(seed=st.integers(0, 99))
def test_half_precision_rows_change_little(seed: int) -> None:
    one = scene((2, 2), seed)
    rows = rows_of(one.truth)
    student, teacher = student_of(one, rows), region_rows(one.teacher, rows)
    half = teacher._replace(bbox_logits=teacher.bbox_logits.half())
    whole, rounded = (ld_main(student, rows_, PAPER) for rows_ in (teacher, half))
    assert_close(rounded, whole, atol=0, rtol=2e-3)


@pytest.mark.law
def test_rows_of_another_batch_are_refused() -> None:
    one = scene((2,))
    student = student_of(one, rows_of(one.truth))
    with pytest.raises(ValueError, match="other rows"):
        ld_main(student, region_rows(one.teacher, rows_of(one.truth)), PAPER)


@pytest.mark.law
def test_another_number_of_bins_is_refused() -> None:
    one = scene((2,))
    rows = rows_of(one.truth)
    student = student_of(one, rows)
    teacher = RegionRows(rows, torch.zeros(len(rows.image), 4, 17), None)
    with pytest.raises(ValueError, match=r"4, 9\).*4, 17\)"):
        ld_main(student, teacher, PAPER)
    with pytest.raises(ValueError, match=r"4, 9\).*4, 17\)"):
        ld_vlr(student, teacher, torch.ones(len(rows.image)), PAPER)


@pytest.mark.law
def test_terms_and_gradients_agree_in_double_precision() -> None:
    one = scene((2, 1))
    rows = vlr_of(one.truth)
    student = student_of(one, rows_of(one.truth))
    teacher_P4K = one.teacher.bbox_logits[rows.image, rows.location].detach().double()
    weight = row_weights(student, rows, OVERLAPS).double()

    def of(said_P4K: Tensor, settings: LdSettings) -> Tensor:
        bbox = torch.zeros(one.student.bbox_logits.shape, dtype=torch.float64)
        bbox = bbox.index_put((rows.image, rows.location), said_P4K)
        said = one.student._replace(bbox_logits=bbox)
        double = student._replace(predictions=said)
        return ld_vlr(double, RegionRows(rows, teacher_P4K, None), weight, settings)

    said_P4K = one.student.bbox_logits[rows.image, rows.location].detach().double()
    for settings in (PAPER, WEIGHTS):
        assert torch.autograd.gradcheck(
            lambda x, settings=settings: of(x, settings), said_P4K.requires_grad_()
        )


def as_three_images(term: Tensor, images: int) -> Tensor:
    """Return the published sum: `paper` as if the batch were the reference batch."""
    return term * images / PAPER_IMAGES


@pytest.mark.golden
@pytest.mark.parametrize("case", case_names("ops_ld"))
def test_the_main_term_and_its_gradient_equal_the_published_ones(case: str) -> None:
    tensors, whole = golden("ops_ld")
    facts, canvas = whole["cases"][case], tuple(whole["canvas_hw"])
    padded = torch.tensor(facts["padded_hw"])
    valid = valid_locations(canvas, padded, GRID)
    truth = ground_truth(tensors, case, len(padded))
    rows = main_rows(assign_atss(anchors(canvas, GRID, CPU), valid, truth, topk=9))
    assert torch.stack([rows.image, rows.location], dim=1).equal(tensors[f"{case}.rows"].long())

    bbox_logits = torch.zeros(*valid.shape, 4, 17)
    bbox_logits[rows.image, rows.location] = tensors[f"{case}.reg"].unflatten(-1, (4, 17))
    said = Predictions(tensors[f"{case}.cls"], bbox_logits.requires_grad_())
    student = published_student(said, canvas, padded, truth, rows)
    teacher = RegionRows(rows, tensors[f"{case}.t_reg"].unflatten(-1, (4, 17)), None)
    term = as_three_images(ld_main(student, teacher, PAPER), len(padded))
    assert_close(term, torch.tensor(sum(facts["losses"]["loss_ld"])), rtol=1e-5, atol=1e-7)
    (gradient,) = torch.autograd.grad(term, bbox_logits)
    ours = gradient[rows.image, rows.location].flatten(1)
    assert_close(ours, tensors[f"{case}.grad.loss_ld"], rtol=1e-4, atol=1e-6)
    assert_close(gradient.abs().sum(), ours.abs().sum())


@pytest.mark.golden
@pytest.mark.parametrize("overlap", ["published", "diou"])
@pytest.mark.parametrize("case", case_names("ops_vlr"))
def test_the_vlr_term_and_its_gradient_equal_the_published_ones(
    case: str, overlap: Overlap
) -> None:
    found = published_case(case, overlap)
    student, rows = found.student, found.vlr.rows
    loss = {"published": "loss_ld_vlr", "diou": "loss_ld_vlr_true_diou"}[overlap]
    levels = golden("ops_vlr").facts["cases"][case]["losses"][loss]
    weight = row_weights(student, rows, OVERLAPS)
    images = len(student.valid)
    for level, expected in enumerate(levels):
        here = levels_of(rows, found.canvas) == level
        some = part_of(found.vlr, here)
        value = as_three_images(ld_vlr(student, some, weight[here], PAPER), images)
        assert_close(value, torch.tensor(abs(expected)), rtol=1e-5, atol=1e-7)
    term = as_three_images(ld_vlr(student, found.vlr, weight, PAPER), images)
    assert_close(term, torch.tensor(sum(levels)), rtol=1e-5, atol=0)

    published = golden("ops_vlr").tensors.get(f"{case}.grad.loss_ld_vlr")
    if overlap == "published" and published is not None:
        (gradient,) = torch.autograd.grad(term, student.predictions.bbox_logits)
        ours = gradient[found.rows[:, 0], found.rows[:, 1]].flatten(1)
        assert_close(ours, published, rtol=1e-5, atol=1e-5 * published.abs().max().item())
        assert_close(gradient.abs().sum(), published.abs().sum())


@pytest.mark.golden
def test_the_main_term_of_the_waves_equals_the_published_one() -> None:
    levels = wave_terms("main", lambda student, some: ld_main(student, some, PAPER))
    published = as_three_images(levels, 2)
    expected = torch.tensor([0.021916, 0.016221, 0.017218, 0, 0])
    assert_close(published, expected, rtol=3e-5, atol=0)
    assert_close(published.sum(), torch.tensor(0.055355), rtol=1e-5, atol=0)


@pytest.mark.golden
def test_the_vlr_term_of_the_waves_equals_the_published_one() -> None:
    def term(student: Student, some: RegionRows) -> Tensor:
        return ld_vlr(student, some, row_weights(student, some.rows, OVERLAPS), PAPER)

    levels = wave_terms("vlr", term)
    published = as_three_images(levels, 2)
    expected = torch.tensor([0.101302, 0.095135, 0.053443, 0.014173, 0])
    assert_close(published, expected, rtol=3e-5, atol=0)
    assert_close(published.sum(), torch.tensor(0.264053), rtol=1e-5, atol=0)
    # The published sum of four images is twice that; ours is that of three, always.
    twice = wave_terms("vlr", term, times=2)
    assert_close(twice, levels, rtol=1e-5, atol=0)
    assert_close(as_three_images(twice, 4).sum(), torch.tensor(0.528105), rtol=1e-5, atol=0)
