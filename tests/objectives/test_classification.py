from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from ldkit.objectives.classification import KdSettings, kd_term
from ldkit.ops.losses import softmax_kl
from ldkit.structures import GroundTruth, Predictions, RegionRows, Rows
from tests.objectives.published import levels_of, part_of, published_case, wave_terms
from tests.objectives.scenes import (
    CLASSES,
    LOCATIONS,
    Scene,
    part,
    region_rows,
    rows_of,
    scene,
    student_of,
    vlr_of,
)
from tests.ops.published import case_names, golden
from tests.ops.strategies import LAW

PAPER = KdSettings("softmax", weight=10.0, temperature=2.0, classes="mean", normalizer="paper")
ROWS = KdSettings("binary", weight=1.0, temperature=2.0, classes="sum", normalizer="rows")
both = pytest.mark.parametrize("settings", [PAPER, ROWS], ids=["paper", "rows"])
FINE = 64
"""Locations of the finer of the two levels."""
TIED = ("border", "main")
"""Here the published top-k decides between equally near candidates."""
PUBLISHED = [
    (case, region)
    for case in case_names("ops_vlr")
    for region in ("main", "vlr")
    if (case, region) != TIED
]


def term_of(one: Scene, settings: KdSettings) -> Tensor:
    rows = vlr_of(one.truth)
    student = student_of(one, rows_of(one.truth))
    return kd_term(student, region_rows(one.teacher, rows), torch.ones(len(rows.image)), settings)


def at(places: list[tuple[int, int]]) -> Rows:
    image, location = torch.tensor(places).T
    return Rows(image, location, torch.zeros_like(image))


def term_at(one: Scene, places: list[tuple[int, int]], settings: KdSettings) -> Tensor:
    teacher = region_rows(one.teacher, at(places))
    return kd_term(student_of(one, rows_of(one.truth)), teacher, torch.ones(len(places)), settings)


@pytest.mark.law
@both
def test_a_student_like_its_teacher_learns_nothing(settings: KdSettings) -> None:
    one = scene((3, 2))
    value = term_of(one._replace(teacher=one.student), settings)
    (gradient,) = torch.autograd.grad(value, one.student.cls_logits)
    assert abs(value) < 1e-4
    assert gradient.abs().max() < 1e-5


@pytest.mark.law
@both
def test_a_batch_without_boxes_is_finite_and_teaches_nothing(settings: KdSettings) -> None:
    one = scene((1, 1))
    empty = one._replace(truth=GroundTruth(one.truth.boxes, torch.full((2, 1), -1)))
    value = term_of(empty, settings)
    (gradient,) = torch.autograd.grad(value, one.student.cls_logits)
    assert value == 0
    assert not gradient.any()


@pytest.mark.law
@LAW
@given(seed=st.integers(0, 99), settings=st.sampled_from([PAPER, ROWS]))
def test_a_batch_twice_over_weighs_as_once(seed: int, settings: KdSettings) -> None:
    one = scene((2, 0, 3), seed)
    twice = part(one, [0, 1, 2, 0, 1, 2])
    assert_close(term_of(one, settings), term_of(twice, settings), atol=1e-5, rtol=1e-4)


@pytest.mark.law
@both
@LAW
@given(seed=st.integers(0, 99), order=st.permutations(range(4)))
def test_the_order_of_boxes_does_not_matter(
    settings: KdSettings, seed: int, order: list[int]
) -> None:
    one = scene((4, 4), seed)
    boxes, labels = one.truth
    other = one._replace(truth=GroundTruth(boxes[:, order], labels[:, order]))
    assert_close(term_of(other, settings), term_of(one, settings))


@pytest.mark.law
def test_as_published_each_level_of_three_images_has_a_mean_of_its_own() -> None:
    one = scene((1, 1, 1, 1))
    fine = [(0, 3), (0, 9), (2, 5)]
    coarse, fourth = [(1, FINE + 2)], [(3, 7)]
    value = {
        name: term_at(one, places, replace(PAPER, normalizer="rows"))
        for name, places in (("fine", fine), ("coarse", coarse), ("fourth", fourth))
    }
    expected = (value["fine"] + value["coarse"] + value["fourth"]) / 2
    places = sorted([*fine, *coarse, *fourth])
    assert_close(term_at(one, places, PAPER), expected)


@pytest.mark.law
def test_divided_by_rows_it_is_the_mean_of_the_rows() -> None:
    one = scene((1, 1))
    places = [(0, 3), (0, FINE + 4), (1, 0)]
    rows = at(places)
    values_P = softmax_kl(
        one.student.cls_logits[rows.image, rows.location],
        one.teacher.cls_logits[rows.image, rows.location],
        temperature=2.0,
    )
    by_rows = replace(PAPER, normalizer="rows", weight=1.0)
    assert_close(term_at(one, places, by_rows), values_P.mean() / CLASSES)
    assert_close(term_at(one, places, replace(by_rows, classes="sum")), values_P.mean())


@pytest.mark.law
@both
def test_rows_that_do_not_count_might_as_well_not_be_there(settings: KdSettings) -> None:
    one = scene((1, 1))
    places = [(0, 3), (0, FINE + 4), (1, 0), (1, FINE + 1)]
    student = student_of(one, rows_of(one.truth))
    counted = torch.tensor([1.0, 0.0, 1.0, 0.0])
    value = kd_term(student, region_rows(one.teacher, at(places)), counted, settings)
    assert_close(value, term_at(one, places[::2], settings))


@pytest.mark.law
def test_logits_of_the_class_alone_are_compared_where_a_head_has_them() -> None:
    one = scene((2,))
    bare = torch.randn(1, LOCATIONS, CLASSES, requires_grad=True)
    weighed = one._replace(student=one.student._replace(bare_cls_logits=bare))
    plain = one._replace(student=Predictions(bare, one.student.bbox_logits))
    assert_close(term_of(weighed, ROWS), term_of(plain, ROWS))
    (gradient,) = torch.autograd.grad(term_of(weighed, ROWS), bare)
    assert gradient.any()


@pytest.mark.law
@LAW
@given(seed=st.integers(0, 99), settings=st.sampled_from([PAPER, ROWS]))
def test_half_precision_rows_change_little(seed: int, settings: KdSettings) -> None:
    one = scene((2, 2), seed)
    rows = vlr_of(one.truth)
    student, teacher = student_of(one, rows_of(one.truth)), region_rows(one.teacher, rows)
    assert teacher.cls_logits is not None
    half = teacher._replace(cls_logits=teacher.cls_logits.half())
    counted = torch.ones(len(rows.image))
    whole, rounded = (kd_term(student, some, counted, settings) for some in (teacher, half))
    assert rounded.dtype == torch.float32
    assert_close(rounded, whole, atol=0, rtol=2e-3)


@pytest.mark.law
def test_a_teacher_without_classes_or_with_others_is_refused() -> None:
    one = scene((2,))
    rows = rows_of(one.truth)
    student, counted = student_of(one, rows), torch.ones(len(rows.image))
    silent = region_rows(one.teacher, rows)._replace(cls_logits=None)
    with pytest.raises(ValueError, match="no class logits"):
        kd_term(student, silent, counted, ROWS)
    other = silent._replace(cls_logits=torch.zeros(len(rows.image), 20))
    with pytest.raises(ValueError, match=r", 3\).*, 20\)"):
        kd_term(student, other, counted, ROWS)


@pytest.mark.law
@both
def test_terms_and_gradients_agree_in_double_precision(settings: KdSettings) -> None:
    one = scene((2, 1))
    rows = vlr_of(one.truth)
    student = student_of(one, rows_of(one.truth))
    teacher_PC = one.teacher.cls_logits[rows.image, rows.location].detach().double()
    teacher = RegionRows(rows, torch.zeros(len(rows.image), 4, 9), teacher_PC)
    counted = torch.ones(len(rows.image), dtype=torch.float64)

    def of(said_PC: Tensor) -> Tensor:
        cls = torch.zeros(one.student.cls_logits.shape, dtype=torch.float64)
        said = one.student._replace(cls_logits=cls.index_put(rows[:2], said_PC))
        return kd_term(student._replace(predictions=said), teacher, counted, settings)

    said_PC = one.student.cls_logits[rows.image, rows.location].detach().double()
    assert torch.autograd.gradcheck(of, said_PC.requires_grad_())


@pytest.mark.golden
@pytest.mark.parametrize(("case", "region"), PUBLISHED)
def test_the_term_equals_the_published_one_level_by_level(case: str, region: str) -> None:
    found = published_case(case)
    rows = {"main": found.main, "vlr": found.vlr}[region]
    loss = {"main": "loss_kd", "vlr": "kd_vlr_unmuted"}[region]
    levels = golden("ops_vlr").facts["cases"][case]["losses"][loss]
    for level, expected in enumerate(levels):
        some = part_of(rows, levels_of(rows.rows, found.canvas) == level)
        value = kd_term(found.student, some, torch.ones(len(some.rows.image)), PAPER)
        assert_close(value, torch.tensor(abs(expected)), rtol=1e-5, atol=1e-7)
    term = kd_term(found.student, rows, torch.ones(len(rows.rows.image)), PAPER)
    assert_close(term, torch.tensor(sum(levels)), rtol=1e-5, atol=0)

    published = golden("ops_vlr").tensors.get(f"{case}.grad.loss_kd")
    if region == "main" and published is not None:
        (gradient,) = torch.autograd.grad(term, found.student.predictions.cls_logits)
        ours = gradient[found.rows[:, 0], found.rows[:, 1]]
        assert_close(ours, published, rtol=1e-5, atol=1e-5 * published.abs().max().item())
        assert_close(gradient.abs().sum(), published.abs().sum())


@pytest.mark.golden
def test_the_term_of_the_waves_equals_the_published_one() -> None:
    levels = wave_terms(
        "main",
        lambda student, some: kd_term(student, some, torch.ones(len(some.rows.image)), PAPER),
    )
    expected = torch.tensor([0.775019, 1.080234, 0.815724, 0, 0])
    assert_close(levels, expected, rtol=1e-5, atol=0)
    assert_close(levels.sum(), torch.tensor(2.670977), rtol=1e-5, atol=0)
